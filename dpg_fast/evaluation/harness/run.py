"""Run tasks for the bare model and for personalities, and say what each personality costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.harness.tasks import CHOICES, OFFLINE, named_task, offline_task
from dpg_fast.judges.runner import fill
from dpg_fast.model import PersonalityModel
from dpg_fast.model.steering import SteerTokens
from dpg_fast.personality.row import RowItem
from dpg_fast.personality.scores import Personality
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.stats import Interval, bootstrap, mean_interval, wilson
from dpg_fast.util.store import Store

BARE = "bare"
TOGETHER = "questions together"
KEY = ("task", "personality")
RESULTS = "capability.jsonl"
#: metrics that are read from a task, the first that it has
METRICS = ("exact_match", "acc", "f1", "em", "word_perplexity")
ROLLING = "word_perplexity"


@dataclass(frozen=True)
class Cost:
    """One task under one personality, beside the bare model.

    Attributes:
        task: its name.
        personality: as text, or "bare".
        metric: what ``value`` is; for "word_perplexity" lower is better.
        items: of the task.
        value: accuracy (0 to 1) or perplexity per word.
        low, high: its 95% interval (Wilson's where every item is right or wrong, bootstrap otherwise).
        change: against the bare model on the same items with 95% bootstrap interval: of the accuracy, or of the logarithm of
            the perplexity. None for the bare model.
    """

    task: str
    personality: str
    metric: str
    items: int
    value: float
    low: float
    high: float
    change: Interval | None


@dataclass(frozen=True)
class Examinee:
    """Who sits a task.

    Attributes:
        model: called, and asked to generate, as a `PersonalityModel` is; with personality None any causal LM will do.
        personality: given to it with every call.
        instruction: put into the system turn of the chat format, or before the question outside of it.
        closing: put behind the user's turn of the chat format; tasks outside of it are refused.
    """

    model: Any
    personality: RowItem
    instruction: str = ""
    closing: str = ""


def measure_capability(
    model: PersonalityModel,
    tokenizer: Any,
    personalities: Sequence[Personality],
    tasks: Sequence[str],
    directory: Path,
    about: Mapping[str, Any],
    *,
    steer_tokens: SteerTokens = "all",
    limit: int | None = None,
    chat: bool = False,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[Cost]:
    """Run each task for the bare model and for each personality; finished ones are kept in ``directory``.

    Offline questions of several kinds are also given together, as the task :data:`TOGETHER`.

    Args:
        model: with personalities to give.
        tokenizer: the base model's.
        personalities: whose cost is asked for.
        tasks: of :data:`dpg_fast.evaluation.harness.tasks.OFFLINE`, or names of the harness's own, which need the network.
        directory: of the raw results.
        about: what the results depend on besides the arguments here (base, adapter, calibration).
        steer_tokens: see :class:`dpg_fast.evaluation.harness.model.PersonalityLM`.
        limit: items of each task (or subtask).
        chat: put prompts into the model's chat format.
        batch_size: requests run side by side.
        progress: gets "tasks", how many runs are done, and of how many.

    Raises:
        ImportError: lm_eval is missing.
        ValueError: a task is unknown or its data out of reach, or ``directory`` holds other results.
    """
    managers = check_tasks(tasks)
    runs = [(task, str(p) if p else BARE, p) for task in tasks for p in (None, *personalities)]
    settings = {**about, "steer_tokens": steer_tokens, "limit": limit, "chat": chat}

    def work(batch: Sequence[tuple[str, str, Personality | None]]) -> list[dict[str, Any]]:
        ((task, label, personality),) = batch
        examinee = Examinee(model, personality)
        values = run_task(examinee, tokenizer, task, managers, steer_tokens, limit, chat, batch_size)
        return [{"task": task, "personality": label, **values}]

    with Store(directory / RESULTS, settings, KEY) as store:
        fill(store, runs, lambda run: run[:2], work, "tasks", progress)
    costs = [_cost(store[task, label], store[task, BARE]) for task, label, _ in runs]
    labels = list(dict.fromkeys(label for _, label, _ in runs))
    return costs + _together(store, tasks, labels)


def load_harness() -> Any:
    """The module lm_eval.

    Raises:
        ImportError: with what to install.
    """
    try:
        import lm_eval
    except ImportError:
        raise ImportError("capability tasks need lm-evaluation-harness: pip install 'dpg-fast[eval]'") from None
    return lm_eval


def check_tasks(tasks: Sequence[str]) -> dict[bool, Any]:
    """What :func:`run_task` wants to know of the harness: its task managers, for the offline tasks (True) and its own.

    Raises:
        ImportError, ValueError: as in :func:`measure_capability`.
    """
    load_harness()
    from lm_eval.tasks import TaskManager

    managers = {own: TaskManager(include_defaults=not own) for own in sorted({task in OFFLINE for task in tasks})}
    for task in tasks:
        if task not in OFFLINE:
            named_task(task, managers[False])
    return managers


def run_task(
    examinee: Examinee,
    tokenizer: Any,
    task: str,
    managers: Mapping[bool, Any],
    steer_tokens: SteerTokens,
    limit: int | None,
    chat: bool,
    batch_size: int,
) -> dict[str, Any]:
    """One examinee's "metric" and "values", one for each item of the task; arguments as in :func:`measure_capability`."""
    from lm_eval import simple_evaluate

    from dpg_fast.evaluation.harness.model import PersonalityLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it reports its defaults at every run
    own = task in OFFLINE
    if examinee.closing and not chat:
        raise DPGError("words behind the question need the chat format: pass --chat")
    model = PersonalityLM(
        examinee.model,
        tokenizer,
        examinee.personality,
        steer_tokens=steer_tokens,
        batch_size=batch_size,
        closing=examinee.closing,
    )
    found = simple_evaluate(
        model=model,
        tasks=[offline_task(task) if own else task],
        task_manager=managers[own],
        limit=limit,
        system_instruction=examinee.instruction or None,
        apply_chat_template=chat,
        bootstrap_iters=0,
        log_samples=True,
    )
    return _read(task, found["samples"])


def _read(task: str, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Metric and values of all items, subtasks together; of several answer filters the first."""
    values: list[Any] = []
    chosen: str | None = None
    for rows in samples.values():
        first = rows[0].get("filter") if rows else None
        for row in sorted((row for row in rows if row.get("filter") == first), key=lambda row: row["doc_id"]):
            chosen = chosen or next((metric for metric in METRICS if metric in row), None)
            if chosen is None or chosen not in row:
                raise DPGError(f"{task} reports none of the metrics {', '.join(METRICS)}: {sorted(row)}")
            value = row[chosen]
            values.append(list(map(float, value)) if isinstance(value, (list, tuple)) else float(value))
    if chosen is None:
        raise DPGError(f"{task} has no items")
    return {"metric": chosen, "values": values}


def _cost(row: Mapping[str, Any], bare: Mapping[str, Any]) -> Cost:
    values, base = np.array(row["values"], dtype=np.float64), np.array(bare["values"], dtype=np.float64)
    change = None
    if row["metric"] == ROLLING:  # (log-likelihood, words) of each text
        found = bootstrap(lambda rows: _nats(values[rows]), len(values), resamples=2000)
        value, low, high = (math.exp(x) for x in (found.estimate, found.low, found.high))
        if row["personality"] != BARE:
            change = bootstrap(lambda rows: _nats(values[rows]) - _nats(base[rows]), len(values), resamples=2000)
    else:
        value = float(values.mean())
        if np.isin(values, (0, 1)).all():
            low, high = wilson(int(values.sum()), len(values))
        else:  # F1 and its like
            found = mean_interval(values, resamples=2000)
            low, high = found.low, found.high
        if row["personality"] != BARE:
            change = mean_interval(values - base, resamples=2000)
    return Cost(row["task"], row["personality"], row["metric"], len(values), value, low, high, change)


def _nats(texts: Any) -> float:
    log_likelihood, words = texts.sum(axis=0)
    return float(-log_likelihood / words)


def _together(store: Store, tasks: Sequence[str], labels: Sequence[str]) -> list[Cost]:
    """The offline questions of all kinds as one task: single kinds are too few to show a small cost."""
    kinds = [task for task in tasks if task in CHOICES]
    if len(kinds) < 2:
        return []
    rows = [
        {
            "task": TOGETHER,
            "personality": label,
            "metric": "acc",
            "values": [value for kind in kinds for value in store[kind, label]["values"]],
        }
        for label in labels
    ]
    return [_cost(row, rows[0]) for row in rows]
