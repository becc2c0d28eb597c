"""The tasks run in lm-evaluation-harness, with its own models and with a personality."""

from __future__ import annotations

import json
import math
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.evaluation.harness_tasks import TASKS, choose, inventory, rate, situations, tasks_folder
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.text.assets import load_questions

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")


def test_situations_are_the_held_out_questions_with_answers_of_one_length() -> None:
    rows = list(situations()["test"])
    wanted = {question.question for trait in Trait for question in load_questions(trait, "holdout")}
    assert {row["question"] for row in rows} == wanted and len(rows) == 60
    assert set(Counter(row["trait"] for row in rows).values()) == {12}
    gaps = [len(row["high"]) - len(row["low"]) for row in rows]
    assert max(map(abs, gaps)) <= 12 and abs(sum(gaps)) / 60 < 2
    assert len({text for row in rows for text in row["choices"]}) == 120


def test_scores_of_single_documents() -> None:
    doc = {"id": "e02", "trait": "extraversion"}
    reverse = next(row for row in inventory()["test"] if row["reverse"])
    sure = [(-50.0, False)] * 4 + [(-1.0, True)]
    assert rate(dict(reverse), sure)[reverse["trait"]] == pytest.approx(-5)
    assert rate(doc, [(-3.0, False)] * 5) == {"extraversion": 0.0, "acquiescence": 0.0}
    assert rate(dict(reverse), sure)["acquiescence"] == pytest.approx(2)
    both = {"trait": "openness", "choices": ["abcd", "ab"]}
    assert choose(both, [(-4.0, True), (-3.0, False)]) == {"openness": 5}
    assert choose(both, [(-8.0, True), (-3.0, False)]) == {"openness": -5}
    assert choose(both, [(-4.0, True), (-2.0, False)]) == {"openness": 0}


@pytest.mark.slow
def test_harness_runs_them_with_a_personality(tiny_llama: Any, byte_tokenizer: Any) -> None:
    import torch
    from lm_eval.tasks import TaskManager

    from dpg_fast.evaluation.harness.model import PersonalityLM
    from dpg_fast.hypernet import HypernetConfig, HyperNetwork
    from dpg_fast.model import PersonalityModel

    model = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2))
    assert isinstance(model.hypernet, HyperNetwork)
    model.hypernet.randomize_(torch.Generator().manual_seed(0))
    found = {}
    for personality in (None, Personality("E+5 N-5")):
        language_model = PersonalityLM(model.eval(), byte_tokenizer, personality, batch_size=16)
        results = lm_eval.simple_evaluate(
            language_model, tasks=list(TASKS), task_manager=TaskManager(include_path=str(tasks_folder())), limit=2,
            bootstrap_iters=0, log_samples=True, apply_chat_template=True,
        )  # fmt: skip
        found[personality] = results["results"]
        json.dumps(results["results"], default=str)
    for name in TASKS:  # the first of both are about openness
        levels = [found[p][name]["openness,none"] for p in found]
        assert all(math.isfinite(level) and -5 <= level <= 5 for level in levels)
    inventory_levels = [found[p]["dpg_fast_inventory"]["openness,none"] for p in found]
    assert inventory_levels[0] != inventory_levels[1]  # the personality counts


def test_folder_is_printed_for_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("dpg_fast.evaluation.harness_tasks", run_name="__main__")
    assert (Path(capsys.readouterr().out.strip()) / "inventory.yaml").is_file()
