"""One evaluation of hypernetworks from a plan to its report: what calls of an API would cost, and the run itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.api_prompt import APIPrompt
from dpg_fast.evaluation.capability import CapabilityPlan
from dpg_fast.evaluation.dpg.plan import QUESTIONS, DPGPlan, plan_costs
from dpg_fast.evaluation.dpg.run import DPGRun
from dpg_fast.evaluation.dpg.summary import write_summary
from dpg_fast.evaluation.lineup import BOTH, Lineup
from dpg_fast.evaluation.witnesses.panel import JUDGE_ALONE, PanelChoice
from dpg_fast.judges.choice import OPENAI, JudgeChoice, fast_dtype
from dpg_fast.judges.scoring import Scorer
from dpg_fast.llm.display import money
from dpg_fast.llm.results import Plan
from dpg_fast.model.disk.identity import adapter_identity, base_identity
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.models import load_base
from dpg_fast.util.progress import Progress

__all__ = ["DPGEvaluation"]


@dataclass(frozen=True)
class DPGEvaluation:
    """What is measured and how.

    Args:
        out: folder of journals and reports.
        plan: the tasks.
        lineup: who takes part.
        answers: how answers are generated.
        judge: who judges.
        capability: tasks of lm-evaluation-harness; None leaves them out.
        witnesses: who else reads the answers to the open questions.

    Raises:
        DPGError, FileNotFoundError: an adapter that is none, or records that cannot be read; nothing has been loaded.
    """

    out: Path
    plan: DPGPlan
    lineup: Lineup
    answers: AnswerSettings
    judge: JudgeChoice
    capability: CapabilityPlan | None = None
    witnesses: PanelChoice = JUDGE_ALONE

    @property
    def walkers(self) -> list[str]:
        """Names of the methods that take part in the interpolation."""
        return [*self.lineup.hypernets, *([BOTH] if self.lineup.both else [])]

    def costs(self) -> dict[str, Plan]:
        """What answers and judgements over an API would cost, by what is asked for; empty where no API takes part."""
        api, trained = self.lineup.api, self.plan.load_trained()
        self.lineup.locate()  # what is not an adapter is refused before anything is loaded
        judge = self.judge.make(None, None, self.out / "replies.sqlite") if self.judge.kind == OPENAI else None
        if judge is None and api is None:
            return {}
        return plan_costs(self.plan, self.answers, len(self.lineup.names), len(self.walkers), api, judge, trained)

    def run(self, base_model: str, allow_mismatch: bool, progress: Progress) -> tuple[Path, list[str]]:
        """Load, answer, judge and write; the summary, and a line for each method that was paid for."""
        directories = self.lineup.locate()
        if QUESTIONS in self.plan.tasks:  # statements are fetched before the work starts
            self.witnesses.resolve(self.judge.kind, self.plan.trait_plan())
        base, tokenizer = load_base(base_model)
        methods = self.lineup.build(base, tokenizer, self.answers, directories, allow_mismatch=allow_mismatch)
        judge = self.judge.make(base, tokenizer, self.out / "replies.sqlite")
        scorer = Scorer(judge, base, tokenizer, self.answers.system, fast_dtype())
        identities = {name: adapter_identity(directory) for name, directory in directories.items()}
        compared = self.lineup.compared
        shared: dict[str, Any] = {
            "model": identities[compared]["base"],
            "weights": base_identity(base),
            "answers": self.answers.about(),
        }
        about = {"adapters": {name: identity["adapter"] for name, identity in identities.items()}}
        found = DPGRun(
            self.plan,
            methods,
            self.walkers,
            compared,
            scorer,
            tokenizer,
            self.out,
            shared,
            about,
            self.answers.batch_size,
            self.capability,
            progress,
            self.judge.kind,
            self.witnesses,
        ).run()
        page = write_summary(
            found,
            compared,
            {method.name: method.describe() for method in methods},
            self.out,
            judge=judge.describe(),
            settings={**shared, **about, "judge_cost": scorer.spent()},
        )
        paid = [method for method in methods if isinstance(method, APIPrompt)]
        return page, [f"answers over an API cost {money(m.cost, m.client.prices.currency)} in this run" for m in paid]
