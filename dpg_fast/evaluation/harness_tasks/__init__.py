"""Personality measurements as tasks of lm-evaluation-harness, for any model that the harness knows.

    lm_eval run --model hf --model_args pretrained=ID --apply_chat_template \
        --include_path "$(python -m dpg_fast.evaluation.harness_tasks)" --tasks dpg_fast_inventory,dpg_fast_situations

Both read likelihoods of whole options, nothing is generated:

- ``dpg_fast_inventory``: the bundled sixty statements, rated by the likelihood of the option texts. A figure for each trait in
  -5..5, and ``acquiescence`` in rating points.
- ``dpg_fast_situations``: the sixty held-out questions, each with an answer of somebody high and of somebody low in its trait,
  written for this package and of about the same length. A figure for each trait in -5..5: 5 if the answer of the high pole is
  always the likelier one per character, -5 if never.

Neither has been validated on people.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from dpg_fast.personality.scores import MAX_SCORE, Trait
from dpg_fast.questionnaire.forms import make_forms, option_question
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.questionnaire.scoring import keyed, to_level

TASKS = ("dpg_fast_inventory", "dpg_fast_situations")
TEST = "test"
_SITUATIONS = "situations.jsonl"


def tasks_folder() -> Path:
    """What ``TaskManager(include_path=...)`` and ``--include_path`` need."""
    return Path(__file__).parent


def inventory(**_: Any) -> dict[str, Any]:
    """The documents of ``dpg_fast_inventory``: split "test"."""
    bundled = bundled_inventory()
    plain = make_forms(bundled, 1)[0]
    rows = [
        {
            "id": item.id,
            "trait": item.trait.value,
            "reverse": item.reverse,
            "question": option_question(bundled, plain, bundled.statement(item)),
            "choices": list(bundled.options),
        }
        for item in bundled.items
    ]
    return _dataset(rows)


def situations(**_: Any) -> dict[str, Any]:
    """The documents of ``dpg_fast_situations``: split "test"."""
    text = resources.files("dpg_fast").joinpath("assets", _SITUATIONS).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return _dataset([row | {"choices": [row["high"], row["low"]]} for row in rows])


def rate(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Score of one statement: the expected rating under the options' renormalised likelihoods, in the trait's direction."""
    bundled = bundled_inventory()
    likelihoods = [value for value, _ in results]
    top = max(likelihoods)
    weights = [math.exp(value - top) for value in likelihoods]
    rating = sum(n * weight for n, weight in enumerate(weights, 1)) / sum(weights)
    item = next(item for item in bundled.items if item.id == doc["id"])
    level = to_level(keyed(item, rating, bundled.levels), bundled.levels)
    return {doc["trait"]: level, "acquiescence": rating - bundled.midpoint}


def choose(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Score of one situation: 5 where the high pole's answer is likelier per character, -5 where the low one's is."""
    high, low = (value / len(text) for (value, _), text in zip(results, doc["choices"], strict=True))
    return {doc["trait"]: MAX_SCORE if high > low else -MAX_SCORE if high < low else 0.0}


def _dataset(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from datasets import Dataset

    assert {row["trait"] for row in rows} == {trait.value for trait in Trait}
    return {TEST: Dataset.from_list(rows)}
