"""Conversations in, prompts and personalities out: what :meth:`PersonalityModel.chat` does before it generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dpg_fast.prompting import Message, chat_prompt, encode_prompts

__all__ = ["Message", "encode_prompts", "padding", "prepare"]


def prepare(conversation: Any, personality: Any, tokenizer: Any, system: str | None) -> tuple[bool, list[str], Any]:
    """(whether a list was asked for, prompts, personality for them).

    Raises:
        ValueError: an empty conversation, or as many conversations as there are not personalities.
        TypeError: not a conversation.
    """
    several = _is_several(conversation)
    conversations = [_messages(item) for item in conversation] if several else [_messages(conversation)]
    per_row = isinstance(personality, (list, tuple)) or (isinstance(personality, Tensor) and personality.dim() == 2)
    if per_row and not several:
        conversations = conversations * len(personality)
    prompts = [chat_prompt(tokenizer, messages, system=system) for messages in conversations]
    if not prompts:
        raise ValueError("there is no conversation to answer")
    return several or per_row, prompts, personality


def padding(tokenizer: Any, model: Any) -> int:
    """Id for padding: the tokenizer's, else an end-of-sequence id."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    eos = model.generation_config.eos_token_id
    return int(eos[0] if isinstance(eos, list) else eos if eos is not None else tokenizer.eos_token_id)


def _is_several(conversation: Any) -> bool:
    if isinstance(conversation, str):
        return False
    if not isinstance(conversation, Sequence):
        raise TypeError(f"a conversation is a text or a list of messages, got {type(conversation).__name__}")
    return not (len(conversation) and isinstance(conversation[0], Mapping))


def _messages(conversation: Any) -> list[Message]:
    if isinstance(conversation, str):
        return [{"role": "user", "content": conversation}]
    messages = [dict(message) for message in conversation]
    for message in messages:
        if not {"role", "content"} <= message.keys():
            raise TypeError(f'a message needs "role" and "content", got {sorted(message)}')
    if not messages:
        raise ValueError("a conversation needs at least one message")
    return messages
