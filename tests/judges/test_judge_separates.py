"""The judge on answers and personas it was not fitted to.

`validation_answers.jsonl` is a sample of the answers that `dpg-fast assess fit-judge` wrote.
`written_answers.jsonl` was written by hand, three answers for each pole, before any of them was judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.judges.fitting.separation import judge_own_trait, separation, shipped_items, table_text
from dpg_fast.judges.likelihood import SURPRISAL_CAP, LikelihoodJudge, Scale
from dpg_fast.personality.scores import Trait
from dpg_fast.text.personas import SYSTEM_TEMPLATE, USER_TEMPLATE, load_answers

STORED = Path(__file__).with_name("validation_answers.jsonl")
WRITTEN = Path(__file__).with_name("written_answers.jsonl")


def test_sample_is_of_the_validation_split() -> None:
    possible = set(shipped_items("validation", descriptions=2))
    assert {(row.pole, row.question, row.description) for row in load_answers(STORED)} <= possible


@pytest.mark.slow
def test_poles_separate_on_answers_that_nothing_was_chosen_on(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    judge = LikelihoodJudge(model, tokenizer, autocast=torch.bfloat16)
    answers = load_answers(STORED)
    table = separation(answers, judge_own_trait(judge, answers))
    print(table_text("validation sample", table))
    assert set(table) == {trait.value for trait in Trait}
    values = [row["auc"] for row in table.values()]
    assert sum(values) / len(values) >= 0.93, table
    assert min(values) >= 0.86, table
    for row in table.values():
        assert row["mean_score_high"] > row["mean_score_low"]


@pytest.mark.slow
def test_poles_separate_on_answers_written_by_hand(smollm2: tuple[Any, Any]) -> None:
    judge = LikelihoodJudge(*smollm2, autocast=torch.bfloat16)
    answers = load_answers(WRITTEN)
    fitted_on = {question for _, question, _ in shipped_items("fit")}
    assert not fitted_on & {row.question for row in answers}
    table = separation(answers, judge_own_trait(judge, answers))
    print(table_text("written by hand", table))
    values = [row["auc"] for row in table.values()]
    assert len(values) == len(Trait)
    assert sum(values) / len(values) >= 0.85, table
    assert min(values) >= 0.75, table


def test_shipped_scale_is_the_one_of_the_shipped_definition() -> None:
    scale = Scale.fitted()
    assert (scale.system_template, scale.user_template) == (SYSTEM_TEMPLATE, USER_TEMPLATE)
    assert f"{SURPRISAL_CAP:g} nats" in scale.fit["weight"]
    for split in ("fit", "holdout", "validation"):
        assert scale.fit[split].keys() == {trait.value for trait in Trait}
        assert all(row["n"] >= 32 and row["auc_low"] <= row["auc"] for row in scale.fit[split].values())


def test_judge_says_how_weak_it_is(smollm2: tuple[Any, Any]) -> None:
    text = LikelihoodJudge(*smollm2).describe()
    assert "weak judge" in text
    assert "NOT on this model" not in text
    assert all(f"{trait.letter} 0." in text or f"{trait.letter} 1." in text for trait in Trait)
