"""What DPG's comparison asks: its tasks, and what they would cost where an API answers or judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.api_prompt import APIPrompt
from dpg_fast.evaluation.cases import Case, newcomers, scripted
from dpg_fast.evaluation.dpg.interpolation import PAIRS, STEPS, InterpolationLine, line_cases, parse_line
from dpg_fast.evaluation.dpg.newness import Newness, Trained, load_trained
from dpg_fast.evaluation.protocol import TraitPlan
from dpg_fast.evaluation.questions import held_out_questions
from dpg_fast.judges.llm import REPLY_TOKENS, LLMJudge
from dpg_fast.llm import LLMClient, Plan
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.records import DialogueRecord, read_records
from dpg_fast.util.errors import DPGError

QUESTIONS, NEW, SCRIPTED, INTERPOLATION = "questions", "new", "scripted", "interpolation"
TASKS = (QUESTIONS, NEW, SCRIPTED, INTERPOLATION)
_WORD = "people "  # two tokens, for answers that are not there yet


@dataclass(frozen=True)
class DPGPlan:
    """The tasks, read and checked before anything is loaded.

    Args:
        tasks: of :data:`TASKS`. Open questions with one trait at a time; new personalities; scripted dialogue; interpolation.
        traits: of the questions.
        questions: held-back ones of each trait, of the questions and (going round) of new personalities.
        levels: of the questions.
        cross: judge the questions' answers at the two ends on all traits.
        people: new personalities.
        seed: of these.
        records: JSON Lines of dialogue records with scores, for scripted dialogue.
        trained: directories of lessons and JSON Lines files that were trained on, to tell what is new.
        new_as: how new "new" personalities have to be.
        lines: pairs of personalities for the interpolation, "E-5 > E+5".
        line_questions: held-back ones of each trait that changes there.

    Raises:
        ValueError: an unknown task, or one that lacks what it needs.
        FileNotFoundError: a file is not there.
    """

    tasks: Sequence[str] = (QUESTIONS, NEW)
    traits: Sequence[Trait] = tuple(Trait)
    questions: int = 12
    levels: Sequence[float] = tuple(range(-5, 6))
    cross: bool = False
    people: int = 40
    seed: int = 0
    records: Path | None = None
    trained: Sequence[Path] = ()
    new_as: Newness = Newness.PERSON
    lines: Sequence[str] = PAIRS
    line_questions: int = 6

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise DPGError(f"unknown tasks {', '.join(unknown)}; accepted: {', '.join(TASKS)}")
        if SCRIPTED in self.tasks and self.records is None:
            raise DPGError("the task scripted needs records of dialogue (--records)")
        if self.records is not None and SCRIPTED not in self.tasks:
            raise DPGError("records are for the task scripted, which is not among the tasks")

    def trait_plan(self) -> TraitPlan:
        """Plan of the open questions; also says where capability is measured."""
        return TraitPlan(held_out_questions(self.traits, self.questions), self.levels, self.cross)

    def load_trained(self) -> Trained | None:
        """Who was trained on, if it is known."""
        return load_trained(self.trained) if self.trained else None

    def cases(self, task: str, trained: Trained | None) -> list[Case]:
        """Cases of new personalities or scripted dialogue."""
        if task == SCRIPTED:
            assert self.records is not None
            return scripted(read_records(self.records, DialogueRecord))
        asked = held_out_questions(list(Trait), self.questions)
        return newcomers(self.people, asked, self.seed, trained=trained, new_as=self.new_as)

    def line_cases(self) -> list[tuple[InterpolationLine, list[Case]]]:
        """Lines and cases of the interpolation."""
        lines = [parse_line(text, STEPS) for text in self.lines]
        traits = [trait for trait in Trait if any(trait in line.traits for line in lines)]
        asked = held_out_questions(traits, self.line_questions)
        return [(line, line_cases(line, asked)) for line in lines]


def asked_of_everybody(
    plan: DPGPlan, trained: Trained | None
) -> list[tuple[str, Personality | None, tuple[Trait, ...]]]:
    """(question, personality, traits judged) of every answer that a method other than the bare model gives, tasks together.

    Interpolation is left out: only hypernetworks walk there.
    """
    found: list[tuple[str, Personality | None, tuple[Trait, ...]]] = []
    if QUESTIONS in plan.tasks:
        asked = plan.trait_plan()
        for trait in asked.traits:
            for level in asked.levels:
                judged = tuple(asked.traits) if plan.cross and level in asked.ends else (trait,)
                found += [(question, Personality({trait: level}), judged) for question in asked.questions[trait]]
    for task in (NEW, SCRIPTED):
        if task in plan.tasks:
            found += [(case.question, case.personality, case.traits) for case in plan.cases(task, trained)]
    return found


def newness(name: str) -> Newness:
    """Raises DPGError for an unknown name."""
    if name not in list(Newness):
        raise DPGError(f"new personalities are new as {' or '.join(Newness)}, not {name!r}")
    return Newness(name)


def plan_costs(
    plan: DPGPlan,
    settings: AnswerSettings,
    methods: int,
    walkers: int,
    api: LLMClient | None,
    judge: Any,
    trained: Trained | None,
) -> dict[str, Plan]:
    """What answers over an API and an API's judgements would cost; empty where neither takes part.

    Args:
        plan: the tasks.
        settings: of the answers.
        methods: how many answer, the bare model and the API included.
        walkers: how many of these take part in the interpolation.
        api: of the answers.
        judge: only one over an API costs something. Its answers are not there yet, so their length is assumed.
        trained: see :meth:`DPGPlan.load_trained`.
    """
    asked = asked_of_everybody(plan, trained)
    found = {}
    if api is not None:
        calls = APIPrompt(api, None, settings).calls([(question, person) for question, person, _ in asked])
        found["answers"] = api.plan(calls, completion_tokens=settings.max_new_tokens + 20)
    if isinstance(judge, LLMJudge):
        filler = _WORD * (settings.max_new_tokens // 2)
        judged = [(question, traits, methods) for question, _, traits in asked]
        if INTERPOLATION in plan.tasks:
            judged += [(case.question, case.traits, walkers) for _, own in plan.line_cases() for case in own]
        calls_of_judge = []
        for number, (question, traits, answers) in enumerate(judged):
            # Texts that differ, or the plan would take them for the same call.
            pairs = [(question, f"{filler}{number} {answer}") for answer in range(answers)]
            calls_of_judge += judge.calls(pairs, traits)[0]
        found["judgements"] = judge.client.plan(calls_of_judge, completion_tokens=REPLY_TOKENS)
    return found
