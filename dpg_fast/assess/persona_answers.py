"""Answers of a chat model that was told to be somebody: material to fit and to validate judges with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..personality import Pole
from ..prompting import chat_prompt, encode_prompts

SYSTEM_TEMPLATE = "{description} Answer as this person, in the first person, in two or three sentences."
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_FIRST_PERSON = {"you": "i", "your": "my", "yours": "mine", "yourself": "myself", "are": "am", "were": "was"}


@dataclass(frozen=True)
class PersonaAnswer:
    """What a model answered to `question` when its system text described somebody at `pole`."""

    pole: Pole
    question: str
    description: str
    answer: str


def generate_persona_answers(
    model: Any,
    tokenizer: Any,
    items: Sequence[tuple[Pole, str, str]],
    *,
    max_new_tokens: int = 70,
    batch_size: int = 32,
    system_template: str = SYSTEM_TEMPLATE,
    progress: Callable[[int, int], None] | None = None,
) -> list[PersonaAnswer]:
    """Greedy answers (repetition penalty 1.1) to items of (pole, question, description), in the order given.

    Sentences that only repeat the description are cut out, as is an unfinished last sentence where another
    remains: a judge should see behaviour, not the instruction. `answer` is empty if nothing else was said.
    """
    order = sorted(range(len(items)), key=lambda i: len(items[i][1]) + len(items[i][2]))  # less padding
    found: dict[int, PersonaAnswer] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        prompts = [
            chat_prompt(
                tokenizer,
                [{"role": "user", "content": items[i][1]}],
                system=system_template.format(description=items[i][2]),
            )
            for i in rows
        ]
        inputs = encode_prompts(tokenizer, prompts, model.device)
        with torch.inference_mode():
            output = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, repetition_penalty=1.1
            )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(rows, texts, strict=True):
            pole, question, description = items[i]
            found[i] = PersonaAnswer(pole, question, description, strip_description(text, description))
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    return [found[i] for i in range(len(items))]


def strip_description(answer: str, description: str, *, overlap: float = 0.5) -> str:
    """`answer` without the sentences that repeat `description`, and without an unfinished end.

    A sentence is cut if at least the share `overlap` of its word trigrams occurs in the description, "you" read as "I".
    """
    source = _trigrams(description)
    sentences = [sentence for sentence in _SENTENCE.split(answer.strip()) if sentence]
    kept = [sentence for sentence in sentences if _share(_trigrams(sentence), source) < overlap]
    if len(kept) > 1 and kept[-1] == sentences[-1] and kept[-1][-1] not in ".!?\"'”’":
        kept.pop()
    return " ".join(kept)


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = [_FIRST_PERSON.get(word, word) for word in re.findall(r"[^\W_]+", text.lower())]
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def _share(part: set[tuple[str, ...]], whole: set[tuple[str, ...]]) -> float:
    return len(part & whole) / len(part) if part else 0.0
