"""How texts are generated, and the settings of answers when personalities are measured: the same for every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dpg_fast.compat.accelerate import input_device
from dpg_fast.text.prompting import chat_prompt, encode_prompts, padding
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Count

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


def write_tokens(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    /,
    *,
    longest: int | None = None,
    watch: Callable[[int], AbstractContextManager[Any]] | None = None,
    **options: Any,
) -> Tensor:
    """What a model writes after finished prompts, in one batch: int64 [n, new tokens], padded behind the end.

    Args:
        model: with ``generate``.
        tokenizer: its tokenizer.
        prompts: n texts in the model's own format.
        longest: longer prompts lose their beginning, in tokens.
        watch: called with the prompts' padded length; what it returns is entered while the model writes.
        **options: passed to ``generate``; greedy unless they say otherwise.
    """
    batch = encode_prompts(tokenizer, prompts, input_device(getattr(model, "base", model)))
    if longest is not None:
        batch = {name: values[:, -longest:] for name, values in batch.items()}
    length = batch["input_ids"].shape[1]
    options = {"do_sample": False, "pad_token_id": padding(tokenizer, model)} | options
    with torch.inference_mode(), nullcontext() if watch is None else watch(length):
        output: Tensor = model.generate(**batch, **options)
    return output[:, length:]


def write_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    /,
    *,
    batch_size: int | None = None,
    progress: Count | None = None,
    **options: Any,
) -> list[str]:
    """The same as texts, without special tokens and surrounding spaces.

    Args:
        model, tokenizer, prompts: as in `write_tokens`.
        batch_size: prompts of like lengths are run side by side, this many at once; None runs all at once, in their order.
        progress: called with how many are done, and of how many.
        **options: as in `write_tokens`; what they hold for single rows goes with all of them at once only.
    """
    order = list(range(len(prompts)))
    if batch_size is not None:
        order.sort(key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    for start in range(0, len(order), batch_size or len(order)):
        rows = order[start : start + (batch_size or len(order))]
        tokens = write_tokens(model, tokenizer, [prompts[i] for i in rows], **options)
        for i, text in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
            found[i] = text.strip()
        if progress is not None:
            progress(start + len(rows), len(order))
    return found


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
    options |= {"max_new_tokens": settings.max_new_tokens, "repetition_penalty": settings.repetition_penalty}
    return write_texts(model, tokenizer, prompts, **options)
