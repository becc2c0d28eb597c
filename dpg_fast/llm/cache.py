"""Replies kept on disk, addressed by their content: what was asked decides where the answer lies.

One SQLite file in WAL mode. A reply is committed (and synced) before anything else is done with it, so a process that is
killed loses at most the calls that were under way. Any number of processes of one machine may share the file; do not put
it on a network file system. Keys, prompts' hashes and replies are stored; API keys never are.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import checked, explain, require_regular

SCHEMA_VERSION = 1
_BUSY_SECONDS = 60.0
_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, prompt_version TEXT NOT NULL, created REAL NOT NULL, reply TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    key TEXT PRIMARY KEY, item TEXT NOT NULL, prompt_version TEXT NOT NULL, created REAL NOT NULL,
    times INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, vector BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY, process INTEGER NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
"""


class Reply(BaseModel):
    """What a server answered to one request.

    Attributes:
        content: the text; None if there was none.
        finish_reason: "stop", "length", "content_filter" or what the server says.
        refusal: the model's refusal, where the server reports it apart.
        prompt_tokens, cached_prompt_tokens, completion_tokens: the server's count, None if it gave none.
        served_by: the model name in the reply, which may be more exact than the one asked for.
        mode: how the structure was asked for: json_schema, json_object or text.
    """

    model_config = ConfigDict(frozen=True)

    content: str | None = None
    finish_reason: str | None = None
    refusal: str | None = None
    prompt_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    completion_tokens: int | None = None
    served_by: str | None = None
    mode: str | None = None


class StoredFailure(BaseModel):
    """An item that failed when it was last tried, and how often it has."""

    model_config = ConfigDict(frozen=True)

    key: str
    item: str
    prompt_version: str
    created: float
    times: int
    kind: str
    detail: str


class ReplyCache:
    """The replies, failures and embeddings stored in ``path`` (created with its folder if needed). Thread-safe.

    Raises:
        ValueError: the file is not such a cache, or was written by a newer version of this package.
        OSError: the file or its folder cannot be written, or the disk is full; methods raise it as well.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            require_regular(self.path)
        self._lock = threading.Lock()
        self._owner = uuid.uuid4().hex
        with _named(self.path):
            self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        execute = self._connection.execute
        tables = {str(name) for (name,) in execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "replies" not in tables:  # before anything is changed
            raise DPGError(f"{self.path} is not a reply cache: it is a database of {', '.join(sorted(tables))}")
        self._enter_wal()
        execute("PRAGMA synchronous = FULL")
        execute("BEGIN IMMEDIATE")
        try:
            version = execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise DPGError(f"{self.path} has cache version {version}; this package reads up to {SCHEMA_VERSION}")
            for statement in _TABLES.split(";"):
                execute(statement)
            execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                execute("ROLLBACK")
            raise

    def _enter_wal(self) -> None:
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:  # the switch itself does not wait for other processes
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def get(self, key: str) -> Reply | None:
        """The reply stored under ``key``."""
        row = self._one("SELECT reply FROM replies WHERE key = ?", (key,))
        if row is None:
            return None
        try:
            return Reply.model_validate_json(row[0])
        except ValidationError as error:
            raise DPGError(f"{self.path}, reply {key}: {explain(error)}") from error

    def put(self, key: str, reply: Reply, *, model: str, prompt_version: str, replace: bool = False) -> Reply:
        """Store ``reply`` and return what is stored: with ``replace=False`` the first one written wins."""
        self._write(
            f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO replies VALUES (?, ?, ?, ?, ?)",
            (key, model, prompt_version, time.time(), reply.model_dump_json(exclude_none=True)),
        )
        stored = self.get(key)
        assert stored is not None
        return stored

    def claim(self, key: str, seconds: float) -> bool:
        """Whether to ask for ``key`` now; if not, another process (or another open cache) is asking and has not given up.

        Args:
            seconds: after which others may ask too. They may at once where the process has ended.
        """
        now = time.time()
        row = self._one("SELECT process, owner, until FROM claims WHERE key = ?", (key,))
        if row is not None and row[1] != self._owner and row[2] > now and _runs(row[0]):
            return False
        values = (key, os.getpid(), self._owner, now + seconds)
        if row is None:
            self._write("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?)", values)
        else:
            self._write(
                "UPDATE claims SET process = ?2, owner = ?3, until = ?4 WHERE key = ?1 AND owner = ?5",
                (*values, row[1]),
            )
        held = self._one("SELECT owner FROM claims WHERE key = ?", (key,))
        return held is not None and held[0] == self._owner

    def release(self, key: str) -> None:
        """Let others ask for ``key``."""
        self._write("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner))

    def add_failure(self, key: str, *, item: str, prompt_version: str, kind: str, detail: str) -> None:
        """Note that an item failed (again)."""
        self._write(
            "INSERT INTO failures VALUES (?, ?, ?, ?, 1, ?, ?) ON CONFLICT (key) DO UPDATE SET item = excluded.item, "
            "created = excluded.created, times = times + 1, kind = excluded.kind, detail = excluded.detail",
            (key, item, prompt_version, time.time(), kind, detail),
        )

    def clear_failure(self, key: str) -> None:
        """Forget a failure, after the item has succeeded."""
        if self._one("SELECT 1 FROM failures WHERE key = ?", (key,)) is not None:
            self._write("DELETE FROM failures WHERE key = ?", (key,))

    def failures(self, prompt_version: str | None = None) -> list[StoredFailure]:
        """What failed when last tried, oldest first; of one prompt version if that is given."""
        where, values = ("", ()) if prompt_version is None else (" WHERE prompt_version = ?", (prompt_version,))
        names = list(StoredFailure.model_fields)
        with self._lock, _named(self.path):
            rows = self._connection.execute(
                f"SELECT {', '.join(names)} FROM failures{where} ORDER BY created", values
            ).fetchall()
        return [checked(StoredFailure, dict(zip(names, row, strict=True)), f"{self.path}, failures") for row in rows]

    def vectors(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The stored embeddings among ``keys``: little-endian float32."""
        found = {}
        for key in keys:
            row = self._one("SELECT vector FROM embeddings WHERE key = ?", (key,))
            if row is not None:
                found[key] = row[0]
        return found

    def put_vectors(self, model: str, vectors: dict[str, bytes]) -> None:
        """Store embeddings, all or none."""
        with self._lock, _named(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)",
                [(key, model, vector) for key, vector in vectors.items()],
            )

    def __len__(self) -> int:
        row = self._one("SELECT count(*) FROM replies", ())
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._lock, _named(self.path):
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
            return row

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._lock, _named(self.path):
            self._connection.execute(statement, values)


def _runs(process: int) -> bool:
    """Whether there is such a process on this machine, as far as one can tell."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


#: SQLite's codes for what is the disk's or the file system's, and the errors that they are
_OF_THE_DISK = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """SQLite's errors inside name the file: an `OSError` where it is the disk's, else a `DPGError`."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        number = _OF_THE_DISK.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if number is not None:
            raise OSError(number, f"the reply cache cannot be used: {error}", str(path)) from error
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        what = "is in use by another process" if busy else "is not a reply cache"
        raise DPGError(f"{path} {what}: {error}") from error
