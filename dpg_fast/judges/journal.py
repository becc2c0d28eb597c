"""Results of a long job, appended to a JSON Lines file as they come, so that a killed job continues where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text

Key = tuple[Any, ...]
Row = dict[str, Any]


class Journal:
    """Rows of one job, in memory and on disk. Its first line says which job it is.

    A line that a killed process left unfinished is dropped when the file is opened again.

    Args:
        path: the file; its directory is made if needed.
        about: everything that the rows depend on, JSON-ready; rows of a job about something else are not taken over.
        key: fields that tell rows apart.

    Raises:
        ValueError: the file belongs to another job, or is not a journal.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], key: Sequence[str]) -> None:
        self.path = Path(path)
        self.key = tuple(key)
        self.rows: dict[Key, Row] = {}
        digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()
        if not self.path.exists():
            write_text(self.path, json.dumps({"job": digest, "about": dict(about)}, ensure_ascii=False) + "\n")
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        try:
            # not splitlines(): a text may hold U+2028 or U+0085, which end no row
            head, *rows = [json.loads(line) for line in whole.split(b"\n") if line]
            found = head["job"]
        except (ValueError, KeyError, TypeError) as error:
            raise DPGError(f"{self.path} is not a journal of results: {error!r}") from error
        if found != digest:
            was = head.get("about", {})
            other = ", ".join(name for name in {**was, **about} if was.get(name) != dict(about).get(name))
            raise DPGError(
                f"{self.path} holds results of another job (other {other}); name another directory or remove it"
            )
        self.rows = {self._key(row): row for row in rows}

    def __contains__(self, key: Key) -> bool:
        return key in self.rows

    def __getitem__(self, key: Key) -> Row:
        return self.rows[key]

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows and write them through to the disk; a later row replaces an earlier one of the same key."""
        added = list(rows)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in added)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.rows.update((self._key(row), row) for row in added)

    def _key(self, row: Row) -> Key:
        return tuple(row[name] for name in self.key)


def is_scored(scores: Journal, key: Key) -> bool:
    """Whether a row of scores is there and final: a score, or nothing to judge. Failed calls are made again."""
    return key in scores and (bool(scores[key]["scores"]) or scores[key]["empty"])
