"""Blind pairs for people: two answers to one question, one of each end of a trait, sides hidden; and the score of a filled sheet.

The sheet is a CSV file for any spreadsheet. Its column "higher" is filled in with A, B, or ? where the reader cannot tell. Which
side is which stands in another file, the key. Answers that are alike word for word cannot be told apart and are counted open.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import Table, number
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.identity import digest
from dpg_fast.util.reading import checked, read_json, read_text
from dpg_fast.util.results import write_results
from dpg_fast.util.stats import wilson

SHEET, KEY = "sheet.csv", "key.json"
COLUMNS = ("pair", "trait", "question", "A", "B", "higher")
OPEN = "?"
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet would compute a cell that begins so
_ALL = "all"


class _Answer(TypedDict):
    method: str
    trait: str
    level: float
    question: str
    answer: str


class _Results(TypedDict):
    levels: list[float]
    answers: list[_Answer]


class _Pair(TypedDict):
    method: str
    trait: str
    higher: str  # "A", "B", or "" where the answers are alike


class _Key(TypedDict):
    sheet: str
    pairs: dict[str, _Pair]


@dataclass
class Tally:
    """Pairs that were read right, wrong, and left open (alike ones included)."""

    right: int = 0
    wrong: int = 0
    open: int = 0
    alike: int = 0

    @property
    def share(self) -> tuple[float, float, float] | None:
        """Right ones among those decided, with Wilson's 95% interval; None if none was."""
        decided = self.right + self.wrong
        return (self.right / decided, *wilson(self.right, decided)) if decided else None


@dataclass
class PairScores:
    """What came of a sheet: method -> trait ("all" for all) -> tally."""

    methods: dict[str, dict[str, Tally]] = field(default_factory=dict)

    def table(self) -> Table:
        """Right / wrong / open, and the share of right ones."""
        rows = [
            [
                name if trait == _ALL else "",
                trait,
                f"{own.right} / {own.wrong} / {own.open}",
                str(own.alike),
                _share(own),
            ]
            for name, traits in self.methods.items()
            for trait, own in traits.items()
        ]
        caption = (
            "Blind pairs: right, wrong and open (alike ones included); share of right ones among those decided, with Wilson's "
            "95% interval. 0.5 is chance"
        )
        return Table(["method", "trait", "right / wrong / open", "alike", "share"], rows, caption, left=2)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            name: {trait: {**vars(own), "share": own.share} for trait, own in traits.items()}
            for name, traits in self.methods.items()
        }


def write_pairs(
    results: Path, out: Path, *, methods: Sequence[str] | None = None, limit: int | None = None, seed: int = 0
) -> tuple[Path, int, int]:
    """Write the sheet and its key from the answers of an evaluation at its two ends.

    Args:
        results: ``results.json`` of an evaluation of traits, or its folder.
        out: folder for both files.
        methods: taken; None: all but the bare model, which says the same at both ends.
        limit: most pairs of each method and trait, drawn at random.
        seed: of the draw, the order and the sides.

    Returns:
        The sheet, its pairs, and how many more are alike and therefore only in the key.

    Raises:
        OSError: no such file.
        ValueError: not an evaluation's results, a method that is not in it, or a sheet that is there already.
    """
    if results.is_dir():
        results = results / "results.json"
    content: _Results = checked(_Results, read_json(results), results.name)
    for name in (SHEET, KEY):
        if (out / name).exists():
            raise DPGError(f"{out / name} is there already, and may be filled in; name another folder")
    low, high = min(content["levels"]), max(content["levels"])
    found: dict[tuple[str, str, str], dict[float, str]] = {}
    for row in content["answers"]:
        if row["level"] in (low, high):
            found.setdefault((row["method"], row["trait"], row["question"]), {})[row["level"]] = row["answer"]
    known = list(dict.fromkeys(method for method, _, _ in found if method != "bare"))
    unknown = [name for name in methods or () if name not in known]
    if unknown:
        raise DPGError(f"{results.name} has no answers of {', '.join(unknown)}; it has {', '.join(known)}")
    draw = random.Random(seed)
    chosen: list[tuple[tuple[str, str, str], str, str]] = []
    for method in methods or known:
        for trait in Trait:
            own = [
                (key, ends[high], ends[low])
                for key, ends in found.items()
                if key[:2] == (method, trait.value) and {low, high} <= set(ends)
            ]
            chosen += own if limit is None else draw.sample(own, min(limit, len(own)))
    if not chosen:
        raise DPGError(f"{results.name} has no answers at both ends, {low:+g} and {high:+g}")
    draw.shuffle(chosen)
    sheet, pairs = [], {}
    for place, ((method, trait_name, question), above, below) in enumerate(chosen, 1):
        number_of = str(place)
        alike = above.strip() == below.strip()
        side = draw.choice("AB")
        pairs[number_of] = {"method": method, "trait": trait_name, "higher": "" if alike else side}
        if not alike:
            left, right = (above, below) if side == "A" else (below, above)
            sheet.append([number_of, trait_name, question, left, right, ""])
    write_results(out / KEY, {"sheet": _fingerprint(row[0] for row in sheet), "pairs": pairs})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *([_cell(cell) for cell in row] for row in sheet)])
    write_text(out / SHEET, text.getvalue())
    return out / SHEET, len(sheet), len(pairs) - len(sheet)


def score_pairs(sheet: Path, key: Path) -> PairScores:
    """Score a filled sheet.

    Raises:
        OSError: a file is missing.
        ValueError: files that do not belong together, pairs that are missing or there twice, or another mark than A, B or ?.
    """
    told: _Key = checked(_Key, read_json(key), key.name)
    marks: dict[str, str] = {}
    rows = csv.DictReader(io.StringIO(read_text(sheet).removeprefix("\ufeff")))
    if not {"pair", "higher"} <= set(rows.fieldnames or ()):
        raise DPGError(f"{sheet.name}: the first line has no columns pair and higher; it has {rows.fieldnames}")
    for row in rows:
        pair, mark = (row["pair"] or "").strip(), (row["higher"] or "").strip().upper()
        if pair in marks or pair not in told["pairs"] or not told["pairs"][pair]["higher"]:
            raise DPGError(f"{sheet.name}: pair {pair!r} is there twice, or is not in {key.name}")
        if mark not in ("A", "B", OPEN):
            raise DPGError(f"{sheet.name}, pair {pair}: higher is A, B or {OPEN}, not {mark or 'empty'!r}")
        marks[pair] = mark
    if _fingerprint(marks) != told["sheet"]:
        raise DPGError(f"{sheet.name} has {len(marks)} pairs, not those of {key.name}; rows were left out")
    found = PairScores()
    for number_of, pair_of in told["pairs"].items():
        traits = found.methods.setdefault(pair_of["method"], {_ALL: Tally()})
        for tally in (traits[_ALL], traits.setdefault(pair_of["trait"], Tally())):
            if not pair_of["higher"]:
                tally.alike += 1
            mark = marks.get(number_of, OPEN)
            if mark == OPEN:
                tally.open += 1
            elif mark == pair_of["higher"]:
                tally.right += 1
            else:
                tally.wrong += 1
    order = [_ALL, *(trait.value for trait in Trait)]
    found.methods = {
        name: {trait: own[trait] for trait in order if trait in own} for name, own in sorted(found.methods.items())
    }
    return found


def _fingerprint(pairs: Iterable[str]) -> str:
    return digest(sorted(pairs, key=int), 16)


def _cell(text: str) -> str:
    return f" {text}" if text.startswith(_FORMULA) else text


def _share(tally: Tally) -> str:
    share = tally.share
    return "-" if share is None else f"{number(share[0])} [{number(share[1])}, {number(share[2])}]"
