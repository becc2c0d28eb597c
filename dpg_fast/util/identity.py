"""Is this the same run? What results depend on is written beside them, and compared before they are continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import checked, read_json

_SHOWN = 8  # settings listed in a message
_SHORT = 40  # characters of a value that is still shown
_ABSENT = object()


def digest(value: Any, length: int = 64) -> str:
    """The first ``length`` hex digits of the SHA-256 of ``value`` (JSON types) in one canonical spelling."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def file_digest(path: Path, length: int = 16) -> str:
    """The first ``length`` hex digits of the SHA-256 of a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:length]


def plain(about: Mapping[str, Any]) -> dict[str, Any]:
    """``about`` as JSON gives it back: tuples become lists, paths and other objects their text."""
    found: dict[str, Any] = json.loads(json.dumps(dict(about), default=_as_text))
    return found


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Callable[[str], bool] = lambda name: False
) -> list[str]:
    """The settings in which two descriptions of a run differ, by dotted name and, where they are short, with both values.

    Args:
        before, now: JSON types, nested as one likes.
        free: whether the setting of a dotted name may differ.
    """
    old, new = _flat(before), _flat(now)
    return [
        _shown(name, old.get(name, _ABSENT), new.get(name, _ABSENT))
        for name in dict.fromkeys([*old, *new])
        if old.get(name, _ABSENT) != new.get(name, _ABSENT) and not free(name)
    ]


def refuse(path: Path, other: list[str]) -> None:
    """Raise the error that names what differs, unless nothing does.

    Raises:
        ValueError: ``other`` is not empty.
    """
    if other:
        listed = "; ".join(other[:_SHOWN]) + ("; and more" if len(other) > _SHOWN else "")
        raise DPGError(f"{path} belongs to another run, which differs in {listed}. Use another path or remove it")


def claim(
    path: Path,
    about: Mapping[str, Any],
    *,
    started: bool = True,
    free: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """Write what a run depends on to ``path``, or check that what stands there is the same run.

    Args:
        path: a JSON file.
        about: all that the run's results depend on; `plain` is written.
        started: whether there is something to continue. If not, the file is written whatever stands there.
        free: whether the setting of a dotted name may differ.

    Returns:
        What the file holds now: of the first run where one is continued.

    Raises:
        ValueError: the file is of another run; the message names what differs.
    """
    told = plain(about)
    if not started or not path.exists():
        write_text(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        return told
    try:
        before: dict[str, Any] = checked(dict[str, Any], read_json(path), path)
    except DPGError as error:
        raise DPGError(f"{path} does not describe a run ({error}). Use another path or remove it") from error
    refuse(path, differences(before, told, free))
    return before


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{where}{name}.")
        else:
            found[f"{where}{name}"] = value
    return found


def _shown(name: str, before: Any, now: Any) -> str:
    said = ["not set" if value is _ABSENT else json.dumps(value, ensure_ascii=False) for value in (before, now)]
    if max(map(len, said)) > _SHORT:
        return name
    return f"{name} ({said[0]} there, {said[1]} now)"


def _as_text(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
