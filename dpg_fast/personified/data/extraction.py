"""Prompts and rules that take a character out of a novel or a wiki: facts and own words apart, each with its place and time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, Field

from dpg_fast.data.questions.rules import Limits, Rejection
from dpg_fast.llm import Call, Fence
from dpg_fast.personified.data import wording
from dpg_fast.personified.data.material import Kind, Name
from dpg_fast.personified.data.reading import Block, count_words
from dpg_fast.util.words import counted

T = TypeVar("T", bound=BaseModel)
PROMPT_VERSION = "material-1"
PASSAGE_WORDS = 900
EXTRACT_TOKENS, STAGE_TOKENS, ASSIGN_TOKENS = 700, 300, 400  # expected in a reply
LIMITS: dict[Kind, Limits] = {"knowledge": Limits(8, 130), "style": Limits(4, 200)}
ASSIGNED_AT_ONCE = 30
UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
)  # scripts, as Unicode names letters
_VOWELS = "аяоеёийіїьαηάήςσος"  # that endings replace
_LATIN_ENDINGS = "s|n|ns|en|es|m|lla|lle|lta|ssa|sta|nak|nek|val|vel|ból|ből"  # German, Finnish, Hungarian and the like
_OUTLINE_LINES = 150
_NUMBER = re.compile(r"\d+")


class ExtractedItem(BaseModel):
    """One fact, or some of the person's own words."""

    kind: Kind
    paragraphs: list[int] = Field(description="numbers of the paragraphs it is from")
    text: str


class Extract(BaseModel):
    """The reply to a passage."""

    when: str = Field(description="when in the person's life the passage plays, in a few words")
    items: list[ExtractedItem]


class ProposedStage(BaseModel):
    """A stage of a life."""

    id: Name
    time: str = Field(description="one sentence in the present tense that says when it is")
    belongs: str = Field(description="which passages belong to it")


class ProposedStages(BaseModel):
    """The reply to the request for stages."""

    stages: list[ProposedStage]


class Assignment(BaseModel):
    """An item's number and its stage's."""

    item: int
    stage: int


class Assignments(BaseModel):
    """The reply to the request for the items' stages."""

    assignments: list[Assignment]


@dataclass(frozen=True)
class Passage:
    """Consecutive paragraphs of a file; `first` is the number of the first one, from 1."""

    file: str
    first: int
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """The paragraphs with their numbers."""
        return "\n\n".join(f"({number}) {block.text}" for number, block in enumerate(self.blocks, self.first))

    def origin(self, numbers: Sequence[int]) -> str:
        """ "file#3-5"."""
        low, high = min(numbers), max(numbers)
        return f"{self.file}#{low}" if low == high else f"{self.file}#{low}-{high}"


def passages(file: str, blocks: Sequence[Block], names: Sequence[str], everything: bool = False) -> list[Passage]:
    """The file cut into passages of about `PASSAGE_WORDS` words; those that name the person, unless ``everything``."""
    found: list[Passage] = []
    held: list[Block] = []
    size = first = 0
    for number, block in enumerate(blocks, 1):
        length = count_words(block.text)
        if held and size + length > PASSAGE_WORDS:
            found.append(Passage(file, first, tuple(held)))
            held, size = [], 0
        if not held:
            first = number
        held.append(block)
        size += length
    if held:
        found.append(Passage(file, first, tuple(held)))
    if everything:
        return found
    named = re.compile("|".join(map(_inflected, names)), re.IGNORECASE)
    return [passage for passage in found if any(named.search(block.text) for block in passage.blocks)]


def _inflected(name: str) -> str:
    """A pattern of the name as texts have it: with an ending, or without spaces around it where the script has none.

    Too many passages cost calls, too few lose what is known of the person, so endings are taken generously.
    """
    first, last = (unicodedata.name(letter, "").partition(" ")[0] for letter in (name[0], name[-1]))
    before = "" if first in UNSPACED else r"(?<!\w)"
    if last in UNSPACED:
        return before + re.escape(name)
    if last in ("CYRILLIC", "GREEK") and len(name) > 3:
        return before + re.escape(name.rstrip(_VOWELS) or name) + r"\w{0,3}(?!\w)"
    return before + re.escape(name) + (rf"(?:{_LATIN_ENDINGS})?(?!\w)" if len(name) > 3 else r"(?!\w)")


def extract_call(passage: Passage, name: str, aliases: Sequence[str]) -> Call[Extract]:
    """The call that takes items out of a passage."""
    fence = Fence.around([passage.text])
    known = f" (also called {', '.join(aliases)})" if aliases else ""
    system = wording.text("extract").format(name=name, aliases=known, notice=fence.notice())
    return _call(f"{passage.file}#{passage.first}", system, fence.wrap("passage", passage.text), Extract)


def stages_call(notes: Sequence[str], name: str, count: int) -> Call[ProposedStages]:
    """The call that divides a life into stages, from notes on when passages play."""
    step = max(1, -(-len(notes) // _OUTLINE_LINES))
    outline = "\n".join(f"{i + 1}: {notes[i]}" for i in range(0, len(notes), step))
    fence = Fence.around([outline])
    system = wording.text("stages").format(name=name, count=count, notice=fence.notice())

    def wrong(reply: ProposedStages) -> str | None:
        ids = [stage.id for stage in reply.stages]
        if len(ids) == count == len(set(ids)):
            return None
        return f"Wanted are {count} stages with different ids, not {len(ids)}."

    messages = [{"role": "system", "content": system}, {"role": "user", "content": fence.wrap("notes", outline)}]
    return Call("stages", messages, ProposedStages, PROMPT_VERSION, check=wrong)


def assign_call(
    number: int, items: Sequence[tuple[str, str]], name: str, stages: Sequence[ProposedStage]
) -> Call[Assignments]:
    """The call that gives items their stages.

    Args:
        number: of the call, for reports.
        items: (when the passage plays, text).
        name: the person's.
        stages: in order.
    """
    listed = "\n".join(f"({i}) [{when}] {text}" for i, (when, text) in enumerate(items, 1))
    described = "\n".join(f"{i}: {stage.time} {stage.belongs}" for i, stage in enumerate(stages, 1))
    fence = Fence.around([listed])
    system = wording.text("assign").format(name=name, notice=fence.notice(), stages=described)
    return _call(f"stages of items {number}", system, fence.wrap("items", listed), Assignments)


def check_item(item: ExtractedItem, passage: Passage) -> Rejection | None:
    """Why an item is refused: its place, its length, words that are not the passage's, numbers from nowhere."""
    last = passage.first + len(passage.blocks) - 1
    if not item.paragraphs or not all(passage.first <= number <= last for number in item.paragraphs):
        return Rejection("no such paragraph", str(item.paragraphs))
    count = count_words(item.text)
    limits = LIMITS[item.kind]
    if not limits.shortest <= count <= limits.longest:
        return Rejection("too short" if count < limits.shortest else "too long", counted(count, "word"))
    whole = " ".join(block.text for block in passage.blocks)
    if item.kind == "style":
        return None if _plain(item.text) in _plain(whole) else Rejection("not the text's words")
    invented = set(_NUMBER.findall(item.text)) - set(_NUMBER.findall(whole))
    return Rejection("a number that the passage does not have", ", ".join(sorted(invented))) if invented else None


def _plain(text: str) -> str:
    """Letters and digits alone: quotation marks and spaces differ between a text and its copy."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _call(item: str, system: str, user: str, answer: type[T]) -> Call[T]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return Call(item, messages, answer, PROMPT_VERSION)
