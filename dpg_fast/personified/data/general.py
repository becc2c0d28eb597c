"""General instructions, answered in character: those of the package, or a file's."""

from __future__ import annotations

from pathlib import Path

from dpg_fast.personified.data.wording import INSTRUCTIONS
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import parse_json, text_lines

__all__ = ["INSTRUCTIONS", "load_instructions"]


def load_instructions(path: Path) -> tuple[str, ...]:
    """Instructions of a file: one a line, or JSON Lines with "instruction", "prompt" or "question".

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8, holds no instruction, or a JSON line has none of the keys.
    """
    found = []
    for where, line in text_lines(path):
        line = line.strip()
        if not line.startswith("{"):
            found.append(line)
            continue
        try:
            entry = parse_json(line, where)
            found.append(next(str(entry[key]) for key in ("instruction", "prompt", "question") if entry.get(key)))
        except (DPGError, StopIteration) as error:
            raise DPGError(f'{where}: wanted {{"instruction": "..."}}') from error
    if not found:
        raise DPGError(f"{path.name} holds no instruction")
    return tuple(dict.fromkeys(found))
