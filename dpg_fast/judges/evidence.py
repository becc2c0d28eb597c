"""A judge over an API that scores the Big Five of one speaker on eleven levels and has to quote its evidence.

Every quotation is looked up in the target's own words. If a trait has a level but no quotation that is found there, the judge is
asked once more, told which quotations were not found. What it says then counts; a level still without one is kept and marked
as unsupported.

A dialogue that does not fit the context is judged in pieces (`dpg_fast.judges.dialogues.pieces`). A trait's score is then the
mean of its levels weighted by the number of quotations found, so that pieces without found evidence count only where no piece has
any (then all count alike). Pieces that give null do not count. Scores of several pieces need not be whole numbers.

Why: docs/decisions.md, "A level without a found quotation is asked about once, then kept and marked".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpg_fast.judges.base import APIJudge
from dpg_fast.judges.dialogues import TARGET, Dialogue, Line, halves, pieces
from dpg_fast.judges.evidence_prompt import PROMPT_VERSION, EvidenceReply, evidence_messages
from dpg_fast.llm import Call, Fence, LLMClient, Plan, Result, Usage
from dpg_fast.llm.calls import NOTHING
from dpg_fast.llm.client import in_new_loop
from dpg_fast.llm.session import Answers, all_or_first_error
from dpg_fast.llm.structured import format_instruction
from dpg_fast.personality.scores import Trait
from dpg_fast.text.quotes import QuotedText
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Count

CONTEXT_TOKENS = 16_000
REPLY_TOKENS = 700
_MARGIN = 0.8  # estimates without the server's tokenizer are rough
_SMALLEST = 200  # characters: a piece this short is not cut further when a server finds it too long
_ORDER = ("low", "medium", "high")


@dataclass(frozen=True)
class TraitFinding:
    """What the judge says about one trait.

    Attributes:
        score: -5..5; None without evidence.
        supported: whether a quotation for it was found in the target's words.
        quotes: quotations found there.
        wrong_quotes: quotations not found there.
        confidence: "low", "medium" or "high", the lowest of the pieces that count; None without a score.
    """

    score: float | None
    supported: bool
    quotes: tuple[str, ...] = ()
    wrong_quotes: tuple[str, ...] = ()
    confidence: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "score": self.score,
            "supported": self.supported,
            "quotes": list(self.quotes),
            "wrong_quotes": list(self.wrong_quotes),
            "confidence": self.confidence,
        }


@dataclass(frozen=True)
class EvidenceJudgement:
    """What the judge found in one dialogue.

    Attributes:
        findings: trait -> what it says; empty if there was nothing to judge, or every call failed.
        pieces: calls that the dialogue took.
        failures: why pieces have no answer, as far as a later run would not find one either.
        retry: why pieces have no answer that a later run may get.
        usage: tokens of all calls, stored replies included.
        reason: why scores are missing; None if none is.
    """

    findings: dict[Trait, TraitFinding]
    pieces: int = 0
    failures: tuple[str, ...] = ()
    retry: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    reason: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the dialogue was judged and no later run would find more: what has no score then lacks evidence."""
        return bool(self.findings) and not self.retry

    @property
    def scores(self) -> dict[Trait, float]:
        """Trait -> score in -5..5; traits without evidence are missing."""
        return {trait: found.score for trait, found in self.findings.items() if found.score is not None}

    @property
    def supported_scores(self) -> dict[Trait, float]:
        """Those of `scores` for which a quotation was found in the target's words."""
        return {trait: score for trait, score in self.scores.items() if self.findings[trait].supported}


class EvidenceJudge(APIJudge[EvidenceJudgement]):
    """Scores dialogues, or answers to questions, with a language model behind an API.

    Args:
        client: model, stored replies and prices.
        context_tokens: what fits into the model's context, prompt and reply together.
        reply_tokens: what a reply is expected to take.
        parameters: sent with every call, over the client's; default: temperature 0, unless the client's name one.

    Raises:
        ValueError: a context that does not hold the instructions.
    """

    prompt_version = PROMPT_VERSION

    def __init__(
        self,
        client: LLMClient,
        *,
        context_tokens: int = CONTEXT_TOKENS,
        reply_tokens: int = REPLY_TOKENS,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(client, parameters)
        self.reply_tokens = reply_tokens
        count = client.count_tokens
        instructions = sum(count(message["content"]) + 4 for message in evidence_messages([]))
        # a repair adds the first reply and the schema once more
        fixed = instructions + 2 * count(format_instruction(EvidenceReply)) + 2 * reply_tokens
        self.budget = int((context_tokens - fixed) * _MARGIN)
        self._per_line = count(Fence.around([]).wrap("speaker_b", "")) + 1
        if self.budget < 4 * self._per_line:
            least = fixed + int(4 * self._per_line / _MARGIN) + 1
            raise DPGError(f"a context of {context_tokens} tokens is too small for this judge; it takes {least}")

    def calls(self, dialogue: Dialogue, name: str) -> list[Call[EvidenceReply]]:
        """The calls that judge a dialogue; none if the target says nothing."""
        parts = pieces(dialogue.lines, self.budget, self.client.count_tokens, self._per_line)
        return [self._call(part, _piece_name(name, i, len(parts))) for i, part in enumerate(parts)]

    async def judge_dialogue(self, session: Answers, dialogue: Dialogue, name: str = "dialogue") -> EvidenceJudgement:
        """Judge a dialogue; pieces that the server finds too long are cut in two.

        Raises:
            LLMError: the server cannot be used at all.
        """
        parts = pieces(dialogue.lines, self.budget, self.client.count_tokens, self._per_line)
        answered: list[tuple[tuple[Line, ...], Result[EvidenceReply]]] = []
        done: dict[int, list[tuple[tuple[Line, ...], Result[EvidenceReply]]]] = {}

        async def one(i: int) -> None:
            done[i] = await self._answer(session, parts[i], _piece_name(name, i, len(parts)))

        await all_or_first_error([one(i) for i in range(len(parts))])
        for i in range(len(parts)):
            answered += done[i]
        return self.combine(answered)

    async def judge_all_async(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Count | None = None,
    ) -> list[EvidenceJudgement]:
        """One judgement for each (question, answer), in order. A call always judges all five traits."""
        wanted = set(Trait if traits is None else traits)
        judged = await self.judge_dialogues_async([pair_dialogue(*pair) for pair in pairs], progress=progress)
        return [only(judgement, wanted) for judgement in judged]

    def judge_dialogues(
        self, dialogues: Sequence[Dialogue], *, progress: Count | None = None
    ) -> list[EvidenceJudgement]:
        """One judgement for each dialogue, in order.

        Raises:
            LLMError: the server cannot be used at all.
            RuntimeError: called inside a running event loop; use `judge_dialogues_async` there.
        """
        judged: list[EvidenceJudgement] = in_new_loop(
            lambda: self.judge_dialogues_async(dialogues, progress=progress), "judge_dialogues_async"
        )
        return judged

    async def judge_dialogues_async(
        self, dialogues: Sequence[Dialogue], *, progress: Count | None = None
    ) -> list[EvidenceJudgement]:
        """`judge_dialogues` for use inside an event loop, as in a notebook."""
        found: dict[int, EvidenceJudgement] = {}
        async with self.client.session() as session:
            queue = iter(range(len(dialogues)))

            async def work() -> None:
                for i in queue:
                    found[i] = await self.judge_dialogue(session, dialogues[i], f"dialogue {i + 1}")
                    if progress is not None:
                        progress(len(found), len(dialogues))

            await all_or_first_error([work() for _ in range(self.client.settings.concurrency)])
        return [found[i] for i in range(len(dialogues))]

    def plan(self, dialogues: Sequence[Dialogue]) -> Plan:
        """What judging would send and cost. Nothing is sent."""
        calls = (call for dialogue in dialogues for call in self.calls(dialogue, "dialogue"))
        return self.client.plan(calls, completion_tokens=self.reply_tokens)

    def describe(self) -> str:
        """What this judge is and how far it can be trusted, in plain words."""
        return (
            f"{self.client.settings.model} over an API scores the target of a dialogue on eleven levels for each trait, with "
            f"quotations that are looked up in the target's words (prompt {PROMPT_VERSION}). The anchors of the levels are this "
            "package's own and not validated on people, and the judge's agreement with people has not been measured here. "
            "Dialogues are fenced as data, which marks them but cannot force a model to ignore what they ask."
        )

    def combine(self, answered: Sequence[tuple[Sequence[Line], Result[EvidenceReply]]]) -> EvidenceJudgement:
        """One judgement of the pieces' answers; see the module's text for the rule."""
        if not answered:
            return EvidenceJudgement({}, reason="the target says nothing")
        readings: list[tuple[QuotedText, EvidenceReply]] = []
        failures: list[str] = []
        retry: list[str] = []
        for part, result in answered:
            if result.value is not None:
                readings.append((quoted_text(part), result.value))
            elif result.failure is not None:
                text = f"{result.failure.kind}: {result.failure.detail}"
                (failures if result.failure.final else retry).append(text)
        findings = {trait: _finding(trait, readings) for trait in Trait} if readings else {}
        without = [trait.value for trait, found in findings.items() if found.score is None]
        reasons = [*failures, *retry, *([f"no evidence of {', '.join(without)}"] if without else [])]
        usage = sum((result.usage for _, result in answered), NOTHING)
        reason = "; ".join(reasons) or None
        return EvidenceJudgement(findings, len(answered), tuple(failures), tuple(retry), usage, reason)

    def _call(self, part: Sequence[Line], item: str) -> Call[EvidenceReply]:
        def check(reply: EvidenceReply) -> str | None:
            return find_fault(reply, quoted_text(part))

        return Call(item, evidence_messages(part), EvidenceReply, PROMPT_VERSION, self.parameters, check=check)

    async def _answer(
        self, session: Answers, part: tuple[Line, ...], item: str
    ) -> list[tuple[tuple[Line, ...], Result[EvidenceReply]]]:
        result = await session.answer(self._call(part, item))
        length = sum(len(line.text) for line in part)
        if not _too_long(result) or length <= _SMALLEST:
            return [(part, result)]
        found: list[tuple[tuple[Line, ...], Result[EvidenceReply]]] = []
        for i, half in enumerate(halves(part)):
            answers = await self._answer(session, half, f"{item}{'ab'[i % 2]}")
            found += answers
            if all(_too_long(answer) for _, answer in answers):  # it is not the text: the rest would fare alike
                break
            self.budget = min(self.budget, self._size(half))  # later dialogues are cut like this at once
        return found

    def _size(self, part: Sequence[Line]) -> int:
        tokens = sum(self.client.count_tokens(line.text) + self._per_line for line in part)
        return max(tokens, 4 * self._per_line)


def _too_long(result: Result[Any]) -> bool:
    return result.failure is not None and result.failure.too_long


def pair_dialogue(question: str, answer: str) -> Dialogue:
    """A question and the target's answer as a dialogue."""
    lines = [Line(1, question.strip()), Line(TARGET, answer.strip())]
    return Dialogue(tuple(line for line in lines if line.text))


def quoted_text(lines: Sequence[Line]) -> QuotedText:
    """The target's words, in which quotations are looked up."""
    return QuotedText(line.text for line in lines if line.speaker == TARGET)


def find_fault(reply: EvidenceReply, text: QuotedText) -> str | None:
    """What to ask the judge to correct: traits that have a level and no quotation found in the target's words."""
    bare = [trait for trait in Trait if reply.of(trait).level is not None and not _found(reply, trait, text)]
    if not bare:
        return None
    named = ", ".join(
        trait.value for trait in bare
    )  # not the quotations: they may be words of the text under judgement
    return (
        f"The passages given for these levels are not found in the target's turns, or there are none: {named}. Give the whole "
        "answer again. Copy passages letter for letter from the target's turns, at least two words each; where there are none, "
        "give no passages and null as the level."
    )


def _found(reply: EvidenceReply, trait: Trait, text: QuotedText) -> list[str]:
    return [quote for quote in reply.of(trait).quotes if text.holds(quote)]


def _finding(trait: Trait, readings: Sequence[tuple[QuotedText, EvidenceReply]]) -> TraitFinding:
    right: list[str] = []
    wrong: list[str] = []
    levels: list[tuple[int, int, str]] = []  # level, quotations found, confidence
    for text, reply in readings:
        said = reply.of(trait)
        found = list(dict.fromkeys(_found(reply, trait, text)))
        right += found
        wrong += [quote for quote in said.quotes if quote not in found]
        if said.level is not None:
            levels.append((said.level, len(found), said.confidence))
    supported = any(number for _, number, _ in levels)
    if supported:
        levels = [entry for entry in levels if entry[1]]
    weights = [number if supported else 1 for _, number, _ in levels]
    mean = sum(w * level for w, (level, _, _) in zip(weights, levels, strict=True)) / sum(weights) if levels else None
    confidence = min((entry[2] for entry in levels), key=_ORDER.index) if levels else None
    quotes, wrong_quotes = tuple(dict.fromkeys(right)), tuple(dict.fromkeys(wrong))
    return TraitFinding(mean, supported, quotes, wrong_quotes, confidence)


def only(judgement: EvidenceJudgement, wanted: set[Trait]) -> EvidenceJudgement:
    """The judgement, of these traits alone."""
    findings = {trait: found for trait, found in judgement.findings.items() if trait in wanted}
    return EvidenceJudgement(
        findings, judgement.pieces, judgement.failures, judgement.retry, judgement.usage, judgement.reason
    )


def _piece_name(name: str, i: int, total: int) -> str:
    return name if total == 1 else f"{name}, piece {i + 1} of {total}"
