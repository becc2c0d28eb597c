"""What the evidence judge is told and how it answers: Big Five theory, eleven anchored levels, quotations before scores.

The use of a language model with Big Five theory in its prompt that gives each trait one of eleven integers follows the idea of
DPG (arXiv 2404.07084). Its prompt was not published: the wording, the anchors, the quotations and their check are this
package's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, Field

from dpg_fast.judges.dialogues import TARGET, Line
from dpg_fast.llm import Fence
from dpg_fast.personality.scores import Trait
from dpg_fast.text.facets import FACETS

PROMPT_VERSION = "evidence-1"
ANCHORS = "big_five_anchors.json"
MAX_QUOTES = 3
Level = Literal[-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5]
Confidence = Literal["low", "medium", "high"]

_SYSTEM = """You assess personality from behaviour, as a trained observer does. You read a conversation and judge one speaker \
in it, the target, on the five traits of the Big Five.

{theory}

How to judge:
- Judge how the target acts, feels and thinks, by what the target says. What other speakers say is context, not evidence.
- A trait is a lasting tendency. The situation calls for some behaviour by itself; weigh what goes beyond that.
- Judge each trait by itself. Being likeable, fluent or right is not a trait.
- For each trait, first copy up to three short passages of the target's own words that bear on it, letter for letter. Then give \
the level from -5 to 5 whose description fits best, and say how confident you are.
- If the target shows nothing that bears on a trait, give no passages and null as the level. 0 means evidence of an average \
person; it does not mean missing evidence.

{notice}"""
_USER = """The conversation follows, one speaker's turn after the other. Turns marked "target" are the target's; those marked \
"speaker_b" and so on are other people's.
{turns}

Judge the target."""


class TraitEvidence(BaseModel):
    """One trait: evidence first, so that the level follows from it."""

    quotes: list[str] = Field(
        max_length=MAX_QUOTES, description="short passages copied letter for letter from the target's turns"
    )
    level: Level | None = Field(description="-5 to 5; null if there is no evidence")
    confidence: Confidence


class EvidenceReply(BaseModel):
    """The judge's answer."""

    openness: TraitEvidence
    conscientiousness: TraitEvidence
    extraversion: TraitEvidence
    agreeableness: TraitEvidence
    neuroticism: TraitEvidence

    def of(self, trait: Trait) -> TraitEvidence:
        """What it says about one trait."""
        found: TraitEvidence = getattr(self, trait.value)
        return found


@cache
def load_anchors() -> dict[Trait, dict[str, Any]]:
    """Trait -> "about" and "levels" ("-5" to "5"), as shipped."""
    text = resources.files("dpg_fast").joinpath("assets", ANCHORS).read_text(encoding="utf-8")
    return {Trait.parse(name): value for name, value in json.loads(text)["traits"].items()}


@cache
def theory() -> str:
    """The traits, their facets at both ends, and a description of each of the eleven levels."""
    parts = []
    for trait, anchors in load_anchors().items():
        facets = "; ".join(f"{facet.name} ({facet.high} / {facet.low})" for facet in FACETS[trait])
        levels = "\n".join(f"{int(level):+d}: {text}" for level, text in anchors["levels"].items())
        parts.append(
            f"{trait.value.upper()}. {anchors['about']}\nFacets (high / low): {facets}.\n{levels.replace('+0', '0')}"
        )
    return "\n\n".join(parts)


def evidence_messages(lines: Sequence[Line]) -> list[dict[str, str]]:
    """The prompt for a piece of a dialogue. Every turn is fenced by itself, so that no turn can pose as another speaker's."""
    fence = Fence.around([line.text for line in lines])
    turns = "\n".join(fence.wrap(speaker_label(line.speaker), line.text) for line in lines)
    return [
        {"role": "system", "content": _SYSTEM.format(theory=theory(), notice=fence.notice())},
        {"role": "user", "content": _USER.format(turns=turns)},
    ]


def speaker_label(number: int) -> str:
    """ "target" for 0, then "speaker_b" to "speaker_z", "speaker_ba" and so on."""
    if number == TARGET:
        return "target"
    letters = ""
    while number:
        number, digit = divmod(number, 26)
        letters = chr(ord("a") + digit) + letters
    return "speaker_" + letters
