"""What is to be annotated: settings, and which paragraph gives which kind of user turn in which order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from dpg_fast.personified.data.material import Paragraph, Stage
from dpg_fast.personified.data.record import ItemKind, Split
from dpg_fast.personified.data.retrieval import Budget
from dpg_fast.util.errors import DPGError

REFUSAL = "Refused."  # PersLLM's fixed reply


@dataclass(frozen=True)
class PersonifySettings:
    """How a character's conversations are made. The shares, `cross` and `verify` are ours; PersLLM names none.

    Attributes:
        items: conversations wanted of each stage, general instructions apart.
        ordinary, thought, error: shares of the kinds of user turns.
        general: general instructions of each stage.
        turns: exchanges of a conversation.
        cross: share of each stage's training conversations whose first question the other stages answer too, for preference
            pairs.
        budget: words of material given with a question.
        similarity: cosine from which a question repeats an earlier one of any stage.
        test: share of the conversations kept for testing.
        verify: let the model judge each answer by its materials, and drop those with a fault.
        rounds: how often what was lost is replaced.
        candidates: answers asked for until one passes; ours, for models whose answers often fall.
        shots: examples of the character's folder shown before each call; ours.
        written: put the folder's examples among the records too, marked as written; they come on top of `items`.
        per_paragraph: user turns written from one paragraph, at most.
        guidance: added to every prompt.
        refusal: the whole response to what the person could not know or do among the general instructions.
        seed: of the order.
    """

    items: int = 200
    ordinary: float = 0.5
    thought: float = 0.25
    error: float = 0.25
    general: int = 20
    turns: int = 1
    cross: float = 0.25
    budget: Budget = field(default_factory=Budget)
    similarity: float = 0.95
    test: float = 0.2
    verify: bool = True
    rounds: int = 2
    candidates: int = 1
    shots: int = 0
    written: bool = False
    per_paragraph: int = 12
    guidance: str = ""
    refusal: str = REFUSAL
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.items, self.general) < 0 or not (self.items or self.general or self.written):
            raise DPGError("ask for at least one conversation")
        if min(self.ordinary, self.thought, self.error) < 0 or self.ordinary + self.thought + self.error <= 0:
            raise DPGError("the shares of ordinary, thought and error must not be negative, nor all be zero")
        if not (0 <= self.cross <= 1 and 0 <= self.test < 1 and 0 < self.similarity <= 1):
            raise DPGError("cross lies in 0..1, test in 0..1 (below 1), similarity in 0..1 (above 0)")
        if min(self.turns, self.rounds, self.per_paragraph, self.candidates) < 1:
            raise DPGError("turns, rounds, per_paragraph and candidates must be at least 1")
        if self.shots < 0:
            raise DPGError("shots must not be negative")
        if not self.refusal.strip():
            raise DPGError("the refusal must say something")


@dataclass(frozen=True)
class Slot:
    """A user turn to be written: from which paragraph, of which kind, the `draw`-th from it."""

    id: str
    stage: Stage
    kind: ItemKind
    source: Paragraph
    draw: int

    @property
    def source_id(self) -> str:
        """The paragraph's id."""
        return self.source.id


def slots(stage: Stage, settings: PersonifySettings) -> Iterator[Slot]:
    """The stage's user turns in the order in which they are asked for: every paragraph once, shuffled, then all again."""
    shares: dict[ItemKind, float] = {
        "ordinary": settings.ordinary,
        "thought": settings.thought,
        "error": settings.error,
    }
    total = sum(shares.values())
    counts = dict.fromkeys(shares, 0)
    number = 0
    for draw in range(settings.per_paragraph):
        order = list(stage.paragraphs)
        random.Random(f"{settings.seed} {stage.id} {draw}").shuffle(order)
        for source in order:
            number += 1
            kind = max(shares, key=lambda k: shares[k] / total * number - counts[k])
            counts[kind] += 1
            yield Slot(f"{stage.id}-{kind}-{number:05d}", stage, kind, source, draw)


def check_feasible(stages: tuple[Stage, ...], settings: PersonifySettings) -> None:
    """That the material gives as many user turns as are wanted.

    Raises:
        ValueError: it does not.
    """
    for stage in stages:
        most = len(stage.paragraphs) * settings.per_paragraph
        if most < settings.items:
            raise DPGError(
                f"stage {stage.id!r} has {len(stage.paragraphs)} paragraphs; with {settings.per_paragraph} user turns from each "
                f"that gives at most {most} conversations, not {settings.items}: add material, ask for fewer, or raise "
                "per_paragraph"
            )


def split_of(name: str, settings: PersonifySettings) -> Split:
    """Train or test, by the id alone, so that it does not change when other items come or go."""
    digest = hashlib.sha256(f"{settings.seed} {name}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < settings.test * 2**64 else "train"
