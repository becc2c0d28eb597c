"""Everything that costs nothing: segments, characters, splits, repetitions."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from dpg_fast.data.labelled.settings import LabelSettings
from dpg_fast.data.scripts.names import members
from dpg_fast.data.scripts.script import Script
from dpg_fast.data.scripts.segments import Segment, segments
from dpg_fast.data.similarity import near_duplicates
from dpg_fast.text.records import DroppedRecord
from dpg_fast.util.errors import DPGError
from dpg_fast.util.words import counted

Split = Literal["train", "test_scene", "test_character"]
SPLITS: tuple[Split, ...] = ("train", "test_scene", "test_character")
ONE_CAST = "all"
T = TypeVar("T", bound=Any)


@dataclass
class Prepared:
    """Segments to be judged, in the order of scripts, and what was left out.

    Attributes:
        split: segment id -> split.
        held_out: characters for testing, as (cast, name).
    """

    scripts: Sequence[Script]
    segments: list[Segment]
    split: dict[str, Split]
    held_out: frozenset[tuple[str, str]]
    dropped: list[DroppedRecord] = field(default_factory=list)

    def of(self, character: tuple[str, str], split: Split | None = None) -> list[Segment]:
        """A character's segments, of one split if that is given."""
        return [s for s in self.segments if s.key == character and split in (None, self.split[s.id])]

    @property
    def characters(self) -> list[tuple[str, str]]:
        """Everybody with segments, in the order of appearance."""
        return list(dict.fromkeys(segment.key for segment in self.segments))


def prepare(scripts: Sequence[Script], settings: LabelSettings) -> Prepared:
    """Cut, split and remove repetitions.

    A character's every segment is for testing if the character is held out. Of the others, those of held-out scenes are, if
    the character has training segments too. A training segment in which a held-out character speaks, alone or in a group, is
    left out, unless `keep_mixed`: what is new in the test must not have been read before. Of two texts that resemble each
    other the one for testing stays.

    Raises:
        ValueError: nobody speaks enough.
    """
    found: dict[str, Segment] = {}
    for script in scripts:
        for segment in segments(script, settings.cut, cast=ONE_CAST if settings.one_cast else None):
            found.setdefault(segment.id, segment)
    dropped: list[DroppedRecord] = []
    counts = Counter(segment.key for segment in found.values())
    enough = {key for key, count in counts.items() if count >= settings.min_segments}
    if not enough:
        raise DPGError(
            f"no character has {counted(settings.min_segments, 'segment')} "
            f"({counted(len(counts), 'character')}, {counted(len(found), 'segment')} in all); lower "
            "--min-segments or --min-words, or give longer scripts"
        )
    kept = [segment for segment in found.values() if segment.key in enough]
    dropped += [
        _dropped(segment, "too few segments of the character", str(counts[segment.key]))
        for segment in found.values()
        if segment.key not in enough
    ]
    held_out = _share(sorted(enough), settings.test_characters, f"{settings.seed} characters")
    scenes: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for segment in kept:
        scenes[segment.cast].add((segment.script, segment.scene))
    test_scenes = {
        (cast, *scene)
        for cast, numbers in scenes.items()
        for scene in _share(sorted(numbers), settings.test_scenes, f"{settings.seed} scenes {cast}")
    }
    split: dict[str, Split] = {}
    clean: list[Segment] = []
    for segment in kept:
        if segment.key in held_out:
            split[segment.id] = "test_character"
        elif (segment.cast, segment.script, segment.scene) in test_scenes:
            split[segment.id] = "test_scene"
        else:
            others = {key for key in held_out if key[0] == segment.cast and _is_heard(key[1], segment.speakers)}
            if others and not settings.keep_mixed:
                names = ", ".join(sorted(name for _, name in others))
                dropped.append(_dropped(segment, "a test character speaks in it", names))
                continue
            split[segment.id] = "train"
        clean.append(segment)
    trained = {segment.key for segment in clean if split[segment.id] == "train"}
    unknown = {s.id for s in clean if split[s.id] == "test_scene" and s.key not in trained}
    dropped += [_dropped(s, "a test scene of somebody not in training") for s in clean if s.id in unknown]
    clean = [segment for segment in clean if segment.id not in unknown]
    unique = _without_repetitions(clean, split, settings.similarity, dropped)
    return Prepared(scripts, unique, {s.id: split[s.id] for s in unique}, frozenset(held_out), dropped)


def _is_heard(name: str, speakers: Iterable[str]) -> bool:
    """Whether somebody is among the speakers, or in a joined cue ("HARRY AND RON") under the whole name or the first."""
    if name in speakers:
        return True
    joined = {part for speaker in speakers if len(parts := members(speaker)) > 1 for part in parts}
    return any(name == part or name.startswith(f"{part} ") for part in joined)


def _share(items: Sequence[T], share: float, seed: str) -> set[T]:
    """That share of the items, rounded, drawn without regard to their order; never all of them."""
    count = min(round(share * len(items)), len(items) - 1)
    return set(random.Random(seed).sample(list(items), max(0, count)))


def _without_repetitions(
    found: Sequence[Segment], split: dict[str, Split], threshold: float, dropped: list[DroppedRecord]
) -> list[Segment]:
    order = sorted(range(len(found)), key=lambda i: (-SPLITS.index(split[found[i].id]), i))
    texts = [found[i].answer for i in order]
    gone = set()
    for duplicate in near_duplicates(texts, threshold=threshold):
        gone.add(order[duplicate.index])
        segment = found[order[duplicate.index]]
        dropped.append(_dropped(segment, "repeats words", f"{duplicate.similarity:.2f}", texts[duplicate.of]))
    return [segment for i, segment in enumerate(found) if i not in gone]


def _dropped(segment: Segment, reason: str, detail: str = "", similar_to: str | None = None) -> DroppedRecord:
    return DroppedRecord(
        kind="dialogue",
        target=segment.character,
        text=segment.answer,
        reason=reason,
        detail=detail,
        similar_to=similar_to,
    )
