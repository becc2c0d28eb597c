"""Fit the likelihood judge's scale to a model's own persona-prompted answers, and measure it on held-out ones.

The questions and personas of the fit, of "holdout" (looked at while the judge was chosen), of "validation" (not looked at before)
and the personas inside the judge are different sets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpg_fast.judges.fitting.separation import (
    Item,
    fit_scale,
    judge_own_trait,
    neutral_scores,
    personalitybench_items,
    separation,
    shipped_items,
    split_by_pole,
    table_text,
)
from dpg_fast.judges.likelihood import SURPRISAL_CAP, Judgement, LikelihoodJudge, Scale, TraitScale
from dpg_fast.personality.scores import Trait
from dpg_fast.text.assets import load_personalitybench
from dpg_fast.text.personas import (
    SYSTEM_TEMPLATE,
    USER_TEMPLATE,
    PersonaAnswer,
    generate_persona_answers,
    load_answers,
    save_answers,
)
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.progress import Progress
from dpg_fast.util.reading import read_json


@dataclass(frozen=True)
class FitSettings:
    """Size of the fit, and where it is kept.

    Args:
        questions: of each trait, in the fit and in "holdout"; ``validation_questions`` in "validation", None for all.
        people: different personas that answer each question, for each pole.
        folder: keeps answers and ratios, which are used again when found; None keeps nothing.
        sample: file for the validation answers to the first ``sample_questions`` of each trait; None writes none.
        personalitybench: folder of PersonalityBench files, ``bench_questions`` of each trait of which are judged too.
        system, user: texts of the judge's prompt; they may hold {description} and {question}.
        max_new_tokens: length of an answer.
        batch_size: answers generated side by side.
        autocast: dtype in which the judge runs the decoder; None is the weights'.
    """

    questions: int = 8
    validation_questions: int | None = None
    people: int = 2
    folder: Path | None = None
    sample: Path | None = None
    sample_questions: int = 4
    personalitybench: Path | None = None
    bench_questions: int = 6
    system: str = SYSTEM_TEMPLATE
    user: str = USER_TEMPLATE
    max_new_tokens: int = 70
    batch_size: int = 32
    autocast: torch.dtype | None = None


@dataclass
class JudgeFit:
    """One fit on one model.

    Args:
        name: of the model, kept with the scale.
        progress: gets what is done, how much of it, and of how much.
    """

    model: Any
    tokenizer: Any
    name: str
    settings: FitSettings
    progress: Progress

    def run(self, out: Path) -> Iterator[str]:
        """Write the scale to ``out`` after each set of answers, and yield what that set says of it.

        Raises:
            DPGError: ``folder`` holds answers to other questions or personas.
        """
        settings, name = self.settings, self.name
        size: dict[str, Any] = {"questions": settings.questions, "descriptions": settings.people}
        flat = Scale({trait: TraitScale(0.0, 1.0) for trait in Trait}, name, settings.system, settings.user)
        unscaled = LikelihoodJudge(self.model, self.tokenizer, scale=flat, autocast=settings.autocast)
        fitted = self._answers("fit", shipped_items("fit", **size))
        judged = self._ratios("fit", fitted, unscaled)
        scale = replace(flat, traits={t: fit_scale(*split_by_pole(fitted, judged, t)) for t in Trait})
        judge = LikelihoodJudge(self.model, self.tokenizer, scale=scale, autocast=settings.autocast)
        report: dict[str, Any] = {
            "method": "logistic curve on Platt's smoothed targets; score = 5 tanh((llr - centre) / width)",
            "answers": f"{name}, greedy, repetition penalty 1.1, at most {settings.max_new_tokens} new tokens, "
            f"{self._dtype}; personas of splits search (fit), holdout and validation; the judge's own of split judge",
            "weight": f"min(surprisal under both personas, {SURPRISAL_CAP:g} nats) / {SURPRISAL_CAP:g}",
            "judge_decoder_dtype": self._autocast or self._dtype,
            "pairs": len(judge.descriptions[Trait.OPENNESS]),
        }

        def keep(key: str, answers: list[PersonaAnswer], found: list[Judgement]) -> str:
            report[key] = separation(answers, judge.rescore(found))
            write_text(out, json.dumps(replace(scale, fit=report).to_dict(), indent=1) + "\n")
            return table_text(key, report[key])

        yield keep("fit", fitted, judged)
        sets: dict[str, list[Item]] = {"holdout": shipped_items("holdout", **size)}
        sets["validation"] = shipped_items("validation", **size | {"questions": settings.validation_questions})
        if settings.personalitybench is not None:
            bench = load_personalitybench(settings.personalitybench)
            sets["personalitybench"] = personalitybench_items(bench, questions=settings.bench_questions)
        for split, items in sets.items():
            answers = self._answers(split, items)
            if split == "validation" and settings.sample is not None:
                save_answers(settings.sample, first_questions(answers, settings.sample_questions))
            yield keep(split, answers, self._ratios(split, answers, unscaled))
        report["neutral_mean_score"] = neutral_scores(judge, questions=settings.questions)
        keep("fit", fitted, judged)
        yield f"mean score of answers without a persona: {report['neutral_mean_score']}"

    @property
    def _dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def _autocast(self) -> str | None:
        return None if self.settings.autocast is None else str(self.settings.autocast).removeprefix("torch.")

    def _kept(self, name: str) -> Path | None:
        return None if self.settings.folder is None else self.settings.folder / name

    def _answers(self, split: str, items: list[Item]) -> list[PersonaAnswer]:
        stored = self._kept(f"{split}.jsonl")
        if stored is not None and stored.exists():
            found = load_answers(stored)
            if [(row.pole, row.question, row.description) for row in found] != items:
                raise DPGError(
                    f"{stored} holds answers to other questions or personas; remove it or name another folder"
                )
            return found
        answers = generate_persona_answers(
            self.model,
            self.tokenizer,
            items,
            max_new_tokens=self.settings.max_new_tokens,
            batch_size=self.settings.batch_size,
            progress=lambda done, total: self.progress(f"answer {split}", done, total),
        )
        if stored is not None:
            save_answers(stored, answers)
        return answers

    def _ratios(self, split: str, answers: list[PersonaAnswer], judge: LikelihoodJudge) -> list[Judgement]:
        """Each answer's ratio on the trait of its pole; kept beside the answers, and used again for the same work."""
        settings = {
            "model": judge.scale.model,
            "templates": [judge.scale.system_template, judge.scale.user_template],
            "cap": SURPRISAL_CAP,
            "dtypes": [self._dtype, self._autocast],
            "descriptions": {
                trait.value: [list(pair) for pair in pairs] for trait, pairs in judge.descriptions.items()
            },
            "answers": [[str(row.pole), row.question, row.answer] for row in answers],
        }
        stored = self._kept(f"{split}_ratios.json")
        if stored is not None and stored.exists():
            content = read_json(stored)
            if isinstance(content, dict) and content.get("settings") == settings:
                return [_judgement(row) for row in content["judgements"]]
        found = judge_own_trait(
            judge, answers, progress=lambda done, total: self.progress(f"judge {split}", done, total)
        )
        if stored is not None:
            content = {"settings": settings, "judgements": [asdict(row) for row in found]}
            write_text(stored, json.dumps(content, ensure_ascii=False))
        return found


def first_questions(answers: list[PersonaAnswer], questions: int) -> list[PersonaAnswer]:
    """The answers to the first so many questions of each trait."""
    kept: dict[Trait, list[str]] = {trait: [] for trait in Trait}
    for row in answers:
        if row.question not in kept[row.pole.trait]:
            kept[row.pole.trait].append(row.question)
    return [row for row in answers if row.question in kept[row.pole.trait][:questions]]


def _judgement(row: dict[str, Any]) -> Judgement:
    by_trait = {key: {Trait.parse(t): float(v) for t, v in row[key].items()} for key in ("scores", "llr", "spread")}
    return Judgement(**(row | by_trait))
