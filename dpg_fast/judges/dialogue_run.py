"""Judging a file of dialogues, or other items, into a file of judgements: each once, whatever kills the run.

Judgements are appended to a JSON Lines file as they come. A dialogue is known by its content (and, where the same one occurs
again, by the count), so a later run goes on where an earlier one was stopped. Dialogues without a judgement are listed, with the
reason, in a file beside it, which every run rewrites: its dialogues are tried again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from dpg_fast.judges.dialogue_protocols import JudgingProtocol, LikelihoodProtocol, Outcome
from dpg_fast.judges.dialogues import Dialogue, read_dialogue
from dpg_fast.llm import Call, Usage
from dpg_fast.llm.cache import content_key
from dpg_fast.llm.calls import NOTHING
from dpg_fast.llm.session import Answers, all_or_first_error
from dpg_fast.text.records import DialogueRecord, read_records
from dpg_fast.util.errors import DPGError

_SYNC_EVERY = 64  # rows; a killed process loses none, a power failure at most these, whose replies are stored


class Characterised(Protocol):
    """A record that may name a character."""

    character: str | None


T = TypeVar("T")
R = TypeVar("R", bound=Characterised)


@dataclass(frozen=True)
class Item(Generic[T]):
    """One dialogue of the input, or something else to judge.

    Attributes:
        key: from the content, with "-2" and so on for repetitions.
        number: its place among the records, from 1.
        character: as the record says.
        subject: what is judged; None if `problem` says why there is nothing to.
        what: it is, for reports.
    """

    key: str
    number: int
    character: str | None
    subject: T | None
    problem: str | None = None
    what: str = "dialogue"

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.what} {self.number}"


def read_items(path: Path, target: str | None = None) -> Iterator[Item[Dialogue]]:
    """The dialogues of a JSON Lines file of `DialogueRecord`, one at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not such a record.
    """

    def content(record: DialogueRecord) -> Any:
        return [[turn.model_dump() for turn in record.messages], record.character, target]

    return content_items(
        read_records(path, DialogueRecord), content, lambda record: read_dialogue(record, target), "dialogue"
    )


def content_items(
    records: Iterable[R], content: Callable[[R], Any], subject: Callable[[R], T], what: str
) -> Iterator[Item[T]]:
    """Records as items that are known by their content; a ``subject`` that raises ValueError is the item's problem.

    Args:
        content: what tells records apart, JSON-ready.
        what: they are, for reports.
    """
    seen: Counter[str] = Counter()
    for number, record in enumerate(records, 1):
        digest = content_key(content(record))[:32]
        seen[digest] += 1
        key = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        try:
            yield Item(key, number, record.character, subject(record), None, what)
        except ValueError as error:
            yield Item(key, number, record.character, None, str(error), what)


@dataclass
class Summary:
    """What a run did.

    Attributes:
        before: dialogues that had a judgement already.
        judged: dialogues judged now.
        failed: dialogues without a judgement.
        reasons: the first words of why -> how many.
        usage: tokens behind this run's judgements, stored replies included.
    """

    before: int = 0
    judged: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    usage: Usage = NOTHING


def failed_file(path: Path) -> Path:
    """Where the dialogues without a judgement are listed, beside the output."""
    return path.with_name(f"{path.stem}.failed{path.suffix}")


class JudgementFile:
    """The output, opened for one run at a time.

    Args:
        path: the file; a line that a killed run left unfinished is dropped.
        about: who judges; a file of another judge is not continued.

    Raises:
        ValueError: the file holds something else, or another run is writing it.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.failed_path = failed_file(path)
        self.about = dict(about)
        self.done = read_done(path, about)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            _lock(self._file.fileno(), path)
            self.done = read_done(path, about)  # another run may have ended meanwhile
            end = _whole_length(path)
            if end < path.stat().st_size:
                os.truncate(path, end)
            self.failed_path.unlink(missing_ok=True)
        except BaseException:
            self._file.close()
            raise
        self._failed: Any = None
        self._unsynced = 0

    def append(self, item: Item[Any], outcome: Outcome, cost: float | None, currency: str) -> None:
        """Write a judgement through to the operating system."""
        row = {"item": item.key, "record": item.number, "character": item.character, "judge": self.about}
        row |= outcome.content
        if outcome.usage.calls:
            row["usage"] = outcome.usage.model_dump()
            row |= {"cost": cost, "currency": None if cost is None else currency}
        self._file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
        self._file.flush()
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
            os.fsync(self._file.fileno())
            self._unsynced = 0
        self.done.add(item.key)

    def append_failed(self, item: Item[Any], reasons: tuple[str, ...]) -> None:
        """Note a dialogue without a judgement."""
        if self._failed is None:
            self._failed = self.failed_path.open("wb")
        row = {"item": item.key, "record": item.number, "character": item.character, "reasons": list(reasons)}
        self._failed.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
        self._failed.flush()

    def __enter__(self) -> JudgementFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        if self._failed is not None:
            self._failed.close()


def read_done(path: Path, about: Mapping[str, Any]) -> set[str]:
    """Keys of the dialogues that have a judgement in the file; none if there is no file.

    Raises:
        ValueError: the file holds something else, or judgements of another judge.
    """
    done: set[str] = set()
    if not path.exists():
        return done
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # left unfinished by a killed run
            try:
                row = json.loads(line)
                key, judge = str(row["item"]), dict(row["judge"])
            except (ValueError, KeyError, TypeError) as error:
                raise DPGError(f"{path}, line {number}: no judgement of a dialogue; name another file") from error
            other = ", ".join(name for name in {**judge, **about} if judge.get(name) != about.get(name))
            if other:
                raise DPGError(f"{path} holds judgements by another judge (other {other}); name another file")
            done.add(key)
    return done


async def judge_items(
    items: Iterator[Item[T]],
    protocol: JudgingProtocol[T],
    answers: Answers,
    output: JudgementFile,
    cost_of: Callable[[Usage], float | None],
    currency: str,
    *,
    workers: int,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Judge what has no judgement yet, ``workers`` dialogues at a time; the input is read as it is needed.

    Raises:
        LLMError: the server cannot be used at all; what is judged is in the file.
    """
    summary = Summary()

    async def work() -> None:
        for item in items:
            if item.key in output.done:
                summary.before += 1
            elif item.subject is None:
                _fail(summary, output, item, (str(item.problem),))
            else:
                outcome = await protocol.judge(answers, item.subject, item.name)
                if outcome.failed:
                    _fail(summary, output, item, outcome.failed)
                else:
                    output.append(item, outcome, cost_of(outcome.usage), currency)
                    summary.judged += 1
                    summary.usage = summary.usage + outcome.usage
            if progress is not None:
                progress(summary)

    await all_or_first_error([work() for _ in range(workers)])
    return summary


def judge_items_here(
    items: Iterator[Item[Dialogue]],
    protocol: LikelihoodProtocol,
    output: JudgementFile,
    *,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """`judge_items` with a model in this process."""
    summary = Summary()
    for item in items:
        if item.key in output.done:
            summary.before += 1
        elif item.subject is None:
            _fail(summary, output, item, (str(item.problem),))
        else:
            output.append(item, protocol.judge(item.subject), None, "")
            summary.judged += 1
        if progress is not None:
            progress(summary)
    return summary


def open_calls(items: Iterator[Item[T]], protocol: JudgingProtocol[T], done: set[str]) -> Iterator[Call[Any]]:
    """The calls of all dialogues that have no judgement yet."""
    for item in items:
        if item.key not in done and item.subject is not None:
            yield from protocol.calls(item.subject, item.name)


def _fail(summary: Summary, output: JudgementFile, item: Item[Any], reasons: tuple[str, ...]) -> None:
    output.append_failed(item, reasons)
    summary.failed += 1
    summary.reasons[reasons[0].partition(":")[0][:80]] += 1


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The finished rows of a JSON Lines file, one at a time; none if there is no file."""
    if path.exists():
        with path.open("rb") as file:
            yield from (json.loads(line) for line in file if line.endswith(b"\n"))


def _whole_length(path: Path) -> int:
    """Bytes up to the last line end."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
    return 0


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one file are the user's to avoid
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DPGError(f"another run is writing {path}") from error
