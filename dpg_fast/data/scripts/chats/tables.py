"""Tables of speakers and lines: CSV and TSV with a header, and Cornell's movie lines.

The separator is the one (comma, semicolon, tab, bar) with which the header names a speaker and a text.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence

from dpg_fast.data.scripts.chats.turns import SPEAKER, TEXT, TurnTable, plain_key, read_turn
from dpg_fast.data.scripts.script import Script, ScriptBuilder
from dpg_fast.util.errors import DPGError

_SEPARATORS = (",", ";", "\t", "|")
_CORNELL = " +++$+++ "
_CORNELL_COLUMNS = ("id", "user_id", "movie", "character", "text")
_LONGEST = 1 << 27  # characters of a cell


def read_table(lines: Sequence[str], name: str) -> Script:
    """The script in ``lines``; rows that cannot be read are problems, and the rest is kept.

    Raises:
        ValueError: the header does not name a column for who speaks and one for what is said.
    """
    builder = ScriptBuilder(name, "table")
    table = TurnTable(builder)
    head = next((line for line in lines if line.strip()), "")
    if _CORNELL in head:
        _cornell(lines, table)
    else:
        separator = _separator(head, name)
        text = "\n".join(lines[lines.index(head) :])
        header: list[str] = []
        for number, cells in _rows(text, separator, builder):
            number += lines.index(head)
            if not header:
                header = cells
                continue
            if not any(cell.strip() for cell in cells):
                continue
            turn = read_turn(dict(zip(header, cells, strict=False)), number)
            if turn is not None:
                table.row(turn)
            else:
                builder.problem(number, "a row needs a speaker and a text: left out")
    table.finish()
    return builder.finish()


def _separator(head: str, name: str) -> str:
    columns: list[str] = []
    for separator in _SEPARATORS:
        cells = next(csv.reader([head], delimiter=separator), [])
        keys = {plain_key(cell) for cell in cells}
        speakers, texts = keys & set(SPEAKER), keys & set(TEXT)
        if speakers and texts:
            return separator
        columns = max(columns, cells, key=len)
    raise DPGError(
        f"{name}: a table needs a header that names who speaks (speaker, character, name, author, ...) and what is said (text, "
        f"line, dialogue, utterance, ...); its columns are {', '.join(cell.strip() for cell in columns[:12])}"
    )


def _rows(text: str, separator: str, builder: ScriptBuilder) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row. Quotation marks that do not follow the rules are taken as letters."""
    csv.field_size_limit(_LONGEST)
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            pass
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    except csv.Error as error:
        text_file = io.StringIO(text, newline="")
        if separator == "\t":
            reader = csv.reader(text_file, delimiter=separator, quoting=csv.QUOTE_NONE)
        else:
            builder.problem(0, f"quotation marks do not close as in a table ({error}): cells may be cut wrongly")
            reader = csv.reader(text_file, delimiter=separator)
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            builder.problem(reader.line_num, f"not a row of a table ({error}): left out")
            continue
        yield number + 1, cells
        number = reader.line_num


def _cornell(lines: Sequence[str], table: TurnTable) -> None:
    """Lines of one film stand in the reverse order; a gap in their numbers ends a conversation."""
    found = []
    for number, line in enumerate(lines, 1):
        cells = line.split(_CORNELL.strip())
        if len(cells) != len(_CORNELL_COLUMNS):
            if line.strip():
                table.builder.problem(number, "not five columns: left out")
            continue
        row = dict(zip(_CORNELL_COLUMNS, (cell.strip() for cell in cells), strict=True))
        turn = read_turn(row, number)
        place = row["id"].lstrip("L")
        if turn is None or not place.isdigit():
            table.builder.problem(number, "a row needs a number, a speaker and a text: left out")
        else:
            found.append((row["movie"], int(place), turn))
    for movie, rows in itertools.groupby(found, key=lambda entry: entry[0]):
        ordered = sorted(rows, key=lambda entry: entry[1])
        starts = [i for i, (_, place, _) in enumerate(ordered) if i == 0 or place != ordered[i - 1][1] + 1]
        for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
            turns = [turn for _, _, turn in ordered[start:end]]
            table.conversation(movie, turns, turns[0].line)
