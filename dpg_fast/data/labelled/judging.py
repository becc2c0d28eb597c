"""Judge texts once and keep what was found, so that a killed run asks for nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.data.labelled.centres import Open
from dpg_fast.data.scripts.segments import Segment
from dpg_fast.judges.base import APIJudge, Judge
from dpg_fast.judges.dialogues import TARGET, Dialogue, Line
from dpg_fast.judges.evidence import EvidenceJudge, EvidenceJudgement, pair_dialogue
from dpg_fast.judges.runner import fill, is_scored
from dpg_fast.personality.scores import Trait
from dpg_fast.text.records import JudgeNote
from dpg_fast.util.progress import Progress
from dpg_fast.util.store import Store

_REPLIES = 64  # texts judged before their scores are written, where an API's replies are kept one by one anyway


@dataclass(frozen=True)
class LabelledText:
    """Something to judge: a situation, what somebody says in it, and an address for the result.

    Attributes:
        dialogue: the same turn by turn, for a judge of dialogues.
    """

    id: str
    situation: str
    answer: str
    dialogue: Dialogue

    @classmethod
    def of_segment(cls, segment: Segment) -> LabelledText:
        """What a judge is shown of a segment."""
        numbers = {segment.character: TARGET}
        lines = tuple(Line(numbers.setdefault(t.speaker, len(numbers)), t.words) for t in segment.turns)
        return cls(segment.id, segment.situation, segment.answer, Dialogue(lines))

    @classmethod
    def of_answer(cls, id: str, question: str, words: str) -> LabelledText:
        """What a judge is shown of an answer to a question."""
        return cls(id, question, words, pair_dialogue(question, words))


class DialogueScorer:
    """A judge with a memory on disk.

    `EvidenceJudge` gets whole dialogues; a trait without a quotation that is found lacks evidence, whatever its level.

    Args:
        judge: made when it is first needed.
        about: what its scores depend on, JSON-ready.
        file: where scores are kept; a file about another judge is refused.
        name: of the judge, for records that it writes no note for itself.

    Raises:
        ValueError: the file belongs to another judge.
    """

    def __init__(self, judge: Callable[[], Judge], about: Mapping[str, Any], file: Path, name: str) -> None:
        self._make = judge
        self._judge: Judge | None = None
        self.name = name
        self.store = Store(file, {"judge": dict(about)}, ("id",))

    @property
    def judge(self) -> Judge:
        """The judge itself."""
        if self._judge is None:
            self._judge = self._make()
        return self._judge

    def missing(self, texts: Sequence[LabelledText]) -> list[LabelledText]:
        """Those not judged yet, each once."""
        unique = {text.id: text for text in texts}
        return [text for text in unique.values() if not is_scored(self.store, (text.id,))]

    def score(self, texts: Sequence[LabelledText], what: str = "judging", progress: Progress | None = None) -> None:
        """Judge what is missing; ``progress`` hears of it as ``what``.

        Raises:
            LLMError: an API cannot be used at all; what came before is kept.
        """
        unique = list({text.id: text for text in texts}.values())
        step = _REPLIES if self.missing(texts) and isinstance(self.judge, APIJudge) else 1
        fill(
            self.store,
            unique,
            lambda text: (text.id,),
            self._rows,
            what,
            progress,
            batch_size=step,
            done=lambda key: is_scored(self.store, key),
        )

    def _rows(self, batch: Sequence[LabelledText]) -> list[dict[str, Any]]:
        rows = []
        for text, verdict in zip(batch, self._verdicts(batch), strict=True):
            evidence = verdict if isinstance(verdict, EvidenceJudgement) else None
            found = verdict.scores if evidence is None else evidence.supported_scores
            given = {trait: found.get(trait) for trait in Trait}
            scores = {trait.value: None if score is None else float(score) for trait, score in given.items()}
            if None in scores.values() and not (evidence and evidence.complete):
                scores = {}  # a failed call is made again by the next run
            note = self._note(verdict).model_dump(exclude_none=True)
            rows.append({"id": text.id, "scores": scores, "empty": False, "reason": verdict.reason, "note": note})
        return rows

    def scores(self, id: str) -> Open | None:
        """Five scores in OCEAN order, None where there is no evidence of the trait; None altogether if it is not judged."""
        found = self.store[(id,)]["scores"] if (id,) in self.store else {}
        if not found:
            return None
        o, c, e, a, n = (found[trait.value] for trait in Trait)
        return (o, c, e, a, n)

    def reason(self, id: str) -> str:
        """Why there are no scores."""
        return str(self.store[(id,)]["reason"]) if (id,) in self.store else "not judged"

    def note(self, id: str) -> JudgeNote:
        """Who judged, and what was found."""
        return JudgeNote.model_validate(self.store[(id,)]["note"] | {"scores": self.scores(id)})

    def _verdicts(self, texts: Sequence[LabelledText]) -> Sequence[Any]:
        if isinstance(self.judge, EvidenceJudge):
            return self.judge.judge_dialogues([text.dialogue for text in texts])
        return self.judge.judge_all([(text.situation, text.answer) for text in texts])

    def _note(self, verdict: Any) -> JudgeNote:
        if isinstance(self.judge, APIJudge):
            return self.judge.note(verdict)
        return JudgeNote(model=self.name, prompt_version=type(self.judge).__name__)
