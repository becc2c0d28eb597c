"""Personality inventories: statements with a trait and a key, and the files that hold them.

A file is JSON Lines: a header, then one item a line. The same content as one JSON object has the header's keys and "items".

    {"format": "dpg-fast-inventory", "version": 1, "name": "my-inventory", "options": ["Very inaccurate", ...]}
    {"id": "e1", "text": "I talk to everybody.", "trait": "E", "key": "+", "facet": "friendliness"}

Header: `format` and `version` as above, `name`, `options` (2 to 9 texts from the lowest to the highest rating; default the five
of IPIP), and optionally `stem` (put before every item's text, such as "I" for "Worry about things."), `source`, `licence`.
Item: `id` (unique), `text`, `trait` (letter or name, "Emotional Stability" included), `key` ("+" or 1, or "-" or -1 where
agreement means less of the trait), and optionally `facet`. Other keys are errors. Published files of other layouts are read too,
see `layouts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.layouts import foreign_rows, parse_key, parse_trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import parse_json, read_json, read_text

FORMAT = "dpg-fast-inventory"
VERSION = 1
OPTIONS = (
    "Very inaccurate",
    "Moderately inaccurate",
    "Neither accurate nor inaccurate",
    "Moderately accurate",
    "Very accurate",
)
_HEADER = {"format", "version", "name", "options", "stem", "source", "licence"}
_ITEM = {"id", "text", "trait", "key", "facet"}
_ITEMS = re.compile(r'"items"\s*:\s*\[')


@dataclass(frozen=True)
class Item:
    """A statement: agreeing with it means more of `trait`, or less where `reverse`."""

    id: str
    text: str
    trait: Trait
    reverse: bool = False
    facet: str | None = None


@dataclass(frozen=True)
class Inventory:
    """Statements to be rated on one scale.

    Attributes:
        name: what results are filed under.
        items: in the order of the printed form; ids are unique.
        options: texts of the ratings 1, 2, ..., from the lowest to the highest.
        stem: put before every text.
        source, licence: where the items are from.

    Raises:
        ValueError: no items, repeated ids or empty texts, or not 2 to 9 different options.
    """

    name: str
    items: tuple[Item, ...]
    options: tuple[str, ...] = OPTIONS
    stem: str = ""
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.items:
            raise DPGError(f"inventory {self.name!r} has no items")
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise DPGError(f"inventory {self.name!r}: the item id {item.id!r} is used twice")
            if not item.text.strip():
                raise DPGError(f"inventory {self.name!r}: item {item.id!r} has no text")
            seen.add(item.id)
        if not 2 <= len(self.options) <= 9 or len(set(self.options)) != len(self.options):
            raise DPGError(f"inventory {self.name!r} needs 2 to 9 different options, not {list(self.options)}")

    @property
    def levels(self) -> int:
        """How many ratings there are; the highest one."""
        return len(self.options)

    @property
    def midpoint(self) -> float:
        """The middle of the scale: 3 of 1..5."""
        return (self.levels + 1) / 2

    @property
    def traits(self) -> tuple[Trait, ...]:
        """The traits that some item measures, in OCEAN order."""
        return tuple(trait for trait in Trait if any(item.trait == trait for item in self.items))

    def of_trait(self, trait: Trait) -> tuple[Item, ...]:
        """The items of one trait."""
        return tuple(item for item in self.items if item.trait == trait)

    def statement(self, item: Item) -> str:
        """The item as a sentence: "Worry about things." with the stem "I" becomes "I worry about things."."""
        text = item.text.strip()
        if not self.stem or text.startswith(self.stem + " "):
            return text
        return f"{self.stem} {text[0].lower()}{text[1:]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the header's keys and "items"."""
        return self._header() | {"items": [_item_dict(item) for item in self.items]}

    def save(self, path: Path | str) -> None:
        """Write the file that `load_inventory` reads: JSON if the name ends in .json, else JSON Lines."""
        if Path(path).suffix == ".json":
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
        else:
            rows = [self._header(), *(_item_dict(item) for item in self.items)]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(Path(path), text)

    def _header(self) -> dict[str, Any]:
        header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": self.name}
        header |= {key: getattr(self, key) for key in ("source", "licence", "stem") if getattr(self, key)}
        return header | {"options": list(self.options)}


def load_inventory(path: Path | str) -> Inventory:
    """Read an inventory file (see the module's text for its format).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of the format; the message names file and line.
    """
    path = Path(path)
    return parse_inventory(read_text(path), path.name)


@cache
def bundled_inventory() -> Inventory:
    """Sixty everyday statements that come with the package: 12 for each trait, one high and one low for each facet.

    They were written for this package and have not been validated on people.
    """
    text = resources.files("dpg_fast").joinpath("assets", "inventory.jsonl").read_text(encoding="utf-8")
    return parse_inventory(text, "inventory.jsonl")


def parse_inventory(text: str, name: str) -> Inventory:
    """The inventory in ``text``; ``name`` is the file's, for messages.

    Raises:
        ValueError: not of the format.
    """
    other = foreign_rows(text, name)
    rows = _rows(text, name) if other is None else iter(other)
    line, header = next(rows, (1, None))
    where = f"{name}, line {line}"
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DPGError(
            f'{where}: an inventory begins with {{"format": "{FORMAT}", "version": {VERSION}, "name": ..., '
            '"options": [...]}'
        )
    if header.get("version") != VERSION:
        raise DPGError(f"{where}: version {header.get('version')!r} is unknown; this program reads version {VERSION}")
    _check_keys(header, _HEADER, where)
    options = header.get("options", list(OPTIONS))
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DPGError(f'{where}: "options" is a list of texts from the lowest to the highest rating')
    items: list[Item] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        item = _item(row, f"{name}, line {line}")
        if item.id in lines:
            raise DPGError(f"{name}, line {line}: the id {item.id!r} was used on line {lines[item.id]} already")
        lines[item.id] = line
        items.append(item)
    try:
        return Inventory(
            name=_text(header, "name", where),
            items=tuple(items),
            options=tuple(options),
            **{key: _text(header, key, where) for key in ("stem", "source", "licence") if key in header},
        )
    except ValueError as error:
        raise DPGError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error


def read_questions(path: Path | str) -> tuple[list[tuple[int, str]], tuple[str, ...]]:
    """The items (id, text) and options of a file in the JSON format of `five-factor-e` (its questions.json).

    The file holds no keys: `published.load_published` adds them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of that format.
    """
    path = Path(path)
    content = read_json(path)
    parts: list[list[tuple[int, str]]] = []
    for key in ("questions", "select"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not rows:
            raise DPGError(f'{path.name}: needs "questions" and "select", lists of {{"id": 1, "text": "..."}}')
        for number, row in enumerate(rows, 1):
            ok = isinstance(row, dict) and type(row.get("id")) is int and isinstance(row.get("text"), str)
            if not ok or not row["text"].strip():
                raise DPGError(f'{path.name}: entry {number} of "{key}" needs "id" (a number) and "text", not {row!r}')
        parts.append(sorted((row["id"], row["text"].strip()) for row in rows))
        if [number for number, _ in parts[-1]] != list(range(1, len(rows) + 1)):
            raise DPGError(f'{path.name}: the ids of "{key}" must be 1 to {len(rows)}, each once')
    return parts[0], tuple(text for _, text in parts[1])


def read_answers(path: Path | str) -> dict[str, int]:
    """Item id -> rating of an answer sheet in the JSON format of `five-factor-e` (its answers.json).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of that format, or an id twice.
    """
    path = Path(path)
    content = read_json(path)
    rows = content.get("answers") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DPGError(f'{path.name}: needs "answers", a list of {{"id_question": 1, "id_select": 5}}')
    answers: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(type(row.get(key)) is int for key in ("id_question", "id_select")):
            raise DPGError(f'{path.name}: entry {number} needs the numbers "id_question" and "id_select", not {row!r}')
        if str(row["id_question"]) in answers:
            raise DPGError(f"{path.name}: question {row['id_question']} is answered twice")
        answers[str(row["id_question"])] = row["id_select"]
    return answers


def _rows(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of the header and of every item, of either form of file."""
    try:
        whole = parse_json(text, name)
    except DPGError:
        whole = None
    if isinstance(whole, dict) and "items" in whole:
        yield 1, {key: value for key, value in whole.items() if key != "items"}
        yield from _listed(text, name)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, parse_json(line, f"{name}, line {number}")


def _listed(text: str, name: str) -> Iterator[tuple[int, Any]]:
    found = _ITEMS.search(text)
    if found is None:
        raise DPGError(f'{name}: "items" is a list of items')
    decoder, position = json.JSONDecoder(), found.end()
    while True:
        position = _skip(text, position)
        if text[position] == "]":
            return
        value, end = decoder.raw_decode(text, position)
        yield text.count("\n", 0, position) + 1, value
        position = end


def _skip(text: str, position: int) -> int:
    while text[position] in " \t\r\n,":
        position += 1
    return position


def _item(row: Any, where: str) -> Item:
    if not isinstance(row, dict):
        raise DPGError(f"{where}: an item is an object, not {row!r}")
    _check_keys(row, _ITEM, where)
    key = parse_key(row.get("key"))
    if key is None:
        raise DPGError(f'{where}: "key" is "+" or "-", not {row.get("key")!r}')
    try:
        trait, opposite = parse_trait(_text(row, "trait", where))
    except ValueError as error:
        raise DPGError(str(error) if where in str(error) else f"{where}: {error}") from error
    facet = _text(row, "facet", where) if row.get("facet") is not None else None
    if type(row.get("id")) is int:
        row = row | {"id": str(row["id"])}
    return Item(_text(row, "id", where), _text(row, "text", where), trait, (key == "-") != opposite, facet)


def _item_dict(item: Item) -> dict[str, Any]:
    row = {"id": item.id, "text": item.text, "trait": item.trait.letter, "key": "-" if item.reverse else "+"}
    return row if item.facet is None else row | {"facet": item.facet}


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DPGError(f'{where}: needs "{key}" with a text')
    return value.strip()


def _check_keys(row: Mapping[str, Any], accepted: set[str], where: str) -> None:
    unknown = sorted(set(row) - accepted)
    if unknown:
        raise DPGError(f"{where}: unknown key {unknown[0]!r}; accepted: {', '.join(sorted(accepted))}")
