"""``dpg-fast data personified``: a character's material, conversations and preference pairs, in the manner of PersLLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import (
    AGAIN,
    Encoding,
    OutFile,
    OutFolder,
    Seed,
    Similarity,
    option,
)
from dpg_fast.cli.servers import takes_server

if TYPE_CHECKING:
    from dpg_fast.llm.server import Server

personified = group("A character's material, conversations and preference pairs, in the manner of PersLLM.")

_Embedding = Annotated[
    str,
    option(
        'Embeddings: "tfidf" needs no model; "api:MODEL" asks a server; else the name of a sentence-transformers model.'
    ),
]
KnowledgeWords = Annotated[int, option("Words of knowledge that are given with a question.", min=1)]
StyleWords = Annotated[int, option("Words of style that are given with a question.", min=1)]
TestShare = Annotated[float, option("Share of the conversations that is kept for testing.")]
Shots = Annotated[int, option("Examples of STAGE/examples.jsonl that are shown before each call.", min=0)]
Guidance = Annotated[str, option("Text that is added to every prompt.")]


@personified.command("build")
@takes_server("writer", max_tokens=2000)
def build(
    character: Annotated[Path, typer.Argument(help="Folder with stages.yaml, STAGE/knowledge and STAGE/style.")],
    out: OutFolder,
    server: Server,
    items: Annotated[int, option("Number of conversations of each stage.", min=0)] = 200,
    ordinary: Annotated[float, option("Share of ordinary questions.")] = 0.5,
    thought: Annotated[float, option("Share of opinions to be discussed.")] = 0.25,
    error: Annotated[float, option("Share of false premises to be corrected.")] = 0.25,
    general: Annotated[int, option("Number of general instructions of each stage.", min=0)] = 20,
    general_file: Annotated[
        Path | None, option('File of other general instructions, one a line, or JSON Lines with "instruction".')
    ] = None,
    turns: Annotated[int, option("Exchanges of a conversation.", min=1)] = 1,
    cross: Annotated[
        float, option("Share of the questions that the other stages answer too, for preference pairs.")
    ] = 0.25,
    embedding: _Embedding = "tfidf",
    knowledge_words: KnowledgeWords = 1300,
    style_words: StyleWords = 350,
    similarity: Similarity = 0.95,
    test: TestShare = 0.2,
    verify: Annotated[bool, option("Let the model judge each answer by its material.")] = True,
    rounds: Annotated[
        int, option("Rounds in which conversations are asked for; later ones replace what was lost.", min=1)
    ] = 2,
    candidates: Annotated[int, option("Most answers that are asked for until one passes.", min=1)] = 1,
    shots: Shots = 0,
    written: Annotated[
        bool, option("Add STAGE/examples.jsonl to the records, marked as written by hand.", "--written")
    ] = False,
    per_paragraph: Annotated[int, option("Most user turns that are made from one paragraph.", min=1)] = 12,
    guidance: Guidance = "",
    refusal: Annotated[str, option("Response to questions that the person could not answer.")] = "Refused.",
    unreviewed: Annotated[bool, option("Use material that nobody has looked through.", "--unreviewed")] = False,
    encoding: Encoding = None,
    seed: Seed = 0,
) -> None:
    """Write a character's conversations with a language model. A killed run continues without paying twice."""
    from dpg_fast.cli.personified_run import run_build
    from dpg_fast.personified.data.retrieval import Budget
    from dpg_fast.personified.data.slots import PersonifySettings

    settings = PersonifySettings(
        items=items,
        ordinary=ordinary,
        thought=thought,
        error=error,
        general=general,
        turns=turns,
        cross=cross,
        budget=Budget(knowledge_words, style_words),
        similarity=similarity,
        test=test,
        verify=verify,
        rounds=rounds,
        candidates=candidates,
        shots=shots,
        written=written,
        per_paragraph=per_paragraph,
        guidance=guidance,
        refusal=refusal,
        seed=seed,
    )
    complete = run_build(character, out, settings, server, embedding, general_file, encoding, unreviewed)
    if not complete:
        raise typer.Exit(1)


@personified.command("material")
@takes_server("writer", max_tokens=4000)
def material(
    novel: Annotated[Path, typer.Argument(help="A txt, md, html or epub file, or a folder of them.")],
    name: Annotated[str, option("Name of the character.")],
    out: OutFolder,
    server: Server,
    alias: Annotated[list[str] | None, option("Another name of the character." + AGAIN)] = None,
    everything: Annotated[
        bool, option("Also read passages without the name, as a narrator called I needs.", "--everything")
    ] = False,
    stages: Annotated[
        Path | None,
        option('YAML file of stages: [{id: early, time: "It is 1936.", belongs: "before the wedding"}, ...].'),
    ] = None,
    stage_count: Annotated[int, option("Number of stages to propose where none are given.", min=1, max=10)] = 2,
    language: Annotated[str, option("Two-letter code of the text's language.")] = "en",
    encoding: Encoding = None,
) -> None:
    """Take a character out of a novel or a wiki: facts and own words, by stages, to be looked through before use."""
    from dpg_fast.cli.personified_run import run_material
    from dpg_fast.personified.data.novel import Wanted, load_stages

    wanted = Wanted(
        name=name,
        aliases=tuple(alias or ()),
        language=language,
        everything=everything,
        stages=() if stages is None else load_stages(stages),
        stage_count=stage_count,
    )
    complete = run_material(novel, out, wanted, server, encoding)
    if not complete:
        raise typer.Exit(1)


@personified.command("check")
def check(
    character: Annotated[Path, typer.Argument(help="Folder with stages.yaml, STAGE/knowledge and STAGE/style.")],
    encoding: Encoding = None,
) -> None:
    """Read a character's folder and show its stages, paragraphs, words and what was repaired. Nothing is sent."""
    from dpg_fast.cli.personified_run import show_character

    show_character(character, encoding)


@personified.command("lessons")
def lessons(
    characters: Annotated[
        list[Path], typer.Argument(help="Folders with STAGE/examples.jsonl, one for each character.")
    ],
    out: OutFile,
    shots: Shots = 1,
    knowledge_words: KnowledgeWords = 1300,
    style_words: StyleWords = 350,
    test: TestShare = 0.2,
    guidance: Guidance = "",
    encoding: Encoding = None,
    seed: Seed = 0,
) -> None:
    """Write the prompts of `build` with replies written by hand, to fine-tune a small model as a writer. Nothing is sent.

    The settings are to be those that `build` will get.
    """
    from dpg_fast.cli.personified_run import run_lessons
    from dpg_fast.personified.data.retrieval import Budget
    from dpg_fast.personified.data.slots import PersonifySettings

    budget = Budget(knowledge_words, style_words)
    settings = PersonifySettings(
        items=1, general=0, budget=budget, test=test, shots=shots, guidance=guidance, seed=seed
    )
    run_lessons(characters, out, settings, encoding=encoding)


@personified.command("pairs")
def pairs(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `build` has written, one for each character.")],
    out: OutFolder,
    skip: Annotated[int, option("Number of nearest questions of others that are passed over.", min=0)] = 5,
    highest: Annotated[float | None, option("Take only questions that are less similar than this.")] = None,
    mirrored: Annotated[bool, option("Also make pairs between stages under the other stage's label.")] = True,
    analysis: Annotated[bool, option("Keep the analyses on both sides.")] = True,
    embedding: _Embedding = "tfidf",
    embedding_url: Annotated[
        str | None, option("Address of the server of api: embeddings; OpenAI's by default.")
    ] = None,
    embedding_key_env: Annotated[
        str, option("Environment variable that holds the API key for embeddings.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Make preference pairs for DPO without human labels: the answers of other personalities and stages are rejected."""
    from dpg_fast.cli.personified_run import run_pairs
    from dpg_fast.llm.server import Server
    from dpg_fast.personified.data.pairs import PairSettings

    settings = PairSettings(skip=skip, highest=highest, mirrored=mirrored, analysis=analysis)
    run_pairs(folders, out, settings, embedding, Server("embedding", embedding_url, embedding_key_env))
