"""Who a request may ask for: what it spells out, and what was saved under a name."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpg_fast.personality.row import Row
from dpg_fast.personality.scores import PRESETS
from dpg_fast.serving.admission import canonical, read_request
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import checked, read_json, refusing

__all__ = ["People"]

SCHEMA = "dpg_fast.personalities/1"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
MOST = 10_000


class People:
    """Saved personalities, in one JSON file that is whole at any moment.

    Args:
        file: of them; None keeps them until the process ends.
        check: raises ValueError for what the model cannot give.

    Raises:
        ValueError: the file holds something else, or what the model cannot give.
    """

    def __init__(self, file: Path | None, check: Callable[[Row], None]) -> None:
        self._file, self._check = file, check
        self._lock = threading.Lock()
        self._saved: dict[str, str] = {}
        if file is not None and file.exists():
            with refusing(file):
                held = read_json(file)
                if not isinstance(held, Mapping) or held.get("schema") != SCHEMA:
                    raise DPGError(f"this is not a file of {SCHEMA}")
                for name, text in checked(dict[str, str], held.get("personalities"), "personalities").items():
                    self._saved[name] = self._read_new(name, text)

    def read(self, value: Any) -> Row | None:
        """What a request's ``personality`` asks for; None is the base model.

        Raises:
            ValueError: it cannot be read, or given.
        """
        if isinstance(value, str):
            if value.strip().lower() in ("none", "base"):
                return None
            value = self._saved.get(value.strip(), value)
        row = read_request(value)
        if row is not None:
            self._check(row)
        return row

    def save(self, name: str, value: Any) -> str:
        """Put a personality, or another one, under a name; gives its canonical text.

        Raises:
            ValueError: a name that means something already, or what :meth:`read` refuses.
            OSError: it cannot be written; nothing has changed.
        """
        with self._lock:
            text = self._read_new(name, value)
            if name not in self._saved and len(self._saved) >= MOST:
                raise DPGError(f"{MOST} personalities are saved, which is the most")
            self._write({**self._saved, name: text})
        return text

    def delete(self, name: str) -> None:
        """Forget a saved personality; requests that speak with it go on.

        Raises:
            KeyError: there is none.
            OSError: as :meth:`save`.
        """
        with self._lock:
            saved = dict(self._saved)
            del saved[name]
            self._write(saved)

    def list(self) -> list[dict[str, Any]]:
        """Presets and saved ones."""
        presets = [{"name": name, "personality": str(p), "saved": False} for name, p in PRESETS.items()]
        return presets + [{"name": n, "personality": text, "saved": True} for n, text in sorted(self._saved.items())]

    def _read_new(self, name: str, value: Any) -> str:
        if NAME.fullmatch(name) is None:
            raise DPGError(
                f"{name!r} is not a name: up to 64 letters, digits, '.', '_' and '-', the first of them a letter"
            )
        try:
            meant = name.lower() in ("none", "base") or read_request(name) is not None
        except DPGError:
            meant = False
        if meant:
            raise DPGError(f"{name!r} means a personality already; choose another name")
        row = read_request(value)
        if row is None:
            raise DPGError("the base model cannot be saved; ask for it with null")
        self._check(row)
        return canonical(row)

    def _write(self, saved: dict[str, str]) -> None:
        if self._file is not None:
            held = {"schema": SCHEMA, "personalities": saved}
            write_text(self._file, json.dumps(held, ensure_ascii=False, indent=1) + "\n")
        self._saved = saved
