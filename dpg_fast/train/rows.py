"""Rows to learn from: lessons of the teacher, or recorded dialogue; and how they are put into a batch.

Every row has targets: at some positions, a distribution over a few next tokens. Recorded text is the case of one token of
probability 1 (the usual loss on assistant tokens); a lesson has the teacher's distribution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dpg_fast.hypernet import WORDINGS
from dpg_fast.personality.scores import MAX_SCORE, Personality
from dpg_fast.text.prompting import chat_prompt, with_system
from dpg_fast.text.records import DialogueRecord
from dpg_fast.train.lessons import Lesson
from dpg_fast.train.teacher import TaughtAnswer, mix
from dpg_fast.util.errors import DPGError
from dpg_fast.util.words import counted

PromptOf = Callable[[Personality], Tensor]
_TESTED = np.array([-5.0, -2.0, 2.0, 5.0])  # levels of the evaluation's new personalities


@dataclass(frozen=True)
class TrainingRow:
    """One sequence.

    Attributes:
        tokens: int64 [T].
        positions: int64 [n], where a next token is learnt (0 to T - 2, increasing).
        candidates: int64 [n, k], token ids.
        log_target: float32 [n, k], log probabilities, normalised over k.
        personality: float32 [5], scores in OCEAN order.
        wording: in which words the personality is told to hypernetworks that read text (`dpg_fast.hypernet.describe`).
    """

    tokens: Tensor
    positions: Tensor
    candidates: Tensor
    log_target: Tensor
    personality: Tensor
    wording: int = 0


class Source(Protocol):
    """Something a row is made of, which may differ from visit to visit."""

    def row(self, random: np.random.Generator) -> TrainingRow:
        """The row of one visit."""


class Rows(Dataset[TrainingRow]):
    """``visits`` rows of each source. What a visit looks like depends on ``seed`` and its index alone, so a resumed run sees
    what it would have seen."""

    def __init__(self, sources: Sequence[Source], visits: int = 1, seed: int = 0) -> None:
        if not sources or visits < 1:
            raise DPGError(f"nothing to learn from: {len(sources)} sources, {visits} visits")
        self.sources, self.visits, self.seed = sources, visits, seed

    def __len__(self) -> int:
        return len(self.sources) * self.visits

    def __getitem__(self, index: int) -> TrainingRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self.sources[index % len(self.sources)].row(np.random.default_rng([self.seed, index]))
        return dataclasses.replace(row, wording=int(np.random.default_rng([self.seed, index, 1]).integers(WORDINGS)))


@dataclass(frozen=True)
class TaughtSource:
    """An answer of a lesson, at its own levels or (``redraw`` of the visits) at others of the same traits.

    The text is then not what the teacher would have said, but what it would say next is known all the same. Full
    personalities whose levels are all among -5, -2, 2 and 5 are never drawn: the evaluation asks for those.

    With ``prompt_of`` the scores are written into the prompt instead, and the personality of the row is neutral.
    """

    prompt: Tensor
    levels: tuple[float, ...]
    answer: TaughtAnswer
    strength: float
    redraw: float
    prompt_of: PromptOf | None = None

    def row(self, random: np.random.Generator) -> TrainingRow:
        levels = np.array(self.levels)
        own = [trait.position for trait in self.answer.traits]
        if random.random() < self.redraw:
            levels[own] = random.uniform(-MAX_SCORE, MAX_SCORE, len(own))
        if np.isin(levels, _TESTED).all():
            levels = levels * 0.99
        scores = torch.tensor(levels, dtype=torch.float32)
        target = mix(self.answer.log_base, self.answer.log_ratio, scores[own], self.strength)
        prompt = self.prompt
        if self.prompt_of is not None:
            prompt, scores = self.prompt_of(Personality.clipped(levels)), torch.zeros_like(scores)
        tokens = torch.cat([prompt, self.answer.tokens.long()])
        positions = torch.arange(len(self.answer.tokens)) + len(prompt) - 1
        return TrainingRow(tokens, positions, self.answer.candidates.long(), target, scores)


@dataclass(frozen=True)
class TextSource:
    """A finished row, the same at each visit."""

    finished: TrainingRow

    def row(self, random: np.random.Generator) -> TrainingRow:
        return self.finished


def taught_sources(
    lessons: Iterable[Lesson],
    tokenizer: Any,
    *,
    strength: float,
    redraw: float = 0.5,
    persona: Callable[[Personality], str] | None = None,
) -> list[TaughtSource]:
    """A source for each answer of the lessons.

    Args:
        lessons: of the teacher.
        tokenizer: with a chat template.
        strength: of the teacher's targets.
        redraw: share of the visits at other levels than the answer's own.
        persona: writes scores into the instruction, for models that read them there.
    """
    found = []
    for lesson in lessons:

        def prompt_of(person: Personality | None, lesson: Lesson = lesson) -> Tensor:
            told = f"{persona(person)} {lesson.system}".strip() if person is not None and persona else lesson.system
            messages = [{"role": "user", "content": lesson.question}]
            return _encode(tokenizer, chat_prompt(tokenizer, messages, system=told))

        prompt, written = prompt_of(None), prompt_of if persona is not None else None
        for levels, answer in zip(lesson.levels, lesson.answers, strict=True):
            found.append(TaughtSource(prompt, levels, answer, strength, redraw, written))
    return found


def text_sources(
    records: Iterable[DialogueRecord], tokenizer: Any, max_length: int = 1024, *, system: str | None = None
) -> list[TextSource]:
    """A source for each dialogue with a personality and a turn of the assistant: loss on the assistant's tokens alone.

    Longer dialogues are cut at ``max_length`` tokens; those whose assistant only speaks after that are left out.

    Args:
        records: dialogues.
        tokenizer: with a chat template.
        max_length: tokens.
        system: the instruction before dialogues that have none of their own: the one that is used when the model answers.

    Raises:
        ValueError: no dialogue is left, or the chat template does not build a conversation turn by turn.
    """
    found, seen = [], 0
    for record in records:
        seen += 1
        if record.personality is None:
            continue
        messages = [turn.model_dump() for turn in record.messages]
        if messages[0]["role"] != "system":
            messages = with_system(tokenizer, messages, system)
        tokens, learnt = assistant_tokens(tokenizer, messages)
        tokens, learnt = tokens[:max_length], learnt[:max_length]
        positions = learnt[1:].nonzero().flatten()
        if len(positions):
            following = tokens[positions + 1][:, None]
            scores = torch.tensor(record.personality, dtype=torch.float32)
            zeros = torch.zeros(len(positions), 1)
            found.append(TextSource(TrainingRow(tokens, positions, following, zeros, scores)))
    if not found:
        raise DPGError(f"none of {counted(seen, 'record')} has a personality and an assistant's turn")
    return found


def assistant_tokens(tokenizer: Any, messages: Sequence[dict[str, str]]) -> tuple[Tensor, Tensor]:
    """int64 [T] of the conversation, and bool [T]: what the assistant says, its end of turn included.

    Raises:
        ValueError: the chat template does not build a conversation turn by turn.
    """
    text, marks = "", []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = chat_prompt(tokenizer, messages[:number])
        after = tokenizer.apply_chat_template(list(messages[: number + 1]), tokenize=False)
        if not before.startswith(text) or not after.startswith(before):
            raise DPGError("the chat template rewrites earlier turns, so the assistant's tokens cannot be told apart")
        said = after[len(before) :]
        marks.append((before[len(text) :], False))
        marks.append((said.rstrip("\n"), True))
        marks.append((said[len(said.rstrip("\n")) :], False))
        text = after
    pieces = [(_encode(tokenizer, part), learn) for part, learn in marks if part]
    if not pieces:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    return (
        torch.cat([ids for ids, _ in pieces]),
        torch.cat([torch.full((len(ids),), learn) for ids, learn in pieces]),
    )


def _encode(tokenizer: Any, text: str) -> Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def collate(rows: Sequence[TrainingRow], pad_token: int, pack: int = 0) -> dict[str, Tensor]:
    """A batch of B rows, padded on the right.

    Args:
        rows: B of them.
        pad_token: id that fills short rows.
        pack: put several rows one after another into lines of up to this many tokens (and at least the longest row), kept
            apart by `segments` and `position_ids`; 0 gives every row a line of its own.

    Returns:
        input_ids int64 [lines, T]; personality float32 [B, 5]; wording int64 [B]; positions int64 [B, n] in the row's line (-1
        is padding); candidates int64 [B, n, k]; log_target float32 [B, n, k] (-inf is padding). Without packing a line is a
        row, and there is attention_mask int64 [B, T]; with it position_ids int64 [lines, T], line int64 [B], the line
        of each row, and segments int64 [lines, T], the row of each token, -1 for padding.
    """
    lines = _fill_lines(rows, pack) if pack else [[number] for number in range(len(rows))]
    length = max(sum(len(rows[number].tokens) for number in line) for line in lines)
    count = max(len(row.positions) for row in rows)
    width = max(row.candidates.shape[1] for row in rows)
    batch = {
        "input_ids": torch.full((len(lines), length), pad_token),
        "personality": torch.stack([row.personality for row in rows]),
        "wording": torch.tensor([row.wording for row in rows]),
        "positions": torch.full((len(rows), count), -1),
        "candidates": torch.zeros(len(rows), count, width, dtype=torch.long),
        "log_target": torch.full((len(rows), count, width), -torch.inf),
    }
    segments = torch.full((len(lines), length), -1)
    position_ids = torch.zeros(len(lines), length, dtype=torch.long)
    line_of = torch.zeros(len(rows), dtype=torch.long)
    for index, line in enumerate(lines):
        begin = 0
        for number in line:
            row = rows[number]
            n, k = row.candidates.shape
            place = slice(begin, begin + len(row.tokens))
            batch["input_ids"][index, place] = row.tokens
            segments[index, place] = number
            position_ids[index, place] = torch.arange(len(row.tokens))
            line_of[number] = index
            batch["positions"][number, :n] = row.positions + begin
            batch["candidates"][number, :n, :k] = row.candidates
            batch["log_target"][number, :n, :k] = row.log_target
            begin = place.stop
    if pack:
        return batch | {"segments": segments, "position_ids": position_ids, "line": line_of}
    return batch | {"attention_mask": (segments >= 0).long()}


def _fill_lines(rows: Sequence[TrainingRow], room: int) -> list[list[int]]:
    """Numbers of the rows in each line: longest first, each into the first line that still has room for it."""
    lines: list[list[int]] = []
    left: list[int] = []
    room = max(room, max(len(row.tokens) for row in rows))
    for number in sorted(range(len(rows)), key=lambda n: -len(rows[n].tokens)):
        need = len(rows[number].tokens)
        index = next((i for i, free in enumerate(left) if free >= need), len(lines))
        if index == len(lines):
            lines.append([])
            left.append(room)
        lines[index].append(number)
        left[index] -= need
    return lines
