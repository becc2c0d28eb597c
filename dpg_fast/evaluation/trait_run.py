"""One evaluation of traits from a plan to its report: loads what takes part, answers, judges, sits the tasks, writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpg_fast.evaluation.capability import CapabilityPlan, CapabilityRun
from dpg_fast.evaluation.figures import method_figures
from dpg_fast.evaluation.lineup import Lineup
from dpg_fast.evaluation.protocol import TraitPlan, run_evaluation
from dpg_fast.evaluation.report import cost_sentence, verdict, write_evaluation_report
from dpg_fast.evaluation.witnesses.panel import JUDGE_ALONE, PanelChoice, hear_panel
from dpg_fast.judges.choice import JudgeChoice, fast_dtype
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model.disk.identity import adapter_identity, base_identity
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.models import load_base
from dpg_fast.util.progress import Progress

__all__ = ["TraitEvaluation"]


@dataclass(frozen=True)
class TraitEvaluation:
    """What is measured and how.

    Args:
        out: folder of journals and reports.
        plan: questions, levels, and whether other traits are judged too.
        answers: how answers are generated.
        judge: who judges.
        tasks: of lm-evaluation-harness; None leaves them out.
        asked: where the questions are from, for the report.
        witnesses: who else reads the answers.
    """

    out: Path
    plan: TraitPlan
    answers: AnswerSettings
    judge: JudgeChoice
    tasks: CapabilityPlan | None = None
    asked: str = "holdout"
    witnesses: PanelChoice = JUDGE_ALONE

    def run(
        self, base_model: str, adapter: Path, lineup: Lineup, allow_mismatch: bool, progress: Progress
    ) -> tuple[Path, list[str]]:
        """Load, answer, judge and write; the report, and lines with each method's traits and costs.

        Args:
            base_model: as for `load_base`.
            adapter: directory of the adapter whose base model the results are of.
            lineup: the methods beside the bare model.
            allow_mismatch: accept adapters that were made for another base model.

        Raises:
            DPGError: an adapter for another base model.
        """
        directories = lineup.locate()
        self.witnesses.resolve(self.judge.kind, self.plan)  # statements are fetched before the work starts
        base, tokenizer = load_base(base_model)
        identity = adapter_identity(adapter)
        shared = {"model": identity["base"], "weights": base_identity(base), "answers": self.answers.about()}
        judge = self.judge.make(base, tokenizer, self.out / "replies.sqlite")
        scorer = Scorer(judge, base, tokenizer, self.answers.system, fast_dtype())
        methods = lineup.build(
            base,
            tokenizer,
            self.answers,
            directories,
            scorer=scorer,
            output=self.out,
            traits=self.plan.traits,
            allow_mismatch=allow_mismatch,
            progress=progress,
        )
        exam = None
        if self.tasks is not None:  # before the work starts: it finds out whether the tasks can be had
            weights = {name: value for name, value in shared.items() if name != "answers"}
            exam = CapabilityRun(methods, tokenizer, self.plan, self.tasks, self.out, weights)
        results = run_evaluation(
            methods, scorer, self.plan, self.out, shared, batch_size=self.answers.batch_size, progress=progress
        )
        panel = hear_panel(
            self.witnesses,
            self.judge.kind,
            results,
            methods,
            scorer,
            self.out,
            shared,
            batch_size=self.answers.batch_size,
            progress=progress,
        )
        capability = None if exam is None else exam.run(progress)
        figures = [method_figures(results, method.name) for method in methods]
        written = write_evaluation_report(
            results,
            figures,
            self.out,
            judge=judge.describe(),
            settings={**shared, **identity, "split": self.asked, "judge_cost": scorer.spent()},
            capability=capability,
            panel=panel,
        )
        lines = []
        for method in figures[1:]:
            lines.append(method.name)
            lines += [f"  {verdict(trait, found, self.plan.ends)}" for trait, found in method.traits.items()]
            if capability is not None and method.name in capability.methods:
                lines.append(f"  {cost_sentence(capability.methods[method.name])}")
        return written, lines
