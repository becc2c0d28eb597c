"""General instructions, answered in character: those of the package, or a file's."""

from __future__ import annotations

import json
from pathlib import Path

from dpg_fast.personified.data.wording import INSTRUCTIONS
from dpg_fast.util.errors import DPGError

__all__ = ["INSTRUCTIONS", "load_instructions"]


def load_instructions(path: Path) -> tuple[str, ...]:
    """Instructions of a file: one a line, or JSON Lines with "instruction", "prompt" or "question".

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8, holds no instruction, or a JSON line has none of the keys.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DPGError(f"{path.name} is not UTF-8: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.startswith("{"):
            found.append(line)
            continue
        try:
            entry = json.loads(line)
            found.append(next(str(entry[key]) for key in ("instruction", "prompt", "question") if entry.get(key)))
        except (json.JSONDecodeError, StopIteration) as error:
            raise DPGError(f'{path.name}, line {number}: wanted {{"instruction": "..."}}') from error
    if not found:
        raise DPGError(f"{path.name} holds no instruction")
    return tuple(dict.fromkeys(found))
