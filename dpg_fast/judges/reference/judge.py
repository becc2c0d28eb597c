"""Judging answers against a reference: knowledge and attitude accuracy of systems, and their ranking, after PersLLM.

Accuracy: the item's kind (one call, none if the record names it), then a rating 0-5 of each system's answer in that kind; items
of neither kind get no ratings. Ranking: one call for knowledge and one for attitude, or only the one of the kind that the record
names. What a judge is told is in `dpg_fast.judges.reference.prompts`, and `dpg_fast.judges.reference.figures` makes figures of
the judgements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpg_fast.judges.dialogue_protocols import JudgingProtocol, Outcome, outcome
from dpg_fast.judges.dialogue_run import JudgedItem, content_items
from dpg_fast.judges.reference.figures import accuracy_figures, ranking_figures
from dpg_fast.judges.reference.prompts import (
    ASPECTS,
    PROMPT_VERSION,
    AgreementReply,
    AnswersRecord,
    Aspect,
    KindReply,
    kind_messages,
    ranking_messages,
    ranking_reply,
    ranks_of,
    rating_messages,
    shown_order,
)
from dpg_fast.llm import Call, LLMClient, Result, Usage
from dpg_fast.llm.client import in_new_loop
from dpg_fast.llm.session import Answers, all_or_first_error
from dpg_fast.text.records import read_records
from dpg_fast.util.errors import DPGError

REPLY_TOKENS = 80  # of thirty words and their frame


class AccuracyProtocol:
    """Rates how far each system's answer agrees with the reference, 0 to 5.

    Args:
        client: the judge's model and its stored replies, which may already name an item's kind.
        parameters: sent with every call, over the client's.
        estimate: for dry runs: take an unknown kind for knowledge, so that `calls` has the ratings too.
    """

    name = "accuracy"
    prompt_version = PROMPT_VERSION
    reply_tokens = REPLY_TOKENS

    def __init__(
        self, client: LLMClient, *, parameters: Mapping[str, Any] | None = None, estimate: bool = False
    ) -> None:
        self._client = client
        self._parameters = dict(parameters or {})
        self._estimate = estimate

    def calls(self, subject: AnswersRecord, name: str) -> Sequence[Call[Any]]:
        """The kind, where the record does not name it, and the ratings, as soon as the kind is known."""
        if subject.kind is not None:
            return self._ratings(subject, subject.kind, name)
        call = self._kind(subject, name)
        known = self._client.stored(call)
        kind = known.value.kind if known is not None and known.value is not None else None
        if kind is None and self._estimate and known is None:
            kind = "knowledge"
        return [call, *(self._ratings(subject, kind, name) if kind is not None else ())]

    async def judge(self, answers: Answers, subject: AnswersRecord, name: str) -> Outcome:
        """Ratings with reasons, and the kind. Failed if any call may yet be answered, or none ever will."""
        kind, usage, why = subject.kind, Usage(), None
        if kind is None:
            sorted_as = await answers.answer(self._kind(subject, name))
            usage = sorted_as.usage
            if sorted_as.value is None:
                return Outcome({}, failed=(_reason(sorted_as),), usage=usage)
            kind, why = sorted_as.value.kind, sorted_as.value.reason
        calls = self._ratings(subject, kind, name)
        results = await _all_answers(answers, calls)
        ratings = {
            system: {"rating": result.value.rating, "reason": result.value.explanation}
            for system, result in zip(sorted(subject.answers), results, strict=False)
            if result.value is not None
        }
        content = {"kind": kind, "kind_reason": why, "ratings": ratings}
        return _outcome(content, results, usage)

    def describe(self) -> str:
        """What the judge is and how far it can be trusted."""
        return _describe(
            self._client, "rates how far answers agree with a reference in knowledge or attitude, from 0 to 5"
        )

    def summarise(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Figures of the judgements in ``rows``."""
        return accuracy_figures(rows)

    def _kind(self, subject: AnswersRecord, name: str) -> Call[KindReply]:
        return Call(f"{name}: kind", kind_messages(subject), KindReply, PROMPT_VERSION, self._parameters)

    def _ratings(self, subject: AnswersRecord, kind: str, name: str) -> list[Call[AgreementReply]]:
        aspects = [aspect for aspect in ASPECTS if aspect == kind]
        return [
            Call(
                f"{name}: {system}",
                rating_messages(subject, subject.answers[system], aspect),
                AgreementReply,
                PROMPT_VERSION,
                self._parameters,
            )
            for aspect in aspects
            for system in sorted(subject.answers)
        ]


class RankingProtocol:
    """Ranks the systems' answers by how close they are to the reference; the judge sees letters in a drawn order.

    Args:
        client: the judge's model.
        parameters: sent with every call, over the client's.
        seed: of the orders in which answers are shown.
        resamples: bootstrap draws of the mean ranks' intervals.
        systems: how many there are, for estimates of the replies' length.
    """

    name = "ranking"
    prompt_version = PROMPT_VERSION

    def __init__(
        self,
        client: LLMClient,
        *,
        parameters: Mapping[str, Any] | None = None,
        seed: int = 0,
        resamples: int = 1000,
        systems: int = 4,
    ) -> None:
        self._client = client
        self._parameters = dict(parameters or {})
        self._seed = seed
        self._resamples = resamples
        self.reply_tokens = systems * REPLY_TOKENS

    def calls(self, subject: AnswersRecord, name: str) -> Sequence[Call[Any]]:
        """One for each aspect."""
        found = []
        for aspect in aspects_of(subject):
            order = shown_order(subject, aspect, self._seed)
            messages = ranking_messages(subject, order, aspect)
            reply = ranking_reply(len(order))
            found.append(Call(f"{name}: {aspect}", messages, reply, PROMPT_VERSION, self._parameters))
        return found

    async def judge(self, answers: Answers, subject: AnswersRecord, name: str) -> Outcome:
        """Ranks with reasons for each aspect. Failed if any call may yet be answered, or none ever will."""
        results = await _all_answers(answers, self.calls(subject, name))
        rankings, shown = {}, {}
        for aspect, result in zip(aspects_of(subject), results, strict=True):
            if result.value is not None:
                shown[aspect] = shown_order(subject, aspect, self._seed)
                rankings[aspect] = ranks_of(result.value, shown[aspect])
        return _outcome({"kind": subject.kind, "rankings": rankings, "shown": shown}, results, Usage())

    def describe(self) -> str:
        """What the judge is and how far it can be trusted."""
        return _describe(
            self._client, "ranks answers by how close they are to a reference in knowledge and in attitude"
        )

    def summarise(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Figures of the judgements in ``rows``."""
        return ranking_figures(rows, resamples=self._resamples, seed=self._seed)


def aspects_of(record: AnswersRecord) -> list[Aspect]:
    """What the systems are ranked in: knowledge and attitude, or what the record's kind names."""
    return [aspect for aspect in ASPECTS if record.kind in (None, aspect)]


def read_answers(path: Path, *, same_systems: bool = False) -> Iterator[JudgedItem[AnswersRecord]]:
    """The items of a JSON Lines file of `AnswersRecord`, one at a time.

    Args:
        same_systems: as rankings need it: every record has answers of the same systems, at least two.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not such a record, or not of the same systems; the message names file and line.
    """
    first: list[str] | None = None

    def checked() -> Iterator[AnswersRecord]:
        nonlocal first
        for number, record in enumerate(read_records(path, AnswersRecord), 1):
            systems = sorted(record.answers)
            first = first or systems
            if same_systems and (len(systems) < 2 or systems != first):
                raise DPGError(
                    f"{path.name}, record {number} has answers of {', '.join(systems)}; a ranking needs at least two systems, "
                    f"the same in every record (the first has {', '.join(first)})"
                )
            yield record

    return content_items(checked(), lambda record: record.model_dump(exclude={"id"}), lambda record: record, "item")


def judge_records(
    client: LLMClient, protocol: JudgingProtocol[AnswersRecord], records: Sequence[AnswersRecord]
) -> list[Outcome]:
    """What ``protocol`` makes of the records, in order; `summarise` takes the contents of those that have not `failed`.

    Raises:
        LLMError: the server cannot be used at all; replies that came are stored.
    """

    async def run() -> list[Outcome]:
        found: dict[int, Outcome] = {}
        async with client.session() as session:
            queue = iter(enumerate(records))

            async def work() -> None:
                for i, record in queue:
                    found[i] = await protocol.judge(session, record, f"item {i + 1}")

            await all_or_first_error([work() for _ in range(client.settings.concurrency)])
        return [found[i] for i in range(len(records))]

    outcomes: list[Outcome] = in_new_loop(run, "protocol.judge")
    return outcomes


async def _all_answers(answers: Answers, calls: Sequence[Call[Any]]) -> list[Result[Any]]:
    results: dict[int, Result[Any]] = {}

    async def one(i: int) -> None:
        results[i] = await answers.answer(calls[i])

    await all_or_first_error([one(i) for i in range(len(calls))])
    return [results[i] for i in range(len(calls))]


def _outcome(content: dict[str, Any], results: Sequence[Result[Any]], usage: Usage) -> Outcome:
    failures = [result for result in results if result.failure is not None]
    retry = tuple(_reason(result) for result in failures if result.failure is not None and not result.failure.final)
    final = tuple(_reason(result) for result in failures)
    content["reason"] = "; ".join(f"{r.item.partition(': ')[2]}: {_reason(r)}" for r in failures) or None
    judged = len(failures) < len(results) or not results
    return outcome(content, retry, final, judged, sum((result.usage for result in results), usage))


def _reason(result: Result[Any]) -> str:
    assert result.failure is not None
    return f"{result.failure.kind}: {result.failure.detail}"


def _describe(client: LLMClient, what: str) -> str:
    return (
        f"{client.settings.model} over an API {what} (prompts {PROMPT_VERSION}). The tasks follow PersLLM's; the wording is this "
        "package's, so figures are not comparable with published ones, and the judge's agreement with people has not been "
        "measured here. Answers are fenced as data, which marks them but cannot force a model to ignore what they ask."
    )
