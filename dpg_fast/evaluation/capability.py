"""What every method of an evaluation costs: tasks of lm-evaluation-harness at the ends of the scale, beside the bare model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpg_fast.evaluation.harness.run import BARE, KEY, ROLLING, Examinee, check_tasks, run_task
from dpg_fast.evaluation.harness.tasks import CHOICES, SENTENCES
from dpg_fast.evaluation.methods import Method
from dpg_fast.evaluation.protocol import TraitPlan, method_file
from dpg_fast.judges.runner import fill
from dpg_fast.model.steering import SteerTokens, check_tokens
from dpg_fast.personality.scores import Personality
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.stats import Interval, bootstrap
from dpg_fast.util.store import Store

FOLDER = "capability"
Values = NDArray[np.float64]


@dataclass(frozen=True)
class CapabilityPlan:
    """Which tasks every method sits.

    Args:
        tasks: offline questions, or tasks of the harness by name, which need the network.
        items: of each task (or subtask) at most; None is all.
        instruction: in the system turn of all methods, behind what a method says there about the person.
        steer_tokens: of scored texts; "all" steers the question too. Texts that are generated are steered themselves alone.

    Raises:
        ValueError: no task, a number of items below 1, or a task that a prompt cannot reach.
    """

    tasks: Sequence[str] = CHOICES
    items: int | None = None
    instruction: str = "Answer the question."
    steer_tokens: SteerTokens = "all"

    def __post_init__(self) -> None:
        check_tokens(self.steer_tokens)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise DPGError(f"name at least one capability task, and each once; got {list(self.tasks)}")
        if SENTENCES in self.tasks:
            raise DPGError(
                f"{SENTENCES} has no questions, so a method that works by prompt cannot be measured on it; "
                f"accepted: {', '.join(CHOICES)} and tasks of the harness with questions"
            )
        if self.items is not None and self.items < 1:
            raise DPGError(f"items of a task are at least 1, got {self.items}")


@dataclass(frozen=True)
class Share:
    """Right answers, 0 to 1, and their change against the bare model on the same items (None for the bare model itself)."""

    value: float
    change: Interval | None


@dataclass(frozen=True)
class MethodCapability:
    """What one method can still do.

    Attributes:
        tasks: task -> right answers, mean of the personalities.
        mean: of the tasks, each counting alike.
        people: personality -> mean of the tasks; empty for the bare model.
    """

    tasks: dict[str, Share]
    mean: Share
    people: dict[str, Share]

    @property
    def worst(self) -> str | None:
        """The personality with the fewest right answers."""
        return min(self.people, key=lambda who: self.people[who].value, default=None)


@dataclass(frozen=True)
class Capability:
    """Capability of all methods of an evaluation, by name.

    Attributes:
        methods: the bare model among them.
        items: task -> how many.
        people: at which personalities the methods were measured.
        plan: what was asked for.
    """

    methods: dict[str, MethodCapability]
    items: dict[str, int]
    people: list[str]
    plan: CapabilityPlan

    def describe(self) -> str:
        """How it was measured, in words."""
        tasks = ", ".join(f"{task} (n = {n})" for task, n in self.items.items())
        steered = (
            "Scored texts are steered on every token, the question included, which is more than generation does"
            if self.plan.steer_tokens == "all"
            else "Of scored texts only what follows the question's first answer token is steered, as in generation"
        )
        return (
            f"Capability: right answers to {tasks} of lm-evaluation-harness in the model's chat format, instruction "
            f'"{self.plan.instruction}" behind what a method says there about the person. Each method as {len(self.people)} '
            f"personalities ({', '.join(self.people)}), mean; change against the bare model on the same items, in points, "
            f"with 95% bootstrap interval over items. {steered}."
        )


class CapabilityRun:
    """The tasks of all methods, kept in ``directory / "capability"``: may be killed and run again.

    Args:
        methods: of the evaluation, the bare model first; those without likelihoods sit no tasks.
        tokenizer: the base model's.
        evaluation: at whose ends the methods are measured, one trait at a time.
        plan: the tasks.
        directory: of the evaluation.
        settings: what the results depend on besides (base model).
        batch_size: requests run side by side.

    Raises:
        ImportError: lm_eval is missing.
        ValueError: a task is unknown or its data out of reach, or ``directory`` holds other results.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        tokenizer: Any,
        evaluation: TraitPlan,
        plan: CapabilityPlan,
        directory: Path,
        settings: Mapping[str, Any],
        *,
        batch_size: int = 32,
    ) -> None:
        self.plan, self.tokenizer, self.batch_size = plan, tokenizer, batch_size
        self.managers = check_tasks(plan.tasks)
        self.people = [Personality({trait: level}) for trait in evaluation.traits for level in evaluation.ends]
        about = {name: value for name, value in asdict(plan).items() if name != "tasks"}
        self.parts: list[tuple[Method, Store]] = []
        for method in methods:
            if not method.has_likelihoods:
                continue
            file, own = directory / FOLDER / method_file(method), {"method": method.name, **method.about()}
            self.parts.append((method, Store(file, {**settings, **about, **own}, KEY)))

    def run(self, progress: Progress | None = None) -> Capability:
        """Run what is missing; ``progress`` gets what is done, how much of it, and of how much.

        Raises:
            ValueError: a task gives perplexities in place of right answers.
        """
        for method, store in self.parts:
            wanted = [(task, who) for who in self._sat_by(method) for task in self.plan.tasks]
            missing = any((task, _label(who)) not in store for task, who in wanted)

            def work(batch: Sequence[tuple[str, Personality | None]], method: Method = method) -> list[dict[str, Any]]:
                ((task, who),) = batch
                return [{"task": task, "personality": _label(who), **self._sit(method.examinee(who), task)}]

            if missing:
                method.prepare()
            try:
                fill(store, wanted, lambda item: (item[0], _label(item[1])), work, f"{method.name}: tasks", progress)
            finally:
                store.close()
                if missing:
                    method.close()
        return self._figures()

    def _sat_by(self, method: Method) -> list[Personality | None]:
        return [None] if method is self.parts[0][0] else list(self.people)

    def _sit(self, found: Examinee, task: str) -> dict[str, Any]:
        plan = self.plan
        examinee = replace(found, instruction=f"{found.instruction} {plan.instruction}".strip())
        row = run_task(
            examinee, self.tokenizer, task, self.managers, plan.steer_tokens, plan.items, True, self.batch_size
        )
        if row["metric"] == ROLLING:
            raise DPGError(f"{task} gives perplexities; name tasks whose answers are right or wrong")
        return row

    def _figures(self) -> Capability:
        tasks = self.plan.tasks
        bare = {task: np.array(self.parts[0][1][(task, BARE)]["values"]) for task in tasks}
        methods = {}
        for method, store in self.parts:
            labels = [_label(who) for who in self._sat_by(method)]
            table = {task: np.array([store[task, label]["values"] for label in labels]) for task in tasks}
            if labels == [BARE]:
                tasks_only = {task: Share(float(values.mean()), None) for task, values in bare.items()}
                methods[method.name] = MethodCapability(tasks_only, Share(_mean(bare.values()), None), {})
                continue
            methods[method.name] = MethodCapability(
                {task: _share([table[task]], [bare[task]]) for task in tasks},
                _share(list(table.values()), list(bare.values())),
                {who: _share([v[[i]] for v in table.values()], list(bare.values())) for i, who in enumerate(labels)},
            )
        return Capability(
            methods, {task: len(values) for task, values in bare.items()}, list(map(str, self.people)), self.plan
        )


def _label(personality: Personality | None) -> str:
    return BARE if personality is None else str(personality)


def _share(tables: Sequence[Values], bare: Sequence[Values]) -> Share:
    """The share in values [personalities, items] for each task; items are resampled within their task, with all personalities."""
    differences = [table.mean(0) - base for table, base in zip(tables, bare, strict=True)]
    return Share(
        _mean(tables),
        bootstrap(
            lambda *drawn: _mean([own[rows] for own, rows in zip(differences, drawn, strict=True)]),
            *map(len, differences),
            resamples=2000,
        ),
    )


def _mean(tasks: Any) -> float:
    return float(np.mean([values.mean() for values in tasks]))
