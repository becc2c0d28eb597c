"""What was read of scripts, for people and as JSON Lines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dpg_fast.data.scripts.corpus import Corpus
from dpg_fast.data.scripts.names import count_words
from dpg_fast.data.scripts.script import Direction, Script
from dpg_fast.util.files import write_text
from dpg_fast.util.words import counted

_SHOWN = 12  # speakers of a script


def show_corpus(corpus: Corpus, problems: int = 10, out: Path | None = None, console: Console | None = None) -> None:
    """Print what was read and what was not, and write every speech and direction to ``out``.

    Args:
        problems: shown of each file.
    """
    console = console or Console()
    for script in corpus.scripts:
        speeches = list(script.speeches())
        console.print(
            f"{script.name} ({script.format}): {counted(len(script.scenes), 'scene')}, "
            f"{counted(len(speeches), 'speech', 'speeches')}",
            highlight=False,
        )
        table = Table()
        for column in ("speaker", "speeches", "words"):
            table.add_column(column, justify="left" if column == "speaker" else "right")
        counts = Counter(speech.speaker for speech in speeches)
        words = count_words(script)
        for name, count in counts.most_common(_SHOWN):
            table.add_row(name, str(count), str(words[name]))
        if len(counts) > _SHOWN:
            table.caption = f"and {len(counts) - _SHOWN} more"
        if speeches:
            console.print(table)
        for name, person in script.merged.items():
            console.print(f"  {name} is taken to be {person}", highlight=False, markup=False)
        for short, full in script.unmerged:
            console.print(f"  {short} and {full} are kept apart", highlight=False, markup=False)
        for problem in script.problems[:problems]:
            place = f"line {problem.line}: " if problem.line else ""
            console.print(f"  {place}{problem.what}", highlight=False, markup=False)
        if len(script.problems) > problems:
            console.print(f"  and {len(script.problems) - problems} more problems", highlight=False)
    for line in corpus.report():
        console.print(line, highlight=False, markup=False)
    if out is not None:
        rows = [row for script in corpus.scripts for row in script_rows(script)]
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        console.print(f"Written to {out}")


def script_rows(script: Script) -> list[dict[str, Any]]:
    """Every speech and direction as a JSON object, in order."""
    rows: list[dict[str, Any]] = []
    for scene in script.scenes:
        place = {"script": script.name, "scene": scene.number, "heading": scene.heading}
        for element in scene.elements:
            if isinstance(element, Direction):
                rows.append(place | {"line": element.line, "kind": element.kind, "text": element.text})
            else:
                rows.append(
                    place
                    | {"line": element.line, "kind": "speech", "speaker": element.speaker, "cue": element.cue}
                    | {"extensions": list(element.extensions), "dual": element.dual, "words": element.words}
                    | {"parentheticals": element.parentheticals}
                )
    return rows
