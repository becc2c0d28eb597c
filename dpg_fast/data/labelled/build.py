"""From scripts to labelled records: judge, find centres, augment, and put it together.

What is on disk (scores, generated texts) is addressed by content, and everything else follows from it and the settings without
chance: a run that was killed ends with the same records as one that was not, and a folder that has grown costs only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from dpg_fast.data.labelled.augment import DialogueRequest, Writer, make_requests
from dpg_fast.data.labelled.centres import Centre, Open, Scores
from dpg_fast.data.labelled.judging import DialogueScorer, LabelledText
from dpg_fast.data.labelled.prepare import SPLITS, Prepared, Split
from dpg_fast.data.labelled.settings import LabelSettings
from dpg_fast.data.scripts.script import Script
from dpg_fast.data.scripts.segments import Segment
from dpg_fast.data.similarity import near_duplicates
from dpg_fast.personality.scores import MAX_SCORE, MIN_SCORE, Trait
from dpg_fast.text.records import DialogueRecord, DroppedRecord, Origin, Turn
from dpg_fast.text.records import Scores as RecordScores
from dpg_fast.util.progress import Progress


class CharacterRecord(BaseModel):
    """One character of a labelled dataset.

    Attributes:
        cast: the script, or what several scripts with the same people share.
        split: "train", or "test_character" if none of the character's words is trained on.
        segments: judged ones of each split, outliers included.
        outliers: of these, how many are outliers.
        centre, spread: mean and standard deviation of the segments behind it, OCEAN order; None without any.
        radius: their root mean square distance from the centre, at least half a level in each trait.
        generated, kept: dialogues written in the character's manner, and how many lie near enough.
        nearest: of a test character, the distance of its centre from the closest training character's.
        nearest_character: who that is.
        new: of a test character, whether it lies `LabelSettings.min_distance` or more from all of them.
    """

    model_config = ConfigDict(extra="forbid")

    cast: str
    character: str
    split: str
    segments: dict[str, int]
    outliers: int
    centre: RecordScores | None
    spread: tuple[float, float, float, float, float] | None
    radius: float | None
    generated: int = 0
    kept: int = 0
    nearest: float | None = Field(default=None, ge=0)
    nearest_character: str | None = None
    new: bool | None = None


@dataclass(frozen=True)
class Judged:
    """The scores of one text as judged: whose, and whether a model wrote it."""

    character: tuple[str, str]
    generated: bool
    scores: Open


@dataclass
class Dataset:
    """The result: records by split, characters, what was dropped, items without a score, and all scores as judged."""

    records: dict[Split, list[DialogueRecord]]
    characters: list[CharacterRecord]
    dropped: list[DroppedRecord]
    unjudged: list[DroppedRecord] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)


def texts_of(segments: Sequence[Segment]) -> list[LabelledText]:
    """What a judge is shown of the segments."""
    return [LabelledText.of_segment(segment) for segment in segments]


def written_texts(requests: Sequence[DialogueRequest], writer: Writer) -> list[tuple[DialogueRequest, LabelledText]]:
    """The generated texts that there are; what was asked is the situation."""
    found = []
    for request in requests:
        words = writer.words(request)
        if words is not None:
            found.append((request, LabelledText.of_answer(_address(request.question, words), request.question, words)))
    return found


def _address(question: str, words: str) -> str:
    return "w" + hashlib.sha256(json.dumps([question, words]).encode()).hexdigest()[:20]


def build(
    prepared: Prepared,
    settings: LabelSettings,
    scorer: DialogueScorer,
    writer: Writer | None,
    progress: Progress | None = None,
) -> Dataset:
    """Judge, generate, judge that, and put the records together.

    Args:
        writer: needed if `settings.generate` is above 0.
        progress: gets what is being done, how much is done, and of how much.
    """
    scorer.score(texts_of(prepared.segments), "judging scripts", progress)
    written: list[tuple[DialogueRequest, LabelledText]] = []
    requests: list[DialogueRequest] = []
    if settings.generate:
        assert writer is not None, "generation needs a writer"
        requests = make_requests(prepared, settings)
        writer.write(requests, progress)
        written = written_texts(requests, writer)
        scorer.score([text for _, text in written], "judging dialogue", progress)
    return _assemble(prepared, settings, scorer, requests, written)


def _assemble(
    prepared: Prepared,
    settings: LabelSettings,
    scorer: DialogueScorer,
    requests: Sequence[DialogueRequest],
    written: Sequence[tuple[DialogueRequest, LabelledText]],
) -> Dataset:
    dataset = Dataset({split: [] for split in SPLITS}, [], list(prepared.dropped))
    found = {segment.id: scores for segment in prepared.segments if (scores := scorer.scores(segment.id)) is not None}
    dataset.judged = [Judged(s.key, False, found[s.id]) for s in prepared.segments if s.id in found]
    centres = _centres(prepared, found)
    nearest = _nearest(prepared, centres)
    outliers: dict[tuple[str, str], int] = {}
    # Evidence comes before outliers, since a distance over few traits says little; both come before the choice of test people, so
    # that `dropped` names what is wrong with a text rather than with its speaker.
    for segment in prepared.segments:
        if segment.id not in found:
            dataset.unjudged.append(_drop(segment, "not judged", scorer.reason(segment.id)))
            continue
        scores, centre = found[segment.id], centres.get(segment.key)
        outlier = centre is not None and centre.is_outlier(scores)
        outliers[segment.key] = outliers.get(segment.key, 0) + outlier
        lacking = _lacks_evidence(scores, centre, settings)
        if lacking is not None:
            dataset.dropped.append(_drop(segment, "no evidence", lacking))
            continue
        if outlier and settings.outliers == "drop":
            dataset.dropped.append(_drop(segment, "outlier", _listed(scores)))
            continue
        if segment.key in prepared.held_out and not _is_new(nearest.get(segment.key), settings):
            dataset.dropped.append(_drop(segment, "not a new personality", _how_near(nearest.get(segment.key))))
            continue
        dataset.records[prepared.split[segment.id]].append(
            _of_segment(segment, scores, centre, outlier, settings, scorer)
        )
    kept = _add_written(dataset, prepared, settings, scorer, written, centres)
    dataset.characters = _characters(prepared, settings, found, centres, nearest, outliers, requests, kept)
    return dataset


def _nearest(
    prepared: Prepared, centres: dict[tuple[str, str], Centre]
) -> dict[tuple[str, str], tuple[float, tuple[str, str]]]:
    """For each test character with a centre: the distance of the closest training character's, and who that is."""
    trained = [key for key in centres if key not in prepared.held_out]
    return {
        key: min((centres[key].distance(centres[other].mean), other) for other in trained)
        for key in centres
        if key in prepared.held_out and trained
    }


def _is_new(nearest: tuple[float, tuple[str, str]] | None, settings: LabelSettings) -> bool:
    """Whether a test character is known to lie far enough from all training characters."""
    return settings.min_distance == 0 or (nearest is not None and nearest[0] >= settings.min_distance)


def _how_near(nearest: tuple[float, tuple[str, str]] | None) -> str:
    return "no centre to tell by" if nearest is None else f"{nearest[0]:.2f} from {nearest[1][1]}"


def _lacks_evidence(scores: Open, centre: Centre | None, settings: LabelSettings) -> str | None:
    """Why there is no label for want of evidence; None if there is one."""
    missing = _missing(scores)
    if len(missing) > settings.max_missing:
        return f"of {', '.join(missing)}"
    if missing and centre is None:
        return f"of {', '.join(missing)}, and the character has no centre"
    return None


def _centres(prepared: Prepared, found: dict[str, Open]) -> dict[tuple[str, str], Centre]:
    """Centres from training segments; of test characters from all of theirs. None where a trait has no evidence in any."""
    rows: dict[tuple[str, str], list[Open]] = {}
    for segment in prepared.segments:
        if segment.id in found and prepared.split[segment.id] != "test_scene":
            rows.setdefault(segment.key, []).append(found[segment.id])
    return {
        key: Centre.of(values)
        for key, values in rows.items()
        if all(any(value is not None for value in column) for column in zip(*values, strict=True))
    }


def _of_segment(
    segment: Segment,
    judged: Open,
    centre: Centre | None,
    outlier: bool,
    settings: LabelSettings,
    scorer: DialogueScorer,
) -> DialogueRecord:
    scores = _filled(judged, centre)
    origin = Origin(
        id=segment.id,
        script=segment.script,
        scene=segment.scene,
        heading=segment.heading or None,
        lines=(segment.turns[0].lines[0], segment.turns[-1].lines[1]),
        scores=scores,
        imputed=_missing(judged),
        centre=None if centre is None else centre.mean,
        distance=None if centre is None else centre.distance(judged),
        outlier=outlier,
    )
    return DialogueRecord(
        messages=segment.messages(),
        personality=_label(scores, centre, settings),
        character=segment.character,
        source=f"script {segment.script}",
        judge=scorer.note(segment.id),
        origin=origin,
    )


def _add_written(
    dataset: Dataset,
    prepared: Prepared,
    settings: LabelSettings,
    scorer: DialogueScorer,
    written: Sequence[tuple[DialogueRequest, LabelledText]],
    centres: dict[tuple[str, str], Centre],
) -> dict[tuple[str, str], int]:
    """Add the generated dialogues that lie near their character's centre; how many of each character those are."""
    scripted = [segment.answer for segment in prepared.segments]
    repeated = {
        duplicate.index - len(scripted): duplicate
        for duplicate in near_duplicates(
            [*scripted, *(text.answer for _, text in written)], threshold=settings.similarity, keep=len(scripted)
        )
    }
    everything = [*scripted, *(text.answer for _, text in written)]
    kept: dict[tuple[str, str], int] = {}
    # As with segments, the first reason counts. Repetition comes before anything that a score decides, so that whether a text
    # is a copy does not depend on the judge; the distance comes last, for it needs a centre and evidence.
    for i, (request, text) in enumerate(written):
        name = request.character[1]
        scores, centre = scorer.scores(text.id), centres.get(request.character)
        if scores is None:
            reason = scorer.reason(text.id)
            dataset.unjudged.append(
                DroppedRecord(kind="dialogue", target=name, text=text.answer, reason="not judged", detail=reason)
            )
            continue
        dataset.judged.append(Judged(request.character, True, scores))

        def drop(
            reason: str, detail: str, similar_to: str | None = None, name: str = name, text: LabelledText = text
        ) -> None:
            dataset.dropped.append(
                DroppedRecord(
                    kind="dialogue", target=name, text=text.answer, reason=reason, detail=detail, similar_to=similar_to
                )
            )

        if i in repeated:
            drop("repeats words", f"{repeated[i].similarity:.2f}", everything[repeated[i].of])
            continue
        if centre is None:
            drop("no centre", "no training segments of the character show all traits")
            continue
        lacking = _lacks_evidence(scores, centre, settings)
        if lacking is not None:
            drop("no evidence", lacking)
            continue
        distance = centre.distance(scores)
        if distance > settings.near * centre.radius:
            drop("far from the centre", f"{distance:.2f} of {settings.near * centre.radius:.2f}")
            continue
        kept[request.character] = kept.get(request.character, 0) + 1
        origin = Origin(
            id=request.id,
            script=request.character[0],
            generated=True,
            scores=_filled(scores, centre),
            imputed=_missing(scores),
            centre=centre.mean,
            distance=distance,
        )
        dataset.records["train"].append(
            DialogueRecord(
                messages=[Turn(role="user", content=request.question), Turn(role="assistant", content=text.answer)],
                personality=_label(_filled(scores, centre), centre, settings),
                character=name,
                source=f"generated in the manner of {name}",
                judge=scorer.note(text.id),
                origin=origin,
            )
        )
    return kept


def _characters(
    prepared: Prepared,
    settings: LabelSettings,
    found: dict[str, Open],
    centres: dict[tuple[str, str], Centre],
    nearest: dict[tuple[str, str], tuple[float, tuple[str, str]]],
    outliers: dict[tuple[str, str], int],
    requests: Sequence[DialogueRequest],
    kept: dict[tuple[str, str], int],
) -> list[CharacterRecord]:
    rows = []
    for key in prepared.characters:
        centre = centres.get(key)
        judged = [segment for segment in prepared.of(key) if segment.id in found]
        held_out = key in prepared.held_out
        distance, closest = nearest.get(key, (None, None))
        rows.append(
            CharacterRecord(
                cast=key[0],
                character=key[1],
                split="test_character" if held_out else "train",
                segments={
                    split: count
                    for split in SPLITS
                    if (count := sum(prepared.split[segment.id] == split for segment in judged))
                },
                outliers=outliers.get(key, 0),
                centre=None if centre is None else centre.mean,
                spread=None if centre is None else centre.spread,
                radius=None if centre is None else centre.radius,
                generated=sum(request.character == key for request in requests),
                kept=kept.get(key, 0),
                nearest=distance,
                nearest_character=None if closest is None else closest[1],
                new=_is_new(nearest.get(key), settings) if held_out else None,
            )
        )
    return rows


def _missing(scores: Open) -> list[str]:
    return [trait.value for trait in Trait if scores[trait.position] is None]


def _filled(scores: Open, centre: Centre | None) -> Scores:
    """The scores with the centre where there is no evidence, which only texts with a centre may lack."""
    if centre is not None:
        return centre.filled(scores)
    o, c, e, a, n = scores
    assert o is not None and c is not None and e is not None and a is not None and n is not None
    return (o, c, e, a, n)


def _label(scores: Scores, centre: Centre | None, settings: LabelSettings) -> Scores:
    chosen = centre.mean if settings.label == "centre" and centre is not None else scores
    if not settings.integers:
        return chosen
    o, c, e, a, n = (min(MAX_SCORE, max(MIN_SCORE, float(round(value)))) + 0.0 for value in chosen)
    return (o, c, e, a, n)


def _drop(segment: Segment, reason: str, detail: str) -> DroppedRecord:
    return DroppedRecord(kind="dialogue", target=segment.character, text=segment.answer, reason=reason, detail=detail)


def _listed(scores: Open) -> str:
    return " ".join(f"{x}{'?' if value is None else f'{value:+.1f}'}" for x, value in zip("OCEAN", scores, strict=True))


def problems_of(scripts: Sequence[Script]) -> list[dict[str, object]]:
    """What was wrong with the files, one row each."""
    return [{"script": s.name, "line": p.line, "problem": p.what} for s in scripts for p in s.problems]
