"""``dpg-fast assess drift``: a long chat with one or many personalities, judged turn by turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dpg_fast.evaluation.drift import USER_TURNS, Drift, measure_drift
from dpg_fast.judges.choice import JudgeChoice
from dpg_fast.judges.results import RESULTS, save_scores
from dpg_fast.personality.traits import parse_traits
from dpg_fast.questionnaire.session import Respondent
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import progress_bars
from dpg_fast.util.reading import read_json, read_text
from dpg_fast.util.results import write_results

DRIFT = "drift.json"


@dataclass(frozen=True)
class DriftOptions:
    """What to chat about and how to judge it; see the command's help.

    Args:
        turns: file with what the user says, one turn a line; None: the package's twelve.
        limit: only the first turns; None: all.
        traits: letters.
        max_new_tokens: length of an answer.
        system: put before every conversation.
        judge: which one.
        beside: other runs' folders (or drift.json files) that the report shows too.
    """

    turns: Path | None = None
    limit: int | None = None
    traits: str = "OCEAN"
    max_new_tokens: int = 48
    system: str | None = None
    judge: JudgeChoice = field(default_factory=JudgeChoice)
    beside: Sequence[Path] = ()


def read_turns(path: Path | None, limit: int | None = None) -> tuple[str, ...]:
    """What the user says, one turn a line of the file; empty lines are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: fewer than two turns.
    """
    lines = USER_TURNS if path is None else tuple(read_text(path).splitlines())
    turns = tuple(line.strip() for line in lines if line.strip())[:limit]
    if len(turns) < 2:
        raise DPGError(f"a chat needs at least two turns, one a line; {path or 'the limit'} leaves {len(turns)}")
    return turns


def read_drift(path: Path) -> dict[str, Any]:
    """The ``drift.json`` of a run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file.
    """
    path = path / DRIFT if path.is_dir() else path
    content = read_json(path)
    if not isinstance(content, dict) or not {"turns", "scores", "slopes", "distances", "targets"} <= content.keys():
        raise DPGError(f"{path} is no {DRIFT} of this command")
    return content


def run_drift(
    model: Any,
    tokenizer: Any,
    people: Sequence[Respondent],
    out: Path,
    options: DriftOptions,
    about: dict[str, Any],
    *,
    report: Path | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Drift:
    """Chat, judge, and write ``drift.json`` and ``results.json`` (mean scores over the turns, for ``assess compare``).

    Args:
        model: a `PersonalityModel`.
        tokenizer: its tokenizer.
        people: who chats.
        out: folder of the run; a killed run continues.
        options: see there.
        about: what else a report should say of the run.
        report: folder of the HTML report.
        seed: of the intervals.
        console: for progress and the table.

    Raises:
        ValueError: unusable turns or traits, or a folder with another chat.
    """
    console = console or Console()
    turns, traits = read_turns(options.turns, options.limit), parse_traits(options.traits)
    beside = [read_drift(path) for path in options.beside]
    started = time.monotonic()
    judge = options.judge.make(model.base, tokenizer, out / "replies.sqlite")
    with progress_bars(console) as bars:
        found = measure_drift(
            model, tokenizer, judge, people, turns=turns, system=options.system, max_new_tokens=options.max_new_tokens,
            traits=traits, directory=out, progress=bars, seed=seed,
        )  # fmt: skip
    method = f"chat of {len(turns)} turns" + (f", {about['through']}" if about.get("through") else "")
    settings = {"max_new_tokens": options.max_new_tokens, "system": options.system, "seed": seed}
    content = {"method": method, **about, **found.to_dict(), "judge": judge.describe(), "settings": settings}
    content["cost"] = {"seconds": round(time.monotonic() - started, 1)}
    write_results(out / DRIFT, content)
    means = np.array([[_mean(column) for column in person.T] for person in found.scores])
    save_scores(out / RESULTS, f"{method}, judged", found.labels, means)
    console.print(found.table())
    console.print(f"Written to {out / DRIFT}")
    if report is not None:
        from dpg_fast.evaluation.drift_report import write_drift_report

        console.print(f"Report: {write_drift_report([content, *beside], report)}")
    return found


def _mean(column: Any) -> float:
    seen = column[np.isfinite(column)]
    return float(seen.mean()) if seen.size else float("nan")
