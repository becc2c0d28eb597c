"""``dpg-fast data personified``: a character's material, conversations and preference pairs, in the manner of PersLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.cli.server_options import BaseUrl, KeyVariable, ServerOptions, asks_a_server

personified = typer.Typer(
    help="A character's material, conversations and preference pairs, in the manner of PersLLM.", no_args_is_help=True
)

_Encoding = Annotated[str | None, typer.Option(help="Encoding of txt, md and html files; guessed by default.")]
_Embedding = Annotated[
    str, typer.Option(help='"tfidf" (no model), "api:MODEL" or a sentence-transformers model (PersLLM: gtr-t5-base).')
]


@personified.command("build")
@asks_a_server(max_tokens=2000)
def build(
    character: Annotated[Path, typer.Argument(help="Folder with stages.yaml, STAGE/knowledge and STAGE/style.")],
    out: Annotated[Path, typer.Option(help="Folder to write; a killed run continues in it.")],
    items: Annotated[int, typer.Option(min=0, help="Conversations of each stage.")] = 200,
    ordinary: Annotated[float, typer.Option(help="Share of ordinary questions.")] = 0.5,
    thought: Annotated[float, typer.Option(help="Share of opinions to be discussed.")] = 0.25,
    error: Annotated[float, typer.Option(help="Share of false premises to be corrected.")] = 0.25,
    general: Annotated[int, typer.Option(min=0, help="General instructions of each stage.")] = 20,
    general_file: Annotated[
        Path | None, typer.Option(help='Other general instructions: one a line, or JSON Lines with "instruction".')
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="Exchanges of a conversation.")] = 1,
    cross: Annotated[
        float, typer.Option(help="Share of the questions that the other stages answer too, for pairs.")
    ] = 0.25,
    embedding: _Embedding = "tfidf",
    knowledge_words: Annotated[int, typer.Option(min=1, help="Words of knowledge given with a question.")] = 1300,
    style_words: Annotated[int, typer.Option(min=1, help="Words of style given with a question.")] = 350,
    similarity: Annotated[float, typer.Option(help="Cosine from which a question repeats another.")] = 0.95,
    test: Annotated[float, typer.Option(help="Share kept for testing.")] = 0.2,
    verify: Annotated[bool, typer.Option(help="Let the model judge each answer by its materials.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="How often what was lost is replaced.")] = 2,
    candidates: Annotated[int, typer.Option(min=1, help="Answers asked for until one passes.")] = 1,
    shots: Annotated[
        int, typer.Option(min=0, help="Examples from STAGE/examples.jsonl that are shown before each call.")
    ] = 0,
    written: Annotated[
        bool, typer.Option("--written", help="Put STAGE/examples.jsonl among the records, marked as written by hand.")
    ] = False,
    per_paragraph: Annotated[int, typer.Option(min=1, help="User turns from one paragraph, at most.")] = 12,
    guidance: Annotated[str, typer.Option(help="Added to every prompt.")] = "",
    refusal: Annotated[str, typer.Option(help="Response to what the person could not know.")] = "Refused.",
    unreviewed: Annotated[
        bool, typer.Option("--unreviewed", help="Use material that nobody has looked through.")
    ] = False,
    encoding: _Encoding = None,
    seed: int = 0,
    *,
    server: ServerOptions,
) -> None:
    """Write a character's conversations with a language model. A killed run continues without paying twice."""
    with one_line_errors("dpg-fast data personified build"):
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
@asks_a_server(max_tokens=4000)
def material(
    novel: Annotated[Path, typer.Argument(help="A txt, md, html or epub file, or a folder of them.")],
    character: Annotated[str, typer.Option(help="Name of the character.")],
    out: Annotated[Path, typer.Option(help="Folder to write; a killed run continues in it.")],
    alias: Annotated[list[str] | None, typer.Option(help="Another name of the character; repeatable.")] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Read also passages without the name (a narrator called I).")
    ] = False,
    stages: Annotated[
        Path | None, typer.Option(help='YAML: [{id: early, time: "It is 1936.", belongs: "before the wedding"}, ...].')
    ] = None,
    stage_count: Annotated[int, typer.Option(min=1, max=10, help="Stages to propose where none are given.")] = 2,
    language: Annotated[str, typer.Option(help="Two-letter code of the text's language.")] = "en",
    encoding: _Encoding = None,
    *,
    server: ServerOptions,
) -> None:
    """Take a character out of a novel or a wiki: facts and own words, by stages, to be looked through before use."""
    with one_line_errors("dpg-fast data personified material"):
        from dpg_fast.cli.personified_run import run_material
        from dpg_fast.personified.data.novel import Wanted, load_stages

        wanted = Wanted(
            name=character,
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
    encoding: _Encoding = None,
) -> None:
    """Read a character's folder and show its stages, paragraphs, words and what was repaired. Costs nothing."""
    with one_line_errors("dpg-fast data personified check"):
        from dpg_fast.cli.personified_run import show_character

        show_character(character, encoding)


@personified.command("lessons")
def lessons(
    characters: Annotated[
        list[Path], typer.Argument(help="Folders with STAGE/examples.jsonl, one for each character.")
    ],
    out: Annotated[Path, typer.Option(help="JSON Lines to write, in TRL's prompt and completion form.")],
    shots: Annotated[int, typer.Option(min=0, help="As `build` will be called.")] = 1,
    knowledge_words: Annotated[int, typer.Option(min=1, help="As `build` will be called.")] = 1300,
    style_words: Annotated[int, typer.Option(min=1, help="As `build` will be called.")] = 350,
    test: Annotated[float, typer.Option(help="As `build` will be called: test records are left out.")] = 0.2,
    guidance: Annotated[str, typer.Option(help="As `build` will be called.")] = "",
    encoding: _Encoding = None,
    seed: Annotated[int, typer.Option(help="As `build` will be called.")] = 0,
) -> None:
    """The prompts of `build` with the replies written by hand, to fine-tune a small model as a writer. Costs nothing."""
    with one_line_errors("dpg-fast data personified lessons"):
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
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    skip: Annotated[int, typer.Option(min=0, help="Nearest questions of others passed over.")] = 5,
    highest: Annotated[float | None, typer.Option(help="Take only questions less similar than this.")] = None,
    mirrored: Annotated[bool, typer.Option(help="Between stages, also pairs under the other stage's label.")] = True,
    analysis: Annotated[bool, typer.Option(help="Keep the analyses in both sides.")] = True,
    embedding: _Embedding = "tfidf",
    model: Annotated[str, typer.Option(help="Only with api: embeddings; names the server's model.")] = "embedding",
    base_url: BaseUrl = None,
    api_key_variable: KeyVariable = "OPENAI_API_KEY",
) -> None:
    """Preference pairs for automatic DPO: other personalities' and other stages' answers are rejected. No human labels."""
    with one_line_errors("dpg-fast data personified pairs"):
        from dpg_fast.cli.personified_run import run_pairs
        from dpg_fast.personified.data.pairs import PairSettings

        settings = PairSettings(skip=skip, highest=highest, mirrored=mirrored, analysis=analysis)
        run_pairs(folders, out, settings, embedding, ServerOptions(model, base_url, api_key_variable))
