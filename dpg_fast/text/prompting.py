"""Turn a system text and a conversation into a prompt of the model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpg_fast.compat.transformers_models import chat_template
from dpg_fast.util.errors import DPGError

Message = dict[str, Any]


def with_system(tokenizer: Any, messages: Sequence[Message], system: str | None) -> list[Message]:
    """``messages`` with ``system`` in front, or inside the first user turn where the chat template has no system role."""
    conversation = [dict(message) for message in messages]
    if not system:
        return conversation
    try:
        tokenizer.apply_chat_template(
            [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], tokenize=False
        )
    except Exception as error:  # templates raise jinja2's own errors, whose types transformers does not re-export
        if "system" not in str(error).lower():
            raise
        first = next(message for message in conversation if message["role"] == "user")
        first["content"] = f"{system}\n\n{first['content']}"
        return conversation
    return [{"role": "system", "content": system}, *conversation]


def chat_prompt(
    tokenizer: Any, messages: Sequence[Message], *, system: str | None = None, tools: Sequence[Any] | None = None
) -> str:
    """The text that asks the model for the next assistant turn.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: turns as ``{"role": "user" | "assistant" | "system", "content": str}``.
        system: an instruction put before them.
        tools: JSON schemas of functions, for a chat template that tells the model about them.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if chat_template(tokenizer) is None:
        raise DPGError(f"{type(tokenizer).__name__} has no chat template; give prompts to generate() instead of chat()")
    text = tokenizer.apply_chat_template(
        with_system(tokenizer, messages, system), tools=tools, tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


def encode_prompts(tokenizer: Any, prompts: Sequence[str], device: Any = None) -> Any:
    """Left-padded ``input_ids`` and ``attention_mask`` [N, L] of finished prompts (no special tokens are added)."""
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        batch = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
    finally:
        tokenizer.padding_side = side
    return batch if device is None else batch.to(device)


def padding(tokenizer: Any, model: Any) -> int:
    """Id for padding: the tokenizer's, else an end-of-sequence id."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    eos = model.generation_config.eos_token_id
    return int(eos[0] if isinstance(eos, list) else eos if eos is not None else tokenizer.eos_token_id)
