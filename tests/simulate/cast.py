"""Scenarios and voices for the tests: a tiny random model, and a server that speaks by script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpg_fast.simulate.scenario import Scenario
from tests.llm.server import Answer, last_user
from tests.personified.data.annotator import fenced


def scenario(**changes: Any) -> Scenario:
    """Ada and Bo, six turns."""
    content: dict[str, Any] = {
        "name": "talk",
        "speakers": [{"name": "Ada Brook"}, {"name": "Bo"}],
        "turns": 6,
        "context_tokens": 512,
        "generation": {"max_new_tokens": 8, "temperature": 0.9, "repetition_penalty": 1.0},
    }
    return Scenario.model_validate(content | changes)


def write_scenario(path: Path, **changes: Any) -> Path:
    """The scenario as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(scenario(**changes).model_dump_json(exclude_defaults=True), encoding="utf-8")
    return path


def endpoint(url: str, model: str = "actor") -> dict[str, Any]:
    """As a scenario names it."""
    return {"model": model, "base_url": url, "api_key_variable": "SIMULATE_TEST_KEY"}


def parrot(body: dict[str, Any], number: int) -> Answer:
    """Says how many lines it was shown, and the last of them."""
    lines = fenced(last_user(body), "conversation").split("\n")
    return Answer(json.dumps({"text": f"I heard {len([x for x in lines if x])} lines, at last: {lines[-1][-40:]}"}))
