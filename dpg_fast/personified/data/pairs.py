"""Preference pairs without human labels, for automatic DPO in the manner of PersLLM (arXiv 2407.12393).

Two sources of the rejected text. Another personality: of the questions that others were asked, sorted by similarity, the
nearest few are skipped, and the first of the rest whose answer differs is taken. Another stage: the same question, answered by
the same person at another time. Skipping five follows the released code. Ours, since nothing was published: pools of other
characters only, both directions between stages with the own stage always chosen, and the length statistics.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dpg_fast.data.similarity import ngrams, products
from dpg_fast.personified.data.reading import count_words
from dpg_fast.personified.data.record import ItemKind, PersonifiedRecord, Split, split_reply, without_analysis
from dpg_fast.personified.data.retrieval import Embedder
from dpg_fast.text.records import Turn
from dpg_fast.util.errors import DPGError

PairKind = Literal["personality", "stage"]
SKIP = 5
_BLOCK = 256


class PreferencePair(BaseModel):
    """A preference in TRL's conversational form, and where its two sides come from.

    Attributes:
        prompt: the user turn.
        chosen, rejected: one assistant turn each.
        kind: where the rejected text is from: another personality or another stage.
        item_kind: of the user turn.
        character, stage, label: who is asked, and when.
        chosen_id, rejected_id: of the records.
        rejected_character, rejected_stage: whose text is rejected.
        similarity: cosine between the two questions; 1 between stages.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: list[Turn] = Field(min_length=1)
    chosen: list[Turn] = Field(min_length=1)
    rejected: list[Turn] = Field(min_length=1)
    kind: PairKind
    item_kind: ItemKind
    split: Split
    character: str
    stage: str
    label: str
    chosen_id: str
    rejected_id: str
    rejected_character: str
    rejected_stage: str
    similarity: float


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made.

    Attributes:
        skip: nearest questions passed over, as PersLLM's released code does with 5.
        highest: similarity that a question must stay below; None: no cap (the code's comments name 0.95).
        mirrored: between stages, also ask the other stage's question under its own label, and prefer its own answer.
        same: word-trigram overlap of two responses from which they count as the same.
        analysis: keep the analyses in both sides.
        splits: of the records used.
    """

    skip: int = SKIP
    highest: float | None = None
    mirrored: bool = True
    same: float = 0.8
    analysis: bool = True
    splits: tuple[Split, ...] = ("train",)

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise DPGError("skip must not be negative")
        if not 0 < self.same <= 1 or (self.highest is not None and not 0 < self.highest <= 1):
            raise DPGError("same and highest must lie above 0 and not above 1")
        if not self.splits:
            raise DPGError("name at least one split")


@dataclass(frozen=True)
class Pairs:
    """Pairs, and how many questions found no counterpart, by reason."""

    pairs: list[PreferencePair]
    without: dict[str, int]


def personality_pairs(
    records: Sequence[PersonifiedRecord], embedder: Embedder, settings: PairSettings | None = None
) -> Pairs:
    """For each record, its answer before somebody else's answer to a similar question.

    Args:
        records: of several characters. General instructions are left out: everybody is asked the same ones.
        embedder: of the questions.
        settings: see `PairSettings`.

    Raises:
        ValueError: the records are of one character only, or others have no more questions than are skipped.
    """
    settings = settings or PairSettings()
    used = [r for r in records if r.split in settings.splits and r.kind != "general" and r.asked_of is None]
    characters = np.array([r.character or "" for r in used])
    people = Counter(characters.tolist())
    if len(people) < 2:
        raise DPGError(
            "pairs between personalities need records of at least two characters, not of "
            + (", ".join(people) or "none")
        )
    for name, count in people.items():
        if len(used) - count <= settings.skip:
            raise DPGError(
                f"for {name} the others have {len(used) - count} questions, and {settings.skip} are skipped; "
                "add records or skip fewer"
            )
    questions = [r.question for r in used]
    vectors = embedder.encoder(questions)(questions)
    answers = [_first_answer(r) for r in used]
    pairs: list[PreferencePair] = []
    without: Counter[str] = Counter()
    for start in range(0, len(used), _BLOCK):
        similarity = products(vectors[start : start + _BLOCK], vectors)
        for row in range(similarity.shape[0]):
            i = start + row
            scores = np.where(characters == characters[i], -np.inf, similarity[row])
            order = np.argsort(-scores, kind="stable")[: int((characters != characters[i]).sum())]
            found = next(
                (
                    int(j)
                    for j in order[settings.skip :]
                    if (settings.highest is None or scores[j] < settings.highest)
                    and not _alike(answers[i], answers[j], settings.same)
                ),
                None,
            )
            if found is None:
                without["no other answer differs" if settings.highest is None else "none below the cap differs"] += 1
            else:
                pairs.append(_pair(used[i], used[found], "personality", settings, float(scores[found])))
    return Pairs(pairs, dict(without))


def stage_pairs(
    records: Sequence[PersonifiedRecord], cross: Sequence[PersonifiedRecord], settings: PairSettings | None = None
) -> Pairs:
    """For each question that two stages of a person answered, the own stage's answer before the other's.

    With `PairSettings.mirrored` each question gives two pairs: under the label of the stage it was written for, and under the
    other's, with the sides exchanged.

    Args:
        records: the answers of the stages the questions were written for.
        cross: answers of other stages to them (`asked_of`, id "RECORD@STAGE").
        settings: see `PairSettings`.
    """
    settings = settings or PairSettings()
    own = {(r.character, r.id): r for r in records if r.asked_of is None}
    pairs: list[PreferencePair] = []
    without: Counter[str] = Counter()
    for other in cross:
        if other.split not in settings.splits:
            continue
        record = own.get((other.character, other.id.split("@")[0]))
        if record is None or record.question != other.question:
            without["the own stage's answer is missing"] += 1
        elif _alike(_first_answer(record), _first_answer(other), settings.same):
            without["both stages answer alike"] += 1
        else:
            pairs.append(_pair(record, other, "stage", settings, 1.0))
            if settings.mirrored:
                pairs.append(_pair(other, record, "stage", settings, 1.0))
    return Pairs(pairs, dict(without))


def _pair(
    chosen: PersonifiedRecord, rejected: PersonifiedRecord, kind: PairKind, settings: PairSettings, similarity: float
) -> PreferencePair:
    sides = []
    for record in (chosen, rejected):
        turns = record.messages[:2]
        sides.append(turns if settings.analysis else without_analysis(turns))
    return PreferencePair(
        prompt=[sides[0][0]],
        chosen=[sides[0][1]],
        rejected=[sides[1][1]],
        kind=kind,
        item_kind=chosen.kind,
        split=chosen.split,
        character=chosen.character or "",
        stage=chosen.stage or "",
        label=chosen.label,
        chosen_id=chosen.id,
        rejected_id=rejected.id,
        rejected_character=rejected.character or "",
        rejected_stage=rejected.stage or "",
        similarity=round(similarity, 4),
    )


def _first_answer(record: PersonifiedRecord) -> str:
    return split_reply(record.messages[1].content)[1]


def _alike(left: str, right: str, same: float) -> bool:
    if left.strip() == right.strip():
        return True
    a, b = ngrams(left), ngrams(right)
    return bool(a or b) and len(a & b) / len(a | b) >= same


# --- statistics ---


class LengthBias(BaseModel):
    """Whether the chosen side can be told by its length.

    Attributes:
        pairs: how many.
        chosen_words, rejected_words: means.
        difference: mean of chosen - rejected, with `low` and `high` as the ends of its 95 % interval (normal approximation).
        chosen_longer: share of the pairs with a longer chosen side, ties counted as half.
        biased: the interval leaves 0 out and the chosen side is longer in less than 40 % or more than 60 % of the pairs.
    """

    pairs: int
    chosen_words: float
    rejected_words: float
    difference: float
    low: float
    high: float
    chosen_longer: float
    biased: bool


def length_bias(pairs: Sequence[PreferencePair]) -> LengthBias | None:
    """Lengths of the two sides in words, analyses included where they are; None without pairs."""
    if not pairs:
        return None
    chosen = np.array([count_words(pair.chosen[-1].content) for pair in pairs], dtype=float)
    rejected = np.array([count_words(pair.rejected[-1].content) for pair in pairs], dtype=float)
    difference = chosen - rejected
    mean = float(difference.mean())
    error = float(difference.std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    low, high = mean - 1.96 * error, mean + 1.96 * error
    longer = float(np.mean(np.where(difference == 0, 0.5, difference > 0)))
    return LengthBias(
        pairs=len(pairs),
        chosen_words=float(chosen.mean()),
        rejected_words=float(rejected.mean()),
        difference=mean,
        low=low if math.isfinite(low) else mean,
        high=high if math.isfinite(high) else mean,
        chosen_longer=longer,
        biased=math.isfinite(error) and not low <= 0 <= high and not 0.4 <= longer <= 0.6,
    )


class PairStatistics(BaseModel):
    """What a set of pairs is made of. Keys of `counts`: kind, character, stage; of `lengths`: "all" and the kinds."""

    counts: dict[str, int]
    without: dict[str, int]
    similarity: dict[str, float]
    lengths: dict[str, LengthBias]


def pair_statistics(found: Sequence[Pairs]) -> PairStatistics:
    """Counts, similarities of the questions between personalities, and lengths."""
    pairs = [pair for part in found for pair in part.pairs]
    counts = Counter(f"{p.kind}: {p.character}, {p.stage}" for p in pairs)
    without: Counter[str] = Counter()
    for part in found:
        without.update(part.without)
    groups: dict[str, list[PreferencePair]] = defaultdict(list)
    for pair in pairs:
        groups["all"].append(pair)
        groups[pair.kind].append(pair)
    similar = np.array([p.similarity for p in pairs if p.kind == "personality"])
    quantiles = {f"{q} %": float(np.percentile(similar, q)) for q in (0, 25, 50, 75, 100)} if len(similar) else {}
    lengths = {name: bias for name, group in groups.items() if (bias := length_bias(group)) is not None}
    return PairStatistics(
        counts=dict(sorted(counts.items())), without=dict(without), similarity=quantiles, lengths=lengths
    )
