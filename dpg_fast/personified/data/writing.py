"""A character's conversations as a folder, and back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dpg_fast import __version__
from dpg_fast.personified.data.asking import Asker
from dpg_fast.personified.data.drafts import Build, answers_of
from dpg_fast.personified.data.material import CharacterMaterial
from dpg_fast.personified.data.pairs import PairStatistics, PreferencePair
from dpg_fast.personified.data.prompts import PROMPT_VERSION
from dpg_fast.personified.data.reading import count_words
from dpg_fast.personified.data.record import PersonifiedRecord
from dpg_fast.personified.data.slots import PersonifySettings
from dpg_fast.personified.data.written import WRITTEN
from dpg_fast.text.records import read_records, write_records
from dpg_fast.util.files import write_text

TRAIN, TEST, CROSS, LOST, REFUSED, PARAGRAPHS, MANIFEST = (
    "train.jsonl",
    "test.jsonl",
    "cross.jsonl",
    "lost.jsonl",
    "refused.jsonl",
    "paragraphs.jsonl",
    "manifest.json",
)
PAIRS, PAIR_STATISTICS = "pairs.jsonl", "statistics.json"


class ParagraphRecord(BaseModel):
    """A paragraph of the material, so that ids in records can be looked up. `origin` is where its file says it is from."""

    id: str
    kind: str
    text: str
    origin: str | None = None


def write_personified(
    out: Path, character: CharacterMaterial, settings: PersonifySettings, build: Build, asker: Asker, embedding: str
) -> dict[str, Any]:
    """Write conversations, what was lost, the material used and, last, the manifest, which is returned."""
    for name, split in ((TRAIN, "train"), (TEST, "test")):
        write_records(out / name, (record for record in build.records if record.split == split))
    write_records(out / CROSS, build.cross)
    write_records(out / LOST, build.lost)
    if settings.candidates > 1:
        write_records(out / REFUSED, build.refused)
    used = {p for record in (*build.records, *build.cross) for p in (record.source, *record.knowledge, *record.style)}
    write_records(
        out / PARAGRAPHS,
        (
            ParagraphRecord(id=p.id, kind=p.kind, text=p.text, origin=p.origin)
            for stage in character.stages
            for p in stage.paragraphs
            if p.id in used
        ),
    )
    client = asker.client
    manifest = {
        "what": "Conversations with a character, written by a language model in the manner of PersLLM (arXiv 2407.12393) with "
        "dpg_fast's own prompts and checks; not PersLLM's data.",
        "dpg_fast": __version__,
        "complete": is_complete(build, settings, character, asker),
        "stopped": asker.broken,
        "character": character.name,
        "language": character.language,
        "stages": [
            {"id": s.id, "label": s.label, "time": s.time, "knowledge": len(s.knowledge), "style": len(s.style)}
            for s in character.stages
        ],
        "model": client.settings.model,
        "served_by": sorted(asker.served_by),
        "parameters": dict(client.settings.parameters),
        "prompt_version": PROMPT_VERSION,
        "embedding": embedding,
        "settings": asdict(settings),
        "records": statistics(build.records),
        "cross": len(build.cross),
        "lost": dict(Counter(f"{item.step}: {item.reason}" for item in build.lost).most_common()),
        "refused_candidates": dict(Counter(f"{item.step}: {item.reason}" for item in build.refused).most_common()),
        "written_by_hand": sum(r.annotation.model == WRITTEN for r in build.records),
        "failed": sum(item.failed for item in build.lost),
        "user_turns_written": build.written,
        "usage": asker.usage.model_dump(),
        "cost": {
            "total": client.prices.cost(client.settings.model, asker.usage),
            "this_run": client.prices.cost(client.settings.model, asker.paid),
            "currency": client.prices.currency,
        },
        "notes": list(character.notes),
    }
    write_text(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def is_complete(build: Build, settings: PersonifySettings, character: CharacterMaterial, asker: Asker) -> bool:
    """Whether every stage has what was wanted, and no call failed that another run would try again."""
    counts = Counter((r.stage, r.kind == "general") for r in build.records if r.annotation.model != WRITTEN)
    enough = all(counts[stage.id, False] >= settings.items for stage in character.stages)
    return enough and asker.broken is None and not any(i.failed and i.reason == "unreachable" for i in build.lost)


def statistics(records: Sequence[PersonifiedRecord]) -> dict[str, Any]:
    """Counts by stage, kind, split and stance, and lengths, JSON-ready."""
    words = [count_words(text) for record in records for text in answers_of(record)]
    thoughts = Counter(r.stance for r in records if r.kind == "thought")
    return {
        "total": len(records),
        **{
            name: dict(sorted(Counter(str(getattr(r, name)) for r in records).items()))
            for name in ("stage", "kind", "split", "stance")
        },
        "thoughts_by_stance": dict(thoughts),
        "mean_words_of_response": sum(words) / len(words) if words else None,
    }


def read_personified(folder: Path) -> tuple[list[PersonifiedRecord], list[PersonifiedRecord]]:
    """Conversations (train, then test) and answers across stages of a folder that `write_personified` made.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a line is not such a record.
    """
    if not (folder / TRAIN).is_file():
        raise FileNotFoundError(f"{folder} has no {TRAIN}: make it with `dpg-fast data personified build`")
    records = [r for name in (TRAIN, TEST) for r in read_records(folder / name, PersonifiedRecord)]
    return records, list(read_records(folder / CROSS, PersonifiedRecord))


def write_pairs(out: Path, pairs: Sequence[PreferencePair], statistics: PairStatistics, settings: Any) -> None:
    """Write pairs and their statistics to the folder ``out``."""
    write_records(out / PAIRS, pairs)
    found = {"settings": asdict(settings)} | statistics.model_dump()
    write_text(out / PAIR_STATISTICS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
