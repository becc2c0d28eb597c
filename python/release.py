"""Whether the version and the changelog allow a release. Behind `make check` and the workflow of a release.

python python/release.py check        # the changelog has an [Unreleased] part on top, and dated versions, newest first
python python/release.py tag v0.1.0   # and the tag is v + the version of the package, whose part is dated and not empty
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<day>\S+))?\s*$", re.M)


def version() -> str:
    """The one of dpg_fast/__init__.py, from which pyproject.toml takes it too."""
    text = (ROOT / "dpg_fast" / "__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"$', text, re.M)[0]


def parts(changelog: str) -> dict[str, tuple[str | None, str]]:
    """Date and text of each version of a changelog, in its order."""
    found = list(HEADING.finditer(changelog))
    ends = [match.start() for match in found[1:]] + [len(changelog)]
    return {
        match["name"]: (match["day"], changelog[match.end() : end].strip())
        for match, end in zip(found, ends, strict=True)
    }


def faults(changelog: str, current: str, tag: str | None = None) -> list[str]:
    """What is wrong with a changelog for this version, and for this tag if one is given."""
    said = []
    have = parts(changelog)
    names = list(have)
    if names[:1] != ["Unreleased"]:
        said.append("CHANGELOG.md: the first part is not ## [Unreleased]")
    released = [name for name in names if name != "Unreleased"]
    odd = [name for name in released if not re.fullmatch(r"\d+\.\d+\.\d+", name)]
    said += [f"CHANGELOG.md: '{name}' is not a version such as 0.1.0" for name in odd]
    for name in released:
        day = have[name][0]
        try:
            date.fromisoformat(day or "")
        except ValueError:
            said.append(f"CHANGELOG.md: {name} has no date such as ## [{name}] - 2026-12-01")
    numbers = [tuple(map(int, name.split("."))) for name in released if name not in odd]
    if numbers != sorted(numbers, reverse=True):
        said.append("CHANGELOG.md: versions do not stand newest first")
    if tag is not None:
        if tag != f"v{current}":
            said.append(f"the tag is {tag}, the version of the package {current}: the tag must be v{current}")
        if current not in released:
            said.append(f"CHANGELOG.md: no part ## [{current}]")
        elif not have[current][1]:
            said.append(f"CHANGELOG.md: the part of {current} is empty")
        elif released[0] != current:
            said.append(f"CHANGELOG.md: the newest version is {released[0]}, not {current}")
    return said


def main(words: Sequence[str]) -> int:
    """Run one of the commands; status 1 when something is wrong."""
    match words:
        case ["check"]:
            tag = None
        case ["tag", name]:
            tag = name
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    said = faults((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version(), tag)
    print("\n".join(said) if said else f"version {version()}, changelog in order")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
