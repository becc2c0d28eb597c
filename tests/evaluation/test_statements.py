"""Statements by others as a witness: separation by hand, likelihoods on a tiny model, files, resuming, the command."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.cli.app import app
from dpg_fast.evaluation import BareModel, WrappedModel
from dpg_fast.evaluation.harness import Examinee
from dpg_fast.evaluation.methods import PersonaPrompt
from dpg_fast.evaluation.witnesses.separation import Sample, points, separation
from dpg_fast.evaluation.witnesses.statement_run import StatementPlan, hear_statements, separation_section
from dpg_fast.evaluation.witnesses.statements import (
    QUESTION,
    Statement,
    chosen,
    inventory_statements,
    load_statements,
    log_likelihoods,
    shift_samples,
)
from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.reporting import Table
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.prompting import chat_prompt
from tests.support.shared import shared_data

E, N = Trait.EXTRAVERSION, Trait.NEUROTICISM
STATEMENTS = [Statement("I sing.", E, True), Statement("I hide.", E, False)] * 2 + [
    Statement("I fret.", N, True),
    Statement("I rest.", N, False),
]


def test_separation_by_hand() -> None:
    high, low = np.array([3.0, 1.0, np.nan]), np.array([2.0, 0.0, -1.0])
    samples = {
        (E, E): Sample(high, low, "a", "b"),  # 3 > 2, 0, -1; 1 > 0, -1: 5 of 6 pairs
        (E, N): Sample(low, low + 10, "b", "b"),
        (N, N): Sample(high, np.full(3, np.nan), "a", "c"),
    }
    assert points(samples)[E, E] == pytest.approx(5 / 6) and math.isnan(points(samples)[N, N])
    found = separation(samples, resamples=200)
    assert found.cells[E, E].estimate == pytest.approx(5 / 6)
    assert found.cells[E, E].low < 5 / 6 <= found.cells[E, E].high <= 1
    assert (found.cells[E, N].estimate, found.cells[E, N].low, found.cells[E, N].high) == (0, 0, 0)
    assert found.diagonal.estimate == pytest.approx(5 / 6) and found.bleed.estimate == 1
    assert found.to_dict()["auc"]["neuroticism"]["neuroticism"]["estimate"] is None


def test_shifts_are_told_apart_by_the_trait_of_the_statement() -> None:
    samples = shift_samples(STATEMENTS, {E: [2.0, -1.0, 1.0, -2.0, 0.0, 5.0]})
    assert points(samples) == {(E, E): 1.0, (E, N): 0.0}


def test_likelihood_is_that_of_the_whole_answer(tiny_llama: Any, byte_tokenizer: Any) -> None:
    texts = ["I sing.", "I <|end|> hide."]  # a control token is text here
    found = log_likelihoods(Examinee(tiny_llama, None, "Be E."), byte_tokenizer, texts, "Answer.", batch_size=2)
    prompt = chat_prompt(byte_tokenizer, [{"role": "user", "content": QUESTION}], system="Be E. Answer.")
    start = byte_tokenizer(prompt, add_special_tokens=False)["input_ids"]
    for text, value in zip(texts, found, strict=True):
        own = byte_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert 0 not in own and len(own) == len(text)
        logits = tiny_llama(torch.tensor([start + own])).logits[0].log_softmax(-1).detach()
        wanted = sum(float(logits[len(start) + i - 1, token]) for i, token in enumerate(own))
        assert value == pytest.approx(wanted, abs=1e-3)


def test_the_persona_prompt_stands_before_and_after(tiny_llama: Any, byte_tokenizer: Any) -> None:
    method = PersonaPrompt(tiny_llama, byte_tokenizer, AnswerSettings(system="Be.", max_new_tokens=2))
    words = method.persona(Personality("E+5"))
    seen: list[str] = []
    encode = byte_tokenizer.__class__.__call__

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(byte_tokenizer, name)

        def __call__(self, text: Any, **options: Any) -> Any:
            seen.extend([text] if isinstance(text, str) else text)
            return encode(byte_tokenizer, text, **options)

    method.tokenizer = Watched()
    method.answer(["Why?", "How?"], [Personality("E+5"), None])
    assert seen[0].count(words) == 2 and seen[0].index(words) < seen[0].index("Why?") < seen[0].rindex(words)
    assert words not in seen[1] and "Be." in seen[1] and "Be." not in seen[0]
    seen.clear()
    log_likelihoods(method.examinee(Personality("E+5")), method.tokenizer, ["I sing."], "Be.")
    assert seen[0].index(words) < seen[0].index(QUESTION) < seen[0].rindex(words)


def test_words_behind_the_question_reach_tasks(tiny_llama: Any, byte_tokenizer: Any) -> None:
    pytest.importorskip("lm_eval")
    from dpg_fast.evaluation.harness.model import PersonalityLM
    from dpg_fast.evaluation.harness.run import run_task

    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "Why?"}]
    text = PersonalityLM(tiny_llama, byte_tokenizer, None, closing="You sing.").apply_chat_template(asked)
    assert "Why?\n\nYou sing.<|end|>" in text and asked[1]["content"] == "Why?"
    with pytest.raises(ValueError, match="chat format"):
        run_task(Examinee(tiny_llama, None, "", "You sing."), byte_tokenizer, "facts", {True: None}, "all", 1, False, 1)


def test_every_method_is_heard_and_a_killed_run_continues(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AnswerSettings(system="Be.")
    hypernet = HyperNetwork(HypernetConfig(rank=2), find_architecture(tiny_llama).sites)
    hypernet.randomize_(torch.Generator().manual_seed(0))
    methods = [
        BareModel(tiny_llama, byte_tokenizer, settings),
        PersonaPrompt(tiny_llama, byte_tokenizer, settings),
        WrappedModel("hypernetwork", tiny_llama, byte_tokenizer, settings, hypernet=hypernet),
    ]
    plan = StatementPlan(STATEMENTS, "tests", [E, N])
    found = hear_statements(methods, byte_tokenizer, plan, tmp_path, {}, resamples=20)
    assert set(found) == {"persona prompt", "hypernetwork"}
    assert set(found["hypernetwork"].cells) == {(E, E), (E, N), (N, E), (N, N)}
    model = PersonalityModel.from_model(tiny_llama, hypernet=hypernet)
    high, low = (
        log_likelihoods(Examinee(model, Personality({N: level})), byte_tokenizer, ["I fret.", "I rest."], plan.system)
        for level in (5.0, -5.0)
    )
    model.unload()
    rises = high[0] - low[0] > high[1] - low[1]
    assert found["hypernetwork"].cells[N, N].estimate == float(rises)
    monkeypatch.setattr(PersonaPrompt, "examinee", lambda *_: pytest.fail("asked again"))
    lines = (tmp_path / "statements" / "hypernetwork.jsonl").read_text().splitlines()
    (tmp_path / "statements" / "hypernetwork.jsonl").write_text("\n".join(lines[:3]) + "\n")
    assert hear_statements(methods, byte_tokenizer, plan, tmp_path, {}, resamples=20) == found
    with pytest.raises(ValueError, match="another run"):
        hear_statements(methods, byte_tokenizer, StatementPlan(STATEMENTS[:2], "tests", [E]), tmp_path, {})
    section = separation_section("S", plan.describe(), found)
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [row[0] for row in tables[0].rows] == ["persona prompt", "hypernetwork"] and len(tables[1].rows) == 4


def test_statements_are_read_and_drawn_evenly(tmp_path: Path) -> None:
    rows = [{"statement": f"I {n}.", "answer_matching_behavior": " Yes" if n % 3 else " No"} for n in range(9)]
    file = tmp_path / "extraversion.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_statements(tmp_path, [E])
    assert Counter(one.high for one in read) == {True: 6, False: 3}
    assert Counter(one.high for one in chosen(read, [E], 4)) == {True: 2, False: 2}
    assert chosen(read, [E], 4) == chosen(read, [E], 4) != chosen(read, [E], 4, seed=1)
    for count, message in ((3, "even"), (8, "3 statements of low extraversion; 4 are needed")):
        with pytest.raises(ValueError, match=message):
            chosen(read, [E], count)
    with pytest.raises(ValueError, match="0 statements of high neuroticism"):
        chosen(read, [N], None)
    for row, message in (
        ({"statement": "I."}, "answer_matching_behavior"),
        ({"statement": " ", "answer_matching_behavior": " No"}, "line 1: the statement is empty"),
        ({"statement": "I.", "answer_matching_behavior": "Maybe"}, "answer_matching_behavior"),
    ):
        file.write_text(json.dumps(row))
        with pytest.raises(ValueError, match=message):
            load_statements(tmp_path, [E])


def test_items_of_an_inventory_are_statements() -> None:
    inventory = bundled_inventory()
    found = inventory_statements(inventory)
    reverse = next(item for item in inventory.items if item.reverse)
    assert Statement(inventory.statement(reverse), reverse.trait, False) in found and len(found) == len(inventory.items)


def test_published_statements_are_read() -> None:
    found = load_statements(shared_data("persona_statements"))
    assert Counter((one.trait, one.high) for one in found) == {(t, high): 150 for t in Trait for high in (True, False)}


def test_the_command_refuses_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dpg_fast.evaluation.witnesses.statement_run.load_base", lambda *_: pytest.fail("the model was loaded")
    )
    for arguments, message in (
        (["--statements", str(tmp_path), "--inventory", "bundled"], "name one of them"),
        (["--items", str(tmp_path)], "--inventory"),
        (["--statements", str(tmp_path)], "openness.jsonl"),
        (["--inventory", "bundled", "--count", "3"], "even"),
        (["--inventory", "bundled", "--methods", "magic"], "unknown methods magic"),
        (["--inventory", "bundled", "--methods", ""], "at least one method"),
        (["--inventory", "bundled", "--base-model", "x", "--hypernet", "y"], "--adapter"),
    ):
        result = CliRunner().invoke(app, ["assess", "statements", *arguments])
        assert result.exit_code == 2 and message in result.output, result.output


@pytest.mark.slow
def test_shipped_hypernetwork_is_told_apart_by_items_of_an_inventory(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpg_fast.evaluation.witnesses.statement_run.load_base", lambda *_: smollm2)
    arguments = ["--inventory", "bundled", "--methods", "hypernet", "--traits", "EN", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["assess", "statements", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    cells = json.loads((tmp_path / "out" / "report.json").read_text())["methods"]["hypernetwork"]["auc"]
    assert cells["extraversion"]["extraversion"]["estimate"] > 0.65 and "hypernetwork" in result.output
    assert cells["neuroticism"]["neuroticism"]["low"] > 0.5
