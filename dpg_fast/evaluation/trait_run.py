"""One evaluation of traits from a plan to its report: loads what takes part, answers, judges, sits the tasks, writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.build import ActivationSettings, build_methods, default_names
from dpg_fast.evaluation.capability import CapabilityPlan, CapabilityRun
from dpg_fast.evaluation.figures import method_figures
from dpg_fast.evaluation.protocol import TraitPlan, run_evaluation
from dpg_fast.evaluation.report import cost_sentence, verdict, write_report
from dpg_fast.judges.choice import JudgeChoice, fast_dtype
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import artifact
from dpg_fast.model.identity import adapter_identity, base_identity
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET, load_base


@dataclass
class TraitEvaluation:
    """What is measured and how; `load` before `run`.

    Args:
        out: folder of journals and reports.
        plan: questions, levels, and whether other traits are judged too.
        answers: how answers are generated.
        judge: who judges.
        methods: names of :data:`~dpg_fast.evaluation.build.METHODS`; None takes all that the adapter allows.
        tasks: of lm-evaluation-harness; None leaves them out.
        activation_layer: of activation addition; None is the middle.
        activation_fit: questions for its strengths.
        asked: where the questions are from, for the report.
    """

    out: Path
    plan: TraitPlan
    answers: AnswerSettings
    judge: JudgeChoice
    methods: Sequence[str] | None = None
    tasks: CapabilityPlan | None = None
    activation_layer: int | None = None
    activation_fit: int = 3
    asked: str = "holdout"
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def load(self, base_model: str, adapter: str | None, hypernet: str | None, allow_mismatch: bool = False) -> None:
        """Load the base model and the adapters.

        Args:
            adapter: directory or Hub id; None is the neurons that come with the package, on the bundled model beside its
                hypernetwork.
            hypernet: a second adapter, whose hypernetwork is measured too.

        Raises:
            DPGError: an adapter for another base, or a second one without a hypernetwork.
        """
        first = artifact.locate(adapter or BUNDLED)
        if hypernet is None and adapter is None and base_model == BUNDLED:
            hypernet = BUNDLED_HYPERNET
        second = None if hypernet is None else artifact.locate(hypernet)
        base, tokenizer = load_base(base_model)
        parts = artifact.load(first, base, allow_mismatch=allow_mismatch)
        if second is not None:
            found = artifact.load(second, base, allow_mismatch=allow_mismatch).hypernet
            if found is None:
                raise DPGError(f"{second} has no hypernetwork")
            parts = replace(parts, hypernet=found)
        self._loaded = {
            "base": base,
            "tokenizer": tokenizer,
            "parts": parts,
            "identity": adapter_identity(first),
            "hypernet_identity": None if second is None else adapter_identity(second),
        }

    def run(self, progress: Callable[[str, int, int], None] | None = None) -> tuple[Path, list[str]]:
        """Answer, judge and write; the report, and one line for each method's traits and costs."""
        base, tokenizer, parts = (self._loaded[name] for name in ("base", "tokenizer", "parts"))
        identity = self._loaded["identity"]
        shared = {"model": identity["base"], "weights": base_identity(base), "answers": self.answers.about()}
        judge = self.judge.make(base, tokenizer, self.out / "replies.sqlite")
        scorer = Scorer(judge, base, tokenizer, self.answers.system, fast_dtype())
        methods = build_methods(
            self.methods or default_names(parts, self._loaded["hypernet_identity"] is None),
            base,
            tokenizer,
            self.answers,
            parts,
            scorer,
            self.out,
            identity=identity,
            hypernet_identity=self._loaded["hypernet_identity"],
            traits=self.plan.traits,
            activation=ActivationSettings(self.activation_layer, questions=self.activation_fit),
            progress=progress,
        )
        exam = None
        if self.tasks is not None:  # before the work starts: it finds out whether the tasks can be had
            weights = {name: value for name, value in shared.items() if name != "answers"}
            exam = CapabilityRun(methods, tokenizer, self.plan, self.tasks, self.out, weights)
        results = run_evaluation(
            methods, scorer, self.plan, self.out, shared, batch_size=self.answers.batch_size, progress=progress
        )
        capability = None if exam is None else exam.run(progress)
        figures = [method_figures(results, method.name) for method in methods]
        written = write_report(
            results,
            figures,
            self.out,
            judge=judge.describe(),
            settings={**shared, **identity, "split": self.asked, "judge_cost": scorer.spent()},
            capability=capability,
        )
        lines = []
        for method in figures[1:]:
            lines.append(method.name)
            lines += [f"  {verdict(trait, found, self.plan.ends)}" for trait, found in method.traits.items()]
            if capability is not None:
                lines.append(f"  {cost_sentence(capability.methods[method.name])}")
        return written, lines
