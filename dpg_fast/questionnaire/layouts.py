"""Inventories as others publish them, turned into the rows of our format.

- A table (CSV, TSV) with columns for text, trait and key, such as MPI's ``mpi_120.csv`` (label_raw, text, label_ocean, key);
- PsychoBench's ``questionnaires.json``: of its questionnaires, the one whose categories are Big Five traits;
- TRAIT's ``personality_prompt_BFI.json``: for each trait statements of the "high" and the "low" pole; other traits are left out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dpg_fast.personality.scores import Trait
from dpg_fast.util.errors import DPGError

_KEYS = {
    **dict.fromkeys(("+", "1", "+1", "1.0", "positive", "positively", "pos", "direct", "forward", "plus", "high"), "+"),
    **dict.fromkeys(("-", "\u2212", "\u2013", "-1", "\u22121", "-1.0", "negative", "negatively", "neg"), "-"),
    **dict.fromkeys(("reverse", "reversed", "r", "minus", "low"), "-"),
}
_TRAITS = {
    "extroversion": Trait.EXTRAVERSION,
    "surgency": Trait.EXTRAVERSION,
    "intellect": Trait.OPENNESS,
    "imagination": Trait.OPENNESS,
    "intellect/imagination": Trait.OPENNESS,
    "openness to experience": Trait.OPENNESS,
    "open-mindedness": Trait.OPENNESS,
    "negative emotionality": Trait.NEUROTICISM,
}
_OPPOSITES = ("emotional stability", "emotional stability (reversed neuroticism)", "stability", "es")
_COLUMNS = {
    "text": ("text", "item", "statement", "question", "items"),
    "trait": ("trait", "label_ocean", "domain", "dimension", "factor", "construct"),
    "key": ("key", "keyed", "keying", "direction", "sign", "reverse", "reversed"),
    "facet": ("facet", "label_raw"),
    "id": ("id", "number", "item_id", "no"),
}
_NEEDED = ("text", "trait", "key")
_REVERSED = {"true": "-", "yes": "-", "1": "-", "false": "+", "no": "+", "0": "+", "": "+"}  # of a column "reverse"
_STEMS = {"BFI": "I see myself as someone who"}
_OPTION = re.compile(r"\b(\d) (?:denotes|means|=|represents) [\"'“]?([^\"'”,.;]+)")


def parse_key(value: object) -> str | None:
    """ "+" or "-" of a key in any usual spelling; None for anything else."""
    return None if isinstance(value, bool) else _KEYS.get(str(value).strip().casefold())


def parse_trait(text: str) -> tuple[Trait, bool]:
    """The trait of a name in use, and whether the name is of its opposite ("Emotional Stability").

    Raises:
        ValueError: no trait has that name.
    """
    name = " ".join(text.replace("_", " ").split()).casefold()
    if name in _OPPOSITES:
        return Trait.NEUROTICISM, True
    return _TRAITS.get(name) or Trait.parse(text), False


def foreign_rows(text: str, name: str) -> list[tuple[int, Any]] | None:
    """(line, value) of a header and items in our format, of a file in one of the other layouts; None if it is in none.

    Raises:
        ValueError: such a layout, but not an inventory of the Big Five.
    """
    stem = name.rpartition(".")[0] or name
    beginning = text.lstrip()[:1]
    if beginning not in ("{", "["):
        return _table(text, name, stem)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and value and all(isinstance(entry, dict) and "questions" in entry for entry in value):
        return _psychobench(value, name)
    poles = value.get("behavior", value) if isinstance(value, dict) else None
    if isinstance(poles, dict) and any(isinstance(entry, dict) and "high" in entry for entry in poles.values()):
        return _poles(poles, name, stem)
    return None


def _header(name: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return 1, {"format": "dpg-fast-inventory", "version": 1, "name": name} | {k: v for k, v in more.items() if v}


def _table(text: str, name: str, stem: str) -> list[tuple[int, Any]] | None:
    first = text.lstrip().split("\n", 1)[0]
    for separator in (",", ";", "\t"):
        names = [cell.strip().casefold() for cell in next(csv.reader([first], delimiter=separator), [])]
        columns = {what: next((c for c in known if c in names), None) for what, known in _COLUMNS.items()}
        if len(names) > 1 and columns["text"] is not None:
            break
    else:
        return None
    missing = [what for what in _NEEDED if columns[what] is None]
    if missing:
        raise DPGError(
            f"{name}: the table has no column {' and '.join(missing)}; accepted: "
            + "; ".join(f"{what} as {', '.join(_COLUMNS[what])}" for what in missing)
        )
    reader = csv.DictReader(io.StringIO(text.lstrip(), newline=""), names, delimiter=separator)
    next(reader)
    rows: list[tuple[int, Any]] = [_header(stem, stem="You" if columns["trait"] == "label_ocean" else "")]
    for number, row in enumerate(reader, 1):
        cell = {what: str(row.get(column) or "").strip() if column else "" for what, column in columns.items()}
        if not any(cell.values()):
            continue
        key = cell["key"]
        if columns["key"] in ("reverse", "reversed"):
            key = _REVERSED.get(key.casefold(), key)
        item = {"id": cell["id"] or str(number), "text": cell["text"], "trait": cell["trait"], "key": key}
        rows.append((reader.line_num, item | ({"facet": cell["facet"]} if cell["facet"] else {})))
    return rows


def _psychobench(value: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, Any]]:
    fitting = [entry for entry in value if _categories(entry) is not None]
    if len(fitting) != 1:
        names = ", ".join(str(entry.get("name")) for entry in (fitting or value))
        which = "several questionnaires" if fitting else "no questionnaire"
        raise DPGError(
            f"{name}: {which} with categories of the Big Five alone ({names}); put one into a file of its own"
        )
    entry = fitting[0]
    traits = _categories(entry)
    assert traits is not None
    title = str(entry.get("name") or "questionnaire")
    options = [text.strip() for _, text in sorted(_OPTION.findall(str(entry.get("prompt", ""))))]
    scale = entry.get("scale")
    levels = scale - 1 if type(scale) is int else 5
    if len(options) != levels or len(set(options)) != levels:
        if levels != 5:
            raise DPGError(f"{name}: the prompt of {title} does not name its {levels} ratings; write it in our format")
        options = []
    reverse = {str(number) for number in entry.get("reverse", [])}
    rows: list[tuple[int, Any]] = [_header(title, options=options, stem=_STEMS.get(title, ""))]
    for number, text in entry["questions"].items():
        for trait in traits.get(str(number), []):
            item = {"id": str(number), "text": str(text), "trait": trait, "key": "-" if str(number) in reverse else "+"}
            rows.append((1, item))
    return rows


def _categories(entry: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Question -> its traits; None if some category is not a Big Five trait."""
    found: dict[str, list[str]] = {}
    if not isinstance(entry.get("questions"), dict) or not entry.get("categories"):
        return None
    for category in entry["categories"]:
        try:
            parse_trait(str(category["cat_name"]))
        except (ValueError, KeyError, TypeError):
            return None
        for number in category.get("cat_questions", []):
            found.setdefault(str(number), []).append(str(category["cat_name"]))
    return found


def _poles(poles: Mapping[str, Any], name: str, stem: str) -> list[tuple[int, Any]]:
    rows: list[tuple[int, Any]] = [_header(stem)]
    for trait, sides in poles.items():
        try:
            parse_trait(trait)
        except ValueError:
            continue  # TRAIT's dark triad
        for side, key in (("high", "+"), ("low", "-")):
            for number, text in enumerate(sides.get(side, []) if isinstance(sides, dict) else [], 1):
                rows.append((1, {"id": f"{trait}-{side}-{number}", "text": text, "trait": trait, "key": key}))
    if len(rows) == 1:
        raise DPGError(f"{name}: none of its traits is of the Big Five: {', '.join(map(str, poles))}")
    return rows
