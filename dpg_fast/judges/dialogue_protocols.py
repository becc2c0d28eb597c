"""Ways to judge a dialogue, behind one face: evidence on eleven levels, NPTI-like ratings, likelihoods of a local model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from dpg_fast.judges.dialogues import Dialogue
from dpg_fast.judges.evidence import EvidenceJudge, only
from dpg_fast.judges.evidence_prompt import PROMPT_VERSION as EVIDENCE_VERSION
from dpg_fast.judges.llm import PROMPT_VERSION as NPTI_VERSION
from dpg_fast.judges.llm import REPLY_TOKENS, LLMJudge
from dpg_fast.llm import Call, Result, Usage
from dpg_fast.llm.session import Answers, all_or_first_error
from dpg_fast.personality.scores import MAX_SCORE, Trait

S = TypeVar("S", contravariant=True)
_SILENT = "the target says nothing"


@dataclass(frozen=True)
class Outcome:
    """What came of a dialogue, or of another item.

    Attributes:
        content: the judgement, JSON-ready, with at least "reason" (why something is missing, or null); of a dialogue also
            "scores" (trait -> -5..5).
        failed: reasons why there is no judgement yet, or none at all; empty if `content` holds one.
        partial: reasons why a part is missing of the judgement that there is.
        usage: tokens, stored replies included.
    """

    content: dict[str, Any]
    failed: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)


def outcome(
    content: dict[str, Any], retry: tuple[str, ...], final: tuple[str, ...], judged: bool, usage: Usage
) -> Outcome:
    """What came of an item whose calls failed for these reasons.

    Args:
        content: the judgement.
        retry: failures that the next run may not have.
        final: failures that it would have again.
        judged: whether anything is left to judge by.
    """
    if retry:
        return Outcome(content, failed=retry, usage=usage)
    return Outcome(content, failed=() if judged else final, partial=final if judged else (), usage=usage)


class JudgingProtocol(Protocol[S]):
    """Judges dialogues, or other things that make up an item of a file, by calls."""

    name: str
    prompt_version: str
    reply_tokens: int

    def calls(self, subject: S, name: str) -> Sequence[Call[Any]]:
        """The calls that it takes, as far as they are known."""

    async def judge(self, answers: Any, subject: S, name: str) -> Outcome:
        """Judge it; ``answers`` (`Answers`) settle the calls, None where there are none."""

    def describe(self) -> str:
        """What the judge is and how far it can be trusted."""


class EvidenceProtocol:
    """`EvidenceJudge` on the whole dialogue."""

    name = "evidence"
    prompt_version = EVIDENCE_VERSION

    def __init__(self, judge: EvidenceJudge, traits: Sequence[Trait] | None = None) -> None:
        self._judge = judge
        self._traits = set(Trait if traits is None else traits)
        self.reply_tokens = judge.reply_tokens

    def calls(self, subject: Dialogue, name: str) -> Sequence[Call[Any]]:
        """One for each piece."""
        return self._judge.calls(subject, name)

    async def judge(self, answers: Answers, subject: Dialogue, name: str) -> Outcome:
        """Scores with the quotations behind them. Failed if any piece may yet be answered, or none ever will."""
        found = only(await self._judge.judge_dialogue(answers, subject, name), self._traits)
        content = {
            "scores": {trait.value: score for trait, score in found.scores.items()},
            "reason": found.reason,
            "pieces": found.pieces,
            "traits": {trait.value: finding.to_dict() for trait, finding in found.findings.items()},
        }
        return outcome(content, found.retry, found.failures, bool(found.findings), found.usage)

    def describe(self) -> str:
        """As the judge says."""
        return self._judge.describe()


class NPTIProtocol:
    """`LLMJudge` on each of the target's answers; ratings and fluency are means over them.

    An answer is what the target says without a break, its question what the others said since the target's last words.
    """

    name = "npti"
    prompt_version = NPTI_VERSION
    reply_tokens = REPLY_TOKENS

    def __init__(self, judge: LLMJudge, traits: Sequence[Trait] | None = None) -> None:
        self._judge = judge
        self._traits = traits

    def calls(self, subject: Dialogue, name: str) -> Sequence[Call[Any]]:
        """One for each trait, and one for fluency, of each answer."""
        return self._judge.calls(subject.answers(), self._traits, f"{name}, answer")[0]

    async def judge(self, answers: Answers, subject: Dialogue, name: str) -> Outcome:
        """Mean ratings, 1 to 5, and scores, 2.5 (rating - 3). Failed if any call may yet be answered, or none ever will."""
        pairs = subject.answers()
        if not pairs:
            return Outcome({"scores": {}, "reason": _SILENT})
        calls, owners = self._judge.calls(pairs, self._traits, f"{name}, answer")
        results: list[Result[Any] | None] = [None] * len(calls)

        async def one(i: int) -> None:
            results[i] = await answers.answer(calls[i])

        await all_or_first_error([one(i) for i in range(len(calls))])
        known = [result for result in results if result is not None]
        judged = self._judge.read(len(pairs), calls, owners, known)
        ratings = {trait: [j.ratings[trait] for j in judged if trait in j.ratings] for trait in Trait}
        means = {trait: statistics.fmean(values) for trait, values in ratings.items() if values}
        fluency = [j.fluency for j in judged if j.fluency is not None]
        content = {
            "scores": {trait.value: MAX_SCORE * (mean - 3) / 2 for trait, mean in means.items()},
            "reason": "; ".join(j.reason for j in judged if j.reason) or None,
            "ratings": {trait.value: mean for trait, mean in means.items()},
            "fluency": statistics.fmean(fluency) if fluency else None,
            "answers": [
                {"ratings": {t.value: r for t, r in j.ratings.items()}, "fluency": j.fluency}
                | {"explanations": j.explanations, "failures": j.failures}
                for j in judged
            ],
        }
        failures = [result.failure for result in known if result.failure is not None]
        retry = tuple(f"{f.kind}: {f.detail}" for f in failures if not f.final)
        final = tuple(f"{f.kind}: {f.detail}" for f in failures if f.final)
        return outcome(content, retry, final, bool(means), sum((r.usage for r in known), Usage()))

    def describe(self) -> str:
        """As the judge says."""
        return self._judge.describe()


class LikelihoodProtocol:
    """`LikelihoodJudge` on each of the target's answers; ratios are means over all their tokens. Makes no calls."""

    name, prompt_version, reply_tokens = "likelihood", "", 0

    def __init__(self, judge: Any, traits: Sequence[Trait] | None = None) -> None:
        self._judge = judge
        self._traits = traits

    def calls(self, subject: Dialogue, name: str) -> Sequence[Call[Any]]:
        """None."""
        return []

    async def judge(self, answers: Answers | None, subject: Dialogue, name: str) -> Outcome:
        """Scores on the judge's scale."""
        judged = self._judge.judge_all(subject.answers(), traits=self._traits)
        judged = [row for row in judged if row.tokens]
        tokens = sum(row.tokens for row in judged)
        if not tokens:
            return Outcome({"scores": {}, "reason": _SILENT})
        traits = list(judged[0].llr)
        llr = {trait: sum(row.llr[trait] * row.tokens for row in judged) / tokens for trait in traits}
        scales = self._judge.scale.traits
        content = {
            "scores": {trait.value: scales[trait].score(value) for trait, value in llr.items()},
            "reason": None,
            "llr": {trait.value: value for trait, value in llr.items()},
            "tokens": tokens,
            "answers": len(judged),
        }
        return Outcome(content)

    def describe(self) -> str:
        """As the judge says."""
        text: str = self._judge.describe()
        return text
