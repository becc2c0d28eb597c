"""Answers of a chat model that was told to be somebody: material to fit and to validate judges with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from dpg_fast.personality.scores import Personality, Pole, Trait
from dpg_fast.text.answers import write_texts
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.util.files import write_text
from dpg_fast.util.progress import Count
from dpg_fast.util.reading import checked, json_lines, refusing

# The persona stands before and after the question: small models lose sight of a system text alone.
SYSTEM_TEMPLATE = "{description}"
USER_TEMPLATE = "{question}\n\n{description} Answer as this person, in the first person, in two or three sentences."
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_FIRST_PERSON = {"you": "i", "your": "my", "yours": "mine", "yourself": "myself", "are": "am", "were": "was"}


@dataclass(frozen=True)
class PersonaAnswer:
    """What a model answered to `question` when it was described as somebody at `pole`."""

    pole: Pole
    question: str
    description: str
    answer: str


class _Stored(TypedDict):
    pole: str
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
    user_template: str = USER_TEMPLATE,
    progress: Count | None = None,
) -> list[PersonaAnswer]:
    """Answers to items of (pole, question, description), in their order, greedy with a repetition penalty of 1.1.

    Sentences that only repeat the description are cut out, as is an unfinished last sentence where another
    remains: a judge should see behaviour, not the instruction. `answer` is empty if nothing else was said.
    """
    prompts = [
        chat_prompt(
            tokenizer,
            [{"role": "user", "content": user_template.format(question=question, description=description)}],
            system=system_template.format(description=description),
        )
        for _, question, description in items
    ]
    options = {"max_new_tokens": max_new_tokens, "repetition_penalty": 1.1}
    texts = write_texts(model, tokenizer, prompts, batch_size=batch_size, progress=progress, **options)
    return [
        PersonaAnswer(pole, question, description, strip_description(text, description))
        for (pole, question, description), text in zip(items, texts, strict=True)
    ]


def strip_description(answer: str, description: str, *, overlap: float = 0.5) -> str:
    """`answer` without the sentences that repeat `description`, and without an unfinished end.

    A sentence is cut if a share of `overlap` or more of its word trigrams is in the description, where "you"
    is read as "I".
    """
    source = _trigrams(description)
    sentences = [sentence for sentence in _SENTENCE.split(answer.strip()) if sentence]
    kept = [sentence for sentence in sentences if _share(_trigrams(sentence), source) < overlap]
    if len(kept) > 1 and kept[-1] == sentences[-1] and kept[-1][-1] not in ".!?\"'”’":
        kept.pop()
    return " ".join(kept)


def save_answers(path: Path, answers: Sequence[PersonaAnswer]) -> None:
    """Write JSON Lines with the keys pole, question, description, answer."""
    rows = (json.dumps(asdict(row) | {"pole": str(row.pole)}, ensure_ascii=False) + "\n" for row in answers)
    write_text(Path(path), "".join(rows))


def load_answers(path: Path) -> list[PersonaAnswer]:
    """Read what `save_answers` wrote.

    Raises:
        ValueError: a line lacks a key or names no pole.
    """
    answers = []
    for where, row in json_lines(path, str(path)):
        checked(_Stored, row, where)
        with refusing(where):
            answers.append(PersonaAnswer(Pole.parse(row["pole"]), row["question"], row["description"], row["answer"]))
    return answers


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = [_FIRST_PERSON.get(word, word) for word in re.findall(r"[^\W_]+", text.lower())]
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def _share(part: set[tuple[str, ...]], whole: set[tuple[str, ...]]) -> float:
    return len(part & whole) / len(part) if part else 0.0


def score_text(personality: Personality) -> str:
    """The five scores in words and numbers, as a plain adapter reads them in its instruction."""
    scores = ", ".join(f"{trait.value} {score:+.1f}" for trait, score in zip(Trait, personality.scores, strict=True))
    return f"Your personality, each from -5 to 5: {scores}."
