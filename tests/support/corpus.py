"""Inputs that fuzzing keeps (`make fuzz`), in tests/data/fuzz: what once failed, and cases of each kind that never may.

``ops.jsonl`` holds a case of tests/kernels/mutations.py on each line; a folder, named as in tests/util/test_mutated.py, damaged
files ``<anything>-<name of the file>``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tests.kernels.mutations import Case
from tests.support import ROOT
from tests.support.mutation import fresh, outcome

CORPUS = ROOT / "tests" / "data" / "fuzz"
OPS = "ops.jsonl"


def read_cases(folder: Path = CORPUS) -> list[Case]:
    """The cases of ``folder/ops.jsonl``."""
    rows = [json.loads(line) for line in (folder / OPS).read_text(encoding="utf-8").splitlines()]
    return [Case(**{**row, "dtype": getattr(torch, row["dtype"])}) for row in rows]


def add_cases(cases: Sequence[Case], folder: Path) -> None:
    """Append cases to ``folder/ops.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OPS).open("a", encoding="utf-8") as file:
        for case in cases:
            file.write(json.dumps({**case._asdict(), "dtype": str(case.dtype).removeprefix("torch.")}) + "\n")


def replay(
    folder: Path, good: Path, names: Sequence[str], read: Callable[[Path], object], work: Path
) -> dict[str, str]:
    """Put each kept file of ``folder`` into a copy of ``good``, and read that. What failed, by file.

    Raises:
        ValueError: a kept file that is named after none of ``names``.
    """
    failed = {}
    for path in sorted(folder.iterdir()):
        name = next((name for name in names if path.name.endswith(f"-{name}")), None)
        if name is None:
            raise ValueError(f"{path}: the name ends with none of {', '.join(names)}")
        place = fresh(good, work)
        shutil.copyfile(path, place / name)
        came_to, detail = outcome(place, name, read)
        if came_to not in ("read", "refused"):
            failed[path.name] = f"{came_to}: {detail}"
    return failed
