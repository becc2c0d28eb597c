"""Every code block of the README and of docs/: commands exist, and run with options that make them short; Python runs as written.

A page without a setting below runs as it stands in an empty folder. What costs more than seconds is left to the slow run.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dpg_fast import Personality, PersonalityModel
from dpg_fast.cli.demo import adapter_directory
from dpg_fast.hypernet import CombinedNetwork, HypernetConfig, HyperNetwork, encoders
from dpg_fast.judges.stance import RULE, rule_stance
from dpg_fast.judges.validation.agreement import read_ratings
from dpg_fast.personality.scores import Pole, Trait
from dpg_fast.personality.stages import read_card
from dpg_fast.questionnaire.inventory import bundled_inventory, parse_inventory
from dpg_fast.simulate.scenario import load_scenario
from dpg_fast.text.assets import load_descriptions, load_questions
from dpg_fast.util.store import read_rows
from tests.llm.server import Answer, serve
from tests.model.characters import write_character
from tests.model.test_wrapper import personality_model
from tests.model.tiny import tiny_model
from tests.personified.data.annotator import Annotator
from tests.personified.data.test_novel import novel
from tests.server.running import running as server
from tests.support import ROOT
from tests.support.docs import KINDS, PAGES, Run, blocks, check_command, commands

URL = "http://localhost:8000/v1"
Setting = Callable[[Run, pytest.FixtureRequest, bool], AbstractContextManager[None]]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_known_kinds_and_links_lead_somewhere(page: str) -> None:

    assert {block.kind for block in blocks(page)} <= KINDS
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_exist(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_command(line)


@contextmanager
def readme(run: Run, request: pytest.FixtureRequest, slow: bool) -> Iterator[None]:
    request.getfixturevalue("smollm2")
    run.more = {
        "dpg-fast demo": None,  # tests/cli/test_cli.py runs it
        "dpg-fast neurons find": ["--traits", "E", "--repeats", "1", "--max-new-tokens", "2"] if slow else None,
        "dpg-fast neurons calibrate": ["--traits", "E", "--questions", "1", "--steps", "2", "--max-new-tokens", "2"]
        if slow
        else None,
    }
    yield


@contextmanager
def assessment(run: Run, request: pytest.FixtureRequest, slow: bool) -> Iterator[None]:
    """The tiny model answers six items; the package's own judge reads two turns."""
    base, tokenizer = request.getfixturevalue("tiny_llama"), request.getfixturevalue("byte_tokenizer")
    base.save_pretrained("tiny")
    tokenizer.save_pretrained("tiny")
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=2))
    assert isinstance(model.hypernet, HyperNetwork)
    model.hypernet.randomize_(torch.Generator().manual_seed(0))
    model.eval().save_pretrained("adapter")
    inventory = bundled_inventory()
    items = inventory.items
    type(inventory)(**{**vars(inventory), "items": (*items[:2], *items[12:14], *items[24:26])}).save(Path("six.jsonl"))
    rng = np.random.default_rng(0)
    for name in ("first", "second"):
        rows = [{"id": n, "scores": {t.value: float(rng.integers(-5, 6)) for t in Trait}} for n in range(5)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.replace = {"--base-model smollm2": "--base-model tiny", "--adapter smollm2": "--adapter adapter"}
    small = ["--population", "3", "--forms", "2", "--batch-size", "64", "--inventory", "six.jsonl"]
    run.more = {
        "dpg-fast assess questionnaire": small,
        "dpg-fast assess compare": ["--resamples", "5"],
        "dpg-fast assess agreement": ["--resamples", "5"],
        "dpg-fast assess drift": ["--limit", "2", "--max-new-tokens", "3", "--base-model", "tiny"],
        "dpg-fast assess fit-judge --out": None,  # a quarter of an hour; the line after it is its short form
    }
    yield
    assert all("<script" not in page.read_text(encoding="utf-8") for page in Path().rglob("report.html"))


def judge_replies(body: dict[str, Any], number: int) -> Answer:
    if body["messages"][0]["content"].startswith("You compare several"):
        return Answer(json.dumps({letter: {"reason": "of the words", "rank": 1} for letter in "ab"}))
    if "rating" in body["response_format"]["json_schema"]["schema"]["properties"]:
        return Answer('{"explanation": "of the words", "rating": 4}')
    quote = "go dancing" if "dancing" in str(body["messages"]) else "rather finish my book"
    return Answer(json.dumps({t.value: {"quotes": [quote], "level": 3, "confidence": "high"} for t in Trait}))


@contextmanager
def judging(run: Run, request: pytest.FixtureRequest, slow: bool) -> Iterator[None]:
    for name, block in zip(("dialogues.jsonl", "answers.jsonl"), run.blocks("json"), strict=True):
        Path(name).write_text(block.code)
    if slow:
        request.getfixturevalue("smollm2")
    run.more = {"dpg-fast assess judge dialogues.jsonl --out likelihood": ["--traits", "E"] if slow else None}
    command = run.command

    def answer_the_batch(line: str) -> None:
        if "--batch-import" in line:
            body = json.loads(Path("requests.jsonl").read_text())
            message = {"content": judge_replies(body["body"], 0).content}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            response = {"status_code": 200, "body": {"model": "m", "choices": [choice]}}
            row = {"custom_id": body["custom_id"], "response": response, "error": None}
            Path("results.jsonl").write_text(json.dumps(row) + "\n")
        command(line)

    run.command = answer_the_batch  # type: ignore[method-assign]
    with serve(judge_replies) as server:
        run.replace = {URL: server.url}
        yield
    for name, score in (("evidence", 3), ("batched", 3), ("ratings", 2.5)):
        (row,) = read_rows(Path(f"{name}.jsonl"))
        assert row["character"] == "Hermione" and row["scores"]["extraversion"] == score


@contextmanager
def llm(run: Run, request: pytest.FixtureRequest, slow: bool) -> Iterator[None]:
    questions = [row.question for row in load_questions(Trait.EXTRAVERSION, "holdout")]

    def fetch(folder: Path, part: str) -> Path:  # the download itself is tested with the published questions
        folder.mkdir()
        row = {}
        for trait in Trait:
            name = trait.value.capitalize()
            (folder / f"{name}.jsonl").write_text(json.dumps({"question": questions[0]}) + "\n")
            for end in ("", "_reversed"):
                row[name + end] = load_descriptions(Pole(trait, not end), "search")[0].text
        (folder / "descriptions.jsonl").write_text(json.dumps(row) + "\n")
        return folder

    def replies(body: dict[str, Any], number: int) -> Answer:
        mood = "Which mood?" in str(body["messages"])
        return Answer(json.dumps({"mood": "wistful"} if mood else {"question": questions[number % len(questions)]}))

    request.getfixturevalue("monkeypatch").setattr("dpg_fast.data.questions.published.fetch_personalitybench", fetch)
    run.more = {"dpg-fast questions build": ["--traits", "E", "--count", "3", "--descriptions", "0"]}
    with serve(replies) as server:
        run.replace = {URL: server.url}
        yield
    assert len(Path("by_example/Extraversion.jsonl").read_text().splitlines()) == 3


@contextmanager
def personified(run: Run, request: pytest.FixtureRequest, slow: bool) -> Iterator[None]:
    """Data from a server that annotates by rule; training runs in tests/personified/train."""
    shutil.copytree(ROOT / "recipes" / "characters", "recipes/characters")
    novel(run.folder)
    run.more = {"accelerate launch": None, "dpg-fast evaluate personified": None, "dpg-fast train": None}
    if not slow:
        run.without = ("Training", "Serving characters")
        with serve(Annotator()) as server:
            run.replace = {URL: server.url}
            yield
        return
    base, tokenizer = request.getfixturevalue("smollm2")
    for seed, name in enumerate(("marit_oss", "anselm_voss")):
        folder = Path("runs", name, "adapter")
        write_character(base, folder, name, seed, tokenizer=tokenizer, targets=("v_proj",), std=0.02)
    shutil.copytree("runs/marit_oss/adapter", "runs/marit/dpo/adapter")
    run.without = ("Personified data", "A character's folder", "Conversations", "Preference pairs")
    yield
    model, people = run.namespace["model"], run.namespace["people"]
    assert isinstance(model.hypernet, CombinedNetwork)
    again = PersonalityModel.load(model.unload(), "everybody")
    assert len(again.chat("Well?", personality=people, tokenizer=tokenizer, max_new_tokens=2)) == 5
    assert torch.equal(again.hypernet.stages.rows, model.hypernet.stages.rows)  # type: ignore[union-attr]
    assert read_card("outgoing_marit").stages == {"early": "TIME-I", "late": "TIME-II"}
    assert again.stage_token_id(Personality("@anselm_voss/late")) == 49155


@contextmanager
def encoder_page(run: Run, request: pytest.FixtureRequest, slow: bool) -> Iterator[None]:
    request.getfixturevalue("monkeypatch").setattr(encoders, "REFERENCE_TEXTS", 16)
    run.namespace |= {
        "base": tiny_model("llama", vocab_size=258),
        "tokenizer": request.getfixturevalue("byte_tokenizer"),
    }
    run.more = {"dpg-fast train hypernet": None}  # a quarter of an hour each; tests/train runs it on a small model
    yield
    assert Path("my_lora/adapter_model.safetensors").is_file()


def checked(*commands: str) -> Setting:
    """A page whose commands that begin so are not run: other tests run them on small models."""

    def setting(run: Run, request: pytest.FixtureRequest, slow: bool) -> AbstractContextManager[None]:
        run.more = dict.fromkeys(commands)
        return nullcontext()

    return setting


@contextmanager
def serving(run: Run, request: pytest.FixtureRequest, slow: bool) -> Iterator[None]:
    """A tiny model answers under the name of the page's; the command itself is not run here."""
    base, tokenizer = request.getfixturevalue("tiny_llama"), request.getfixturevalue("byte_tokenizer")
    run.more = {"dpg-fast serve": None}
    with server(personality_model(base), tokenizer) as held:
        run.replace = {"http://127.0.0.1:8000": held.url, 'model="smollm2"': 'model="tiny", max_tokens=8'}
        yield
    assert run.namespace["answer"].usage.completion_tokens <= 8


SETTINGS: dict[str, Setting] = {
    "README.md": readme,
    "recipes/README.md": checked(""),
    "docs/assessment.md": assessment,
    "docs/data.md": checked("dpg-fast data scripts build samples --out data --judge likelihood"),
    "docs/encoders.md": encoder_page,
    "docs/judging.md": judging,
    "docs/llm.md": llm,
    "docs/measuring.md": checked(""),
    "docs/hypernetworks.md": checked(""),
    "docs/personified.md": personified,
    "docs/serving.md": serving,
    "docs/quickstart.md": checked("dpg-fast"),
    "docs/responsible_use.md": checked(""),
    "docs/your_model.md": checked("dpg-fast"),
    "docs/simulate.md": checked(""),
    "docs/witnesses.md": checked(""),
}
SLOW = ("README.md", "docs/assessment.md", "docs/judging.md", "docs/personified.md")
QUICK = [
    page for page in PAGES if page != "docs/assessment.md" and any(b.kind in ("bash", "python") for b in blocks(page))
]


def run_blocks(page: str, folder: Path, request: pytest.FixtureRequest, slow: bool) -> None:
    request.getfixturevalue("monkeypatch").chdir(folder)
    run = Run(page, folder)
    with SETTINGS.get(page, checked())(run, request, slow):
        for block in run.blocks("bash", "python"):
            run(block)


@pytest.mark.parametrize("page", QUICK)
def test_blocks_run(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run_blocks(page, tmp_path, request, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_slow_blocks_run(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for module in ("matplotlib", "lm_eval"):
        pytest.importorskip(module)
    if page == "README.md":
        shutil.copytree(adapter_directory(), tmp_path / "my_adapter")
    run_blocks(page, tmp_path, request, slow=True)


def test_examples_of_files_are_read(tmp_path: Path) -> None:
    inventory, judgement = (block.code for block in blocks("docs/assessment.md") if block.kind == "json")
    assert [item.reverse for item in parse_inventory(inventory, "docs").items] == [False, True]
    (tmp_path / "judge.jsonl").write_text(judgement, encoding="utf-8")
    (scores,) = read_ratings(tmp_path / "judge.jsonl").scores.values()
    assert scores[Trait.EXTRAVERSION.position] == -3 and np.isfinite(scores).sum() == 1
    (scenario,) = (block.code for block in blocks("docs/simulate.md") if block.kind == "yaml")
    (tmp_path / "talk.yaml").write_text(scenario, encoding="utf-8")
    assert load_scenario(tmp_path / "talk.yaml").names == ["Ruth", "Tomas"]
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert yaml.safe_load(recipe.read_text(encoding="utf-8"))


def test_figures_of_the_stance_rule_are_those_of_the_examples() -> None:
    rows = [json.loads(r) for r in (ROOT / "tests/judges/stance_examples.jsonl").read_text("utf-8").splitlines()]
    said = [
        (row["stance"] == "disagrees", rule_stance(row["reply"]) == "disagrees")
        for row in rows
        if row["split"] == "holdout"
    ]
    share = round(100 * sum(a == b for a, b in said) / len(said))
    found, right, missed = sum(b for _, b in said), sum(a and b for a, b in said), sum(a > b for a, b in said)
    text = " ".join((ROOT / "docs" / "simulate.md").read_text(encoding="utf-8").split())
    for number in (
        f"{len(said)} replies",
        f"{share} %",
        f"{right} of {found}",
        f"{missed} of {sum(a for a, _ in said)}",
    ):
        assert number in text
    assert f"{len(said)} held-out replies it tells {share} %" in RULE


def test_reasons_that_the_code_points_to_are_there() -> None:
    headings = set(re.findall(r"^##+ (.*)$", (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8"), re.M))
    for path in (ROOT / "dpg_fast").rglob("*.py"):
        for title in re.findall(r'docs/decisions\.md, "([^"]+)"', path.read_text(encoding="utf-8")):
            assert title in headings, f"{path}: {title}"
