"""Records of a long job on disk, appended as they come, so that a killed job goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import naming
from dpg_fast.util.identity import differences, plain, refuse
from dpg_fast.util.reading import checked, open_regular, parse_json, require_regular

FORMAT = "dpg_fast store 1"
_BEGINNING = b'{"format": "dpg_fast store '
Key = tuple[Any, ...]
Row = dict[str, Any]


class Store:
    """Keyed records of one job: a JSON Lines file whose first line says what the records depend on.

    A record is on the disk when `append` returns (see ``sync_every``); an `append` that fails leaves the file as it was. A
    line that a killed process left unfinished is dropped when the file is opened again. One process writes a file at a time.

    Args:
        path: the file, made with its directory if needed; None keeps the records in memory alone.
        about: all that the records depend on, JSON-ready; records of a job about something else are refused.
        key: fields that tell records apart.
        sync_every: appends between two that are forced to the disk. Those between survive a kill, but not a power failure.
        keep: hold whole records in memory; otherwise only their keys, and `rows` is empty.
        read_only: for a look at what is there. Nothing is made, locked or changed.
        free: whether the setting of a dotted name may differ from the one that the file was begun with.

    Raises:
        ValueError: the file is of another job or another format (it is left as it was), or another process is writing it.
    """

    def __init__(
        self,
        path: Path | str | None,
        about: Mapping[str, Any],
        key: Sequence[str],
        *,
        sync_every: int = 1,
        keep: bool = True,
        read_only: bool = False,
        free: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.key = tuple(key)
        self.rows: dict[Key, Row] = {}
        self._keys: set[Key] = set()
        self._keep, self._file, self._end = keep, -1, 0
        self._sync_every, self._unsynced = sync_every, 0
        if self.path is None or (read_only and not self.path.exists()):
            return
        told = plain(about)
        if read_only:
            with open_regular(self.path) as lines:
                self._load(self.path, lines, told, free)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            require_regular(self._file, self.path)
            _lock(self._file, self.path)
            with os.fdopen(os.dup(self._file), "rb") as lines:
                self._end = self._load(self.path, lines, told, free)
            if self._end < os.fstat(self._file).st_size:
                os.ftruncate(self._file, self._end)
            if self._end == 0:
                self._write(json.dumps({"format": FORMAT, "about": told}, ensure_ascii=False) + "\n")
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __getitem__(self, key: Key) -> Row:
        return self.rows[key]

    def __len__(self) -> int:
        return len(self._keys)

    def append(self, rows: Iterable[Row]) -> None:
        """Add records, written through to the disk; a later record replaces an earlier one of the same key.

        Raises:
            KeyError, TypeError, ValueError: a record lacks a field of the key, or holds what JSON cannot.
            OSError: the disk is full or gone.
        """
        added = [(self._key(row), row) for row in rows]
        if self.path is not None and added:
            if self._file < 0:
                raise DPGError(f"{self.path} is not open for writing")
            self._write("".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for _, row in added))
        for key, row in added:
            self._add(key, row)

    def close(self) -> None:
        """Let other processes write the file; records in memory stay."""
        if self._file >= 0:
            descriptor, self._file = self._file, -1
            try:
                if self._unsynced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def _key(self, row: Row) -> Key:
        return tuple(row[name] for name in self.key)

    def _add(self, key: Key, row: Row) -> None:
        self._keys.add(key)
        if self._keep:
            self.rows[key] = row

    def _load(self, path: Path, lines: Iterable[bytes], about: dict[str, Any], free: Callable[[str], bool]) -> int:
        """Read header and records; the length up to the last whole line."""
        length = 0
        for number, line in enumerate(lines):
            if number == 0:
                before = _header(path, line)
                if before is None:
                    return 0
                refuse(path, differences(before, about, free))
            elif line.endswith(b"\n"):
                where = f"{path}, line {number + 1}"
                row = checked(dict[str, Any], parse_json(line, where), where)
                try:
                    self._add(self._key(row), row)
                except (KeyError, TypeError) as error:
                    raise DPGError(f"{where} is not a record: its key lacks {error}") from error
            else:
                break  # left unfinished by a killed process
            length += len(line)
        return length

    def _write(self, text: str) -> None:
        assert self.path is not None
        data = text.encode("utf-8")
        with naming(self.path):
            try:
                written = 0
                os.ftruncate(self._file, self._end)  # what an interrupted append may have left behind
                os.lseek(self._file, self._end, os.SEEK_SET)
                while written < len(data):
                    written += os.write(self._file, data[written:])
                self._unsynced += 1
                if self._end == 0 or self._unsynced >= self._sync_every:
                    os.fsync(self._file)
                    self._unsynced = 0
            except BaseException:
                os.ftruncate(self._file, self._end)
                raise
        self._end += len(data)


def read_about(path: Path) -> dict[str, Any] | None:
    """What the records of a store are about; None if there is no file.

    Raises:
        ValueError: the file is of another format.
    """
    return next((_header(path, line) for line in whole_lines(path)), None)


def read_rows(path: Path) -> Iterator[Row]:
    """The whole records of a store, one at a time, whatever they are about; none if there is no file.

    Raises:
        ValueError: the file is of another format.
    """
    for number, line in enumerate(whole_lines(path)):
        if number == 0:
            _header(path, line)
        else:
            yield parse_json(line, f"{path}, line {number + 1}")


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that end as lines do; none if there is no file."""
    if path.exists():
        with open_regular(path) as file:  # bytes: a text may hold U+2028 or U+0085, which end no record
            yield from (line for line in file if line.endswith(b"\n"))


def _header(path: Path, line: bytes) -> dict[str, Any] | None:
    """What a store is about; None if its first line was left unfinished by a killed process.

    Raises:
        ValueError: this is not a store's first line.
    """
    if not line.endswith(b"\n") and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
        return None
    try:
        header = parse_json(line, path)
        form, about = header["format"], dict(header["about"])
    except (ValueError, KeyError, TypeError):
        raise DPGError(f"{path} is not a {FORMAT!r} file: its first line says nothing of the kind") from None
    if form != FORMAT:
        raise DPGError(f"{path} is a {form!r} file; this version reads {FORMAT!r}")
    return about


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one file are the user's to avoid
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DPGError(f"another process is writing {path}; wait until it has ended") from error
    except OSError:  # a file system without locks
        return
