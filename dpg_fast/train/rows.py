"""Rows to learn from: lessons of the teacher, or recorded dialogue; and how they are put into a batch.

Every row has targets: at some positions, a distribution over a few next tokens. Recorded text is the case of one token of
probability 1 (the usual loss on assistant tokens); a lesson has the teacher's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dpg_fast.data.records import DialogueRecord
from dpg_fast.personality import MAX_SCORE, Personality
from dpg_fast.prompting import chat_prompt, with_system
from dpg_fast.train.lessons import Lesson
from dpg_fast.train.teacher import TaughtAnswer, mix

PromptOf = Callable[[Personality], Tensor]
_TESTED = np.array([-5.0, -2.0, 2.0, 5.0])  # levels of the evaluation's new personalities


@dataclass(frozen=True)
class Row:
    """One sequence.

    Attributes:
        tokens: int64 [T].
        positions: int64 [n], where a next token is learnt (0 to T - 2, increasing).
        candidates: int64 [n, k], token ids.
        log_target: float32 [n, k], log probabilities, normalised over k.
        personality: float32 [5], scores in OCEAN order.
    """

    tokens: Tensor
    positions: Tensor
    candidates: Tensor
    log_target: Tensor
    personality: Tensor


class Source(Protocol):
    """Something a row is made of, which may differ from visit to visit."""

    def row(self, random: np.random.Generator) -> Row:
        """The row of one visit."""


class Rows(Dataset[Row]):
    """``visits`` rows of each source. What a visit looks like depends on ``seed`` and its index alone, so a resumed run sees
    what it would have seen."""

    def __init__(self, sources: Sequence[Source], visits: int = 1, seed: int = 0) -> None:
        if not sources or visits < 1:
            raise ValueError(f"nothing to learn from: {len(sources)} sources, {visits} visits")
        self.sources, self.visits, self.seed = sources, visits, seed

    def __len__(self) -> int:
        return len(self.sources) * self.visits

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.sources[index % len(self.sources)].row(np.random.default_rng([self.seed, index]))


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

    def row(self, random: np.random.Generator) -> Row:
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
        return Row(tokens, positions, self.answer.candidates.long(), target, scores)


@dataclass(frozen=True)
class TextSource:
    """A finished row, the same at each visit."""

    finished: Row

    def row(self, random: np.random.Generator) -> Row:
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
            found.append(TextSource(Row(tokens, positions, following, zeros, scores)))
    if not found:
        raise ValueError(f"none of {seen} records has a personality and an assistant's turn")
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
            raise ValueError("the chat template rewrites earlier turns, so the assistant's tokens cannot be told apart")
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


def collate(rows: Sequence[Row], pad_token: int) -> dict[str, Tensor]:
    """A batch of B rows, padded on the right.

    Returns:
        input_ids, attention_mask int64 [B, T]; personality float32 [B, 5]; positions int64 [B, n] (-1 is padding);
        candidates int64 [B, n, k]; log_target float32 [B, n, k] (-inf is padding).
    """
    length = max(len(row.tokens) for row in rows)
    count = max(len(row.positions) for row in rows)
    width = max(row.candidates.shape[1] for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), length), pad_token),
        "attention_mask": torch.zeros(len(rows), length, dtype=torch.long),
        "personality": torch.stack([row.personality for row in rows]),
        "positions": torch.full((len(rows), count), -1),
        "candidates": torch.zeros(len(rows), count, width, dtype=torch.long),
        "log_target": torch.full((len(rows), count, width), -torch.inf),
    }
    for number, row in enumerate(rows):
        n, k = row.candidates.shape
        batch["input_ids"][number, : len(row.tokens)] = row.tokens
        batch["attention_mask"][number, : len(row.tokens)] = 1
        batch["positions"][number, :n] = row.positions
        batch["candidates"][number, :n, :k] = row.candidates
        batch["log_target"][number, :n, :k] = row.log_target
    return batch
