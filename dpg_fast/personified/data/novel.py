"""From a novel or a wiki to a character's folder, to be looked through before it is used."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dpg_fast.llm import LLMClient
from dpg_fast.personified.data.asking import Asker
from dpg_fast.personified.data.extraction import (
    ASSIGNED_AT_ONCE,
    PROMPT_VERSION,
    Passage,
    ProposedStage,
    assign_call,
    check_item,
    extract_call,
    passages,
    stages_call,
)
from dpg_fast.personified.data.material import KINDS, MAX_STAGES, STAGES_FILE, CharacterEntry, Kind, StageEntry
from dpg_fast.personified.data.reading import read_texts
from dpg_fast.text.records import write_records
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import checked, read_json, read_yaml

REVIEW, MANIFEST = "review.jsonl", "material.json"


class ReviewItem(BaseModel):
    """What was taken out of a text: where it is from, where it went, or why it was left out."""

    origin: str
    when: str
    kind: Kind
    text: str
    stage: str | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Wanted:
    """Whom to look for, and in which stages.

    Attributes:
        name, aliases: of the character.
        language: two-letter code.
        everything: read passages that do not name the character too (a narrator who is called "I").
        stages: given by the user; else the model proposes `stage_count` of them.
    """

    name: str
    aliases: tuple[str, ...] = ()
    language: str = "en"
    everything: bool = False
    stages: tuple[ProposedStage, ...] = ()
    stage_count: int = 2

    def __post_init__(self) -> None:
        if not self.name.strip() or not all(alias.strip() for alias in self.aliases):
            raise DPGError("the character needs a name, and no alias may be empty")
        if not 1 <= self.stage_count <= MAX_STAGES or len(self.stages) > MAX_STAGES:
            raise DPGError(f"a life has 1 to {MAX_STAGES} stages here")


@dataclass
class Material:
    """What was found.

    Attributes:
        stages: in order.
        items: everything taken out, with what became of it.
        failed: calls without an answer: (item, kind of failure, detail).
        notes: what was repaired while reading.
    """

    stages: list[ProposedStage] = field(default_factory=list)
    items: list[ReviewItem] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = False


def read_novel(path: Path, wanted: Wanted, encoding: str | None = None) -> tuple[list[Passage], list[str]]:
    """The passages of a file or folder of files that concern the character, and notes on what was repaired.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing readable in it, or nobody of that name.
    """
    texts, notes = read_texts(path, encoding)
    if not texts:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise DPGError(f"{path} holds no text that can be read{why}")
    names = (wanted.name, *wanted.aliases)
    found: list[Passage] = []
    total = 0
    for file, blocks in texts:
        total += len(blocks)
        place = file.relative_to(path).as_posix() if path.is_dir() else file.name
        found += passages(place, blocks, names, wanted.everything)
    if not total:
        raise DPGError(f"{path} holds no paragraphs")
    if not found:
        raise DPGError(
            f"none of the {total} paragraphs of {path} names {' or '.join(names)}; give other names with --alias, or "
            "--everything for a narrator who is called I"
        )
    return found, notes


def load_stages(path: Path) -> tuple[ProposedStage, ...]:
    """Stages of a YAML file: a list of {id, time, belongs}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of that form, or two stages with one id.
    """
    form = '[{id: early, time: "It is 1936.", belongs: "before the wedding"}, ...]'
    try:
        found = tuple(checked(list[ProposedStage], read_yaml(path), path))
    except DPGError as error:
        raise DPGError(f"{path.name}: no stages ({' '.join(str(error).split())[:300]}); wanted: {form}") from error
    if not found or len({stage.id for stage in found}) < len(found):
        raise DPGError(f"{path.name}: wanted are stages with different ids: {form}")
    return found


def make_material(found: Sequence[Passage], wanted: Wanted, asker: Asker) -> Material:
    """Ask for items, stages and the items' stages. What is lost on the way is in the result."""
    made = Material()
    extracts = asker([extract_call(passage, wanted.name, wanted.aliases) for passage in found], "passages")
    notes: list[str] = []
    for passage, result in zip(found, extracts, strict=True):
        if result.failure is not None:
            made.failed.append((result.item, result.failure.kind, result.failure.detail))
            continue
        assert result.value is not None
        notes.append(result.value.when)
        for item in result.value.items:
            text = " ".join(item.text.split())
            rejection = check_item(item, passage)
            origin = passage.origin(item.paragraphs) if item.paragraphs else passage.file
            row = ReviewItem(origin=origin, when=result.value.when, kind=item.kind, text=text)
            if rejection is not None:
                row.left_out = f"{rejection.reason}: {rejection.detail}".rstrip(": ")
            made.items.append(row)
    good = [item for item in made.items if item.left_out is None]
    if not good:
        return made
    made.stages = list(wanted.stages)
    if not made.stages:
        (result,) = asker([stages_call(notes, wanted.name, wanted.stage_count)], "stages")
        if result.value is None:
            assert result.failure is not None
            made.failed.append((result.item, result.failure.kind, result.failure.detail))
            return made
        proposed = {stage.id: stage for stage in reversed(result.value.stages)}  # of two with one id the first
        made.stages = list(reversed(proposed.values()))[:MAX_STAGES]
        if not made.stages:
            made.failed.append((result.item, "unreadable", "the model named no stage"))
            return made
    groups = [good[i : i + ASSIGNED_AT_ONCE] for i in range(0, len(good), ASSIGNED_AT_ONCE)]
    calls = [
        assign_call(number, [(item.when, item.text) for item in group], wanted.name, made.stages)
        for number, group in enumerate(groups, 1)
    ]
    for group, result in zip(groups, asker(calls, "stages of items"), strict=True):
        if result.failure is not None:
            made.failed.append((result.item, result.failure.kind, result.failure.detail))
        given = {} if result.value is None else {a.item: a.stage for a in result.value.assignments}
        for number, item in enumerate(group, 1):
            stage = given.get(number, 0)
            if 1 <= stage <= len(made.stages):
                item.stage = made.stages[stage - 1].id
            else:
                item.left_out = "the stage is not known"
    made.complete = asker.broken is None and not any(kind == "unreachable" for _, kind, _ in made.failed)
    return made


def check_target(out: Path) -> None:
    """That the folder ``out`` may be written: an unfinished one may, one that somebody may have looked through may not.

    Raises:
        ValueError: it may not.
    """
    if out.exists() and not out.is_dir():
        raise DPGError(f"{out} is a file; name a folder to write to")
    if not (out / STAGES_FILE).exists():
        return
    manifest = out / MANIFEST
    if not manifest.is_file() or checked(dict[str, Any], read_json(manifest), manifest).get("complete", True):
        raise DPGError(f"{out} already holds a character; name another folder, or remove that one")


def write_material(out: Path, wanted: Wanted, made: Material, client: LLMClient, asker: Asker) -> dict[str, Any]:
    """Write the folder, with `reviewed: false`, and return the manifest.

    Files: stages.yaml, STAGE/knowledge and STAGE/style with one Markdown file for each text and a source behind each paragraph,
    review.jsonl (every item, also what was left out), material.json.
    """
    import yaml

    texts: dict[tuple[str, Kind, str], list[str]] = defaultdict(list)
    for item in made.items:
        if item.stage is not None and item.left_out is None:
            file = item.origin.rsplit("#", 1)[0]
            texts[item.stage, item.kind, f"{file.replace('/', '_')}.md"].append(
                f"<!-- source: {item.origin} -->\n{item.text}\n"
            )
    for stage in made.stages:
        for kind in KINDS:
            (out / stage.id / kind).mkdir(parents=True, exist_ok=True)
    for (stage_id, kind, name), paragraphs in texts.items():
        write_text(out / stage_id / kind / name, "\n".join(paragraphs))
    write_records(out / REVIEW, made.items)
    manifest = {
        "what": "A character's material taken out of a text by a language model; to be looked through before use.",
        "complete": made.complete,
        "stopped": asker.broken,
        "character": wanted.name,
        "model": client.settings.model,
        "prompt_version": PROMPT_VERSION,
        "items": {stage.id: dict(Counter(i.kind for i in made.items if i.stage == stage.id)) for stage in made.stages},
        "left_out": dict(Counter((i.left_out or "").split(":")[0] for i in made.items if i.left_out)),
        "failed": [{"item": item, "kind": kind, "detail": detail} for item, kind, detail in made.failed],
        "usage": asker.usage.model_dump(),
        "cost": client.prices.cost(client.settings.model, asker.usage),
        "currency": client.prices.currency,
        "notes": made.notes,
    }
    write_text(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    if made.stages:
        entry = CharacterEntry(
            name=wanted.name,
            language=wanted.language,
            aliases=list(wanted.aliases),
            reviewed=False,
            stages=[StageEntry(id=stage.id, time=stage.time or None) for stage in made.stages],
        )
        written = yaml.safe_dump(entry.model_dump(exclude_none=True), allow_unicode=True, sort_keys=False, width=120)
        head = "# Look through the stages' folders and review.jsonl, correct them, then set reviewed to true.\n"
        write_text(out / STAGES_FILE, head + written)
    return manifest
