"""How answers are generated when personalities are measured: the same way for every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dpg_fast.text.prompting import chat_prompt, encode_prompts
from dpg_fast.util.errors import DPGError

#: names no trait, so that what shows in an answer comes from the method that is measured
NEUTRAL_SYSTEM = (
    "Answer as a real person would, in the first person and from your own feelings, in two or three sentences."
)


@dataclass(frozen=True)
class AnswerSettings:
    """Greedy answers in the model's chat format. NPTI tested with 400 new tokens and a repetition penalty of 1.15.

    Args:
        system: the instruction put before every question.
        max_new_tokens: length of each answer.
        repetition_penalty: of ``generate``.
        batch_size: answers generated side by side.
    """

    system: str = NEUTRAL_SYSTEM
    max_new_tokens: int = 48
    repetition_penalty: float = 1.1
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise DPGError(f"{name} must be at least 1, got {getattr(self, name)}")

    def about(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}


def greedy_answers(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    settings: AnswerSettings,
    *,
    systems: Sequence[str] | None = None,
    **options: Any,
) -> list[str]:
    """One batch of answers to n questions.

    Args:
        model: with ``generate``.
        tokenizer: its tokenizer.
        questions: n.
        settings: of the generation.
        systems: n instructions in place of ``settings.system``.
        **options: passed to ``generate`` (``personality=``).
    """
    prompts = [
        chat_prompt(tokenizer, [{"role": "user", "content": question}], system=system)
        for question, system in zip(questions, systems or [settings.system] * len(questions), strict=True)
    ]
    batch = encode_prompts(tokenizer, prompts, model.device)
    with torch.inference_mode():
        output = model.generate(
            **batch,
            **options,
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            repetition_penalty=settings.repetition_penalty,
            pad_token_id=tokenizer.pad_token_id,
        )
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [str(text).strip() for text in texts]
