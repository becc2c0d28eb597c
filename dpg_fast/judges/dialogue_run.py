"""Judging a file of dialogues, or other items, into a file of judgements: each once, whatever kills the run.

Judgements are appended to a `Store` as they come. A dialogue is known by its content (and, where the same one occurs again, by
the count), so a later run goes on where an earlier one was stopped. Dialogues without a judgement are listed, with the reason,
in a file beside it, which every run writes afresh: its dialogues are tried again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from dpg_fast.judges.dialogue_input import JudgedRecord, read_dialogues
from dpg_fast.judges.dialogue_protocols import JudgingProtocol, Outcome
from dpg_fast.judges.dialogues import Dialogue, read_dialogue
from dpg_fast.llm import Call, Usage
from dpg_fast.llm.calls import FINAL_KINDS, NOTHING
from dpg_fast.llm.session import Answers, all_or_first_error
from dpg_fast.util.files import write_atomically
from dpg_fast.util.identity import digest
from dpg_fast.util.store import Store, read_rows, whole_lines

KEY = ("item",)
_SYNC_EVERY = 64  # rows; a killed process loses none, a power failure at most these, whose replies are stored


class Characterised(Protocol):
    """A record that may name a character."""

    character: str | None


T = TypeVar("T")
R = TypeVar("R", bound=Characterised)


@dataclass(frozen=True)
class JudgedItem(Generic[T]):
    """One dialogue of the input, or something else to judge.

    Attributes:
        key: from the content, with "-2" and so on for repetitions.
        number: its place among the records, from 1.
        character: as the record says.
        subject: what is judged; None if `problem` says why there is nothing to.
        what: it is, for reports.
        id: the record's own name.
    """

    key: str
    number: int
    character: str | None
    subject: T | None
    problem: str | None = None
    what: str = "dialogue"
    id: str | int | None = None

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.what} {self.number}"

    @property
    def place(self) -> dict[str, Any]:
        """What a row about it begins with; "id" only where the record has one."""
        row: dict[str, Any] = {"item": self.key, "record": self.number, "character": self.character}
        return row if self.id is None else row | {"id": self.id}


def read_items(path: Path, target: str | None = None) -> Iterator[JudgedItem[Dialogue]]:
    """The dialogues of a JSON Lines file of any form that `read_dialogues` knows, one at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an empty file, or a line that holds no dialogue.
    """

    def content(record: JudgedRecord) -> Any:
        return [[turn.model_dump() for turn in record.messages], record.character, target]

    return content_items(
        read_dialogues(path, target), content, lambda record: read_dialogue(record, target), "dialogue"
    )


def content_items(
    records: Iterable[R], content: Callable[[R], Any], subject: Callable[[R], T], what: str
) -> Iterator[JudgedItem[T]]:
    """Records as items that are known by their content; a ``subject`` that raises ValueError is the item's problem.

    Args:
        content: what tells records apart, JSON-ready.
        what: they are, for reports.
    """
    seen: Counter[str] = Counter()
    for number, record in enumerate(records, 1):
        key = digest(content(record), 32)
        seen[key] += 1
        key = key if seen[key] == 1 else f"{key}-{seen[key]}"
        name = getattr(record, "id", None)
        try:
            yield JudgedItem(key, number, record.character, subject(record), None, what, name)
        except ValueError as error:
            yield JudgedItem(key, number, record.character, None, str(error), what, name)


@dataclass
class Summary:
    """What a run did.

    Attributes:
        before: dialogues that had a judgement already.
        judged: dialogues judged now.
        failed: dialogues without a judgement.
        partial: dialogues with a judgement that lacks something, earlier ones included.
        final: of these two, those that only a repeated request can help.
        reasons: the first words of why -> how many.
        usage: tokens behind this run's judgements, stored replies included.
    """

    before: int = 0
    judged: int = 0
    failed: int = 0
    partial: int = 0
    final: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    usage: Usage = NOTHING


def failed_file(path: Path) -> Path:
    """Where the dialogues without a judgement are listed, beside the output."""
    return path.with_name(f"{path.stem}.failed{path.suffix}")


class JudgementFile:
    """The output, opened for one run at a time: a `Store` of judgements, and the list of items without one beside it.

    Args:
        path: the file.
        about: who judges; a file of another judge is not continued.
        again: judge again what was judged in part; the new judgement then takes the place of the old one.

    Attributes:
        partial: item -> what its judgement lacks.

    Raises:
        ValueError: the file holds something else, or another run is writing it.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], again: bool = False) -> None:
        self._path, self._again = path, again
        self.done = Store(path, about, KEY, keep=False, sync_every=_SYNC_EVERY)
        items = [row["item"] for row in read_rows(path)]
        self._replaced = len(items) > len(set(items))  # by a run that was killed before it dropped the old ones
        self.partial = judged_in_part(path)
        self.failed_path = failed_file(path)
        self.failed_path.unlink(missing_ok=True)
        self._failed: BinaryIO | None = None

    def __contains__(self, item: JudgedItem[Any]) -> bool:
        """Whether the item has a judgement that stays."""
        return (item.key,) in self.done and not (self._again and item.key in self.partial)

    def append(self, item: JudgedItem[Any], outcome: Outcome, cost: float | None, currency: str) -> None:
        """Write a judgement."""
        row = item.place | outcome.content
        if outcome.partial:
            row["missing"] = list(outcome.partial)
        self._replaced = self._replaced or (item.key,) in self.done
        if outcome.usage.calls:
            row["usage"] = outcome.usage.model_dump()
            row |= {"cost": cost, "currency": None if cost is None else currency}
        self.done.append([row])

    def append_failed(self, item: JudgedItem[Any], reasons: tuple[str, ...], partial: bool = False) -> None:
        """Note a dialogue without a judgement, or with one that lacks something."""
        if self._failed is None:
            self._failed = self.failed_path.open("wb")
        row = item.place | {"reasons": list(reasons)}
        row |= {"judged": "in part"} if partial else {}
        self._failed.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
        self._failed.flush()

    def __enter__(self) -> JudgementFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._replaced:
            drop_replaced(self._path)
        self.done.close()
        if self._failed is not None:
            self._failed.close()


def read_done(path: Path, about: Mapping[str, Any], again: bool = False) -> set[str]:
    """The items that have a judgement in the file; none if there is no file.

    Args:
        again: those judged in part have none.

    Raises:
        ValueError: the file holds something else, or judgements of another judge.
    """
    done = {str(key) for (key,) in Store(path, about, KEY, keep=False, read_only=True)}
    return done - set(judged_in_part(path)) if again else done


def judged_in_part(path: Path) -> dict[str, tuple[str, ...]]:
    """Item -> what its judgement in the file lacks, for those that lack something."""
    found = {row["item"]: tuple(row.get("missing", ())) for row in read_rows(path)}
    return {item: missing for item, missing in found.items() if missing}


def drop_replaced(path: Path) -> None:
    """Leave the last record of each item in the file; a kill leaves it as it was."""
    header, *lines = whole_lines(path)
    last = {json.loads(line)["item"]: line for line in lines}
    data = header + b"".join(last.values())
    write_atomically(path, lambda temporary: Path(temporary).write_bytes(data))


async def judge_items(
    items: Iterator[JudgedItem[T]],
    protocol: JudgingProtocol[T],
    answers: Answers | None,
    output: JudgementFile,
    cost_of: Callable[[Usage], float | None] = lambda usage: None,
    currency: str = "",
    *,
    workers: int = 1,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Judge what has no judgement yet, ``workers`` dialogues at a time; the input is read as it is needed.

    Args:
        items: to judge.
        protocol: how.
        answers: of the protocol's calls; None for a protocol that makes none.
        output: where judgements go.
        cost_of, currency: of the calls.
        workers: items judged side by side.
        progress: gets the summary so far, after each item.

    Raises:
        LLMError: the server cannot be used at all; what is judged is in the file.
    """
    summary = Summary()

    def fail(item: JudgedItem[Any], reasons: tuple[str, ...], partial: bool = False) -> None:
        output.append_failed(item, reasons, partial)
        summary.failed += not partial
        summary.partial += partial
        summary.final += reasons[0].partition(":")[0] in FINAL_KINDS
        summary.reasons[reasons[0].partition(":")[0][:80]] += 1

    async def work() -> None:
        for item in items:
            if item in output:
                summary.before += 1
                if item.key in output.partial:
                    fail(item, output.partial[item.key], partial=True)
            elif item.subject is None:
                fail(item, (str(item.problem),))
            else:
                outcome = await protocol.judge(answers, item.subject, item.name)
                if outcome.failed:
                    fail(item, outcome.failed)
                else:
                    output.append(item, outcome, cost_of(outcome.usage), currency)
                    if outcome.partial:
                        fail(item, outcome.partial, partial=True)
                    summary.judged += 1
                    summary.usage = summary.usage + outcome.usage
            if progress is not None:
                progress(summary)

    await all_or_first_error([work() for _ in range(workers)])
    return summary


def open_calls(
    items: Iterator[JudgedItem[T]], protocol: JudgingProtocol[T], done: Container[str]
) -> Iterator[Call[Any]]:
    """The calls of all dialogues that have no judgement yet."""
    for item in items:
        if item.key not in done and item.subject is not None:
            yield from protocol.calls(item.subject, item.name)
