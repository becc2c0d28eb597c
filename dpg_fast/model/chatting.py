"""Conversations in, prompts and personalities out: what :meth:`PersonalityModel.chat` does before it generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpg_fast.hypernet.stage_rows import with_special_tokens
from dpg_fast.model.stage_embedding import StageEmbedding, stage_of
from dpg_fast.personality.row import per_row, read_rows
from dpg_fast.personality.stages import label_messages
from dpg_fast.text.prompting import Message, chat_prompt, encode_prompts
from dpg_fast.util.errors import DPGError

__all__ = ["Message", "StageTokenizer", "encode_prompts", "padding", "prepare"]


class StageTokenizer:
    """A tokenizer that also knows the stage tokens of a model's characters, each by a name of its own.

    Args:
        tokenizer: of the base model; it is copied.
        stages: of the model.
    """

    def __init__(self, tokenizer: Any, stages: StageEmbedding) -> None:
        self.stages = stages
        self.names = {
            (t.character, t.stage): f"<|stage {i}: {t.character}/{t.stage}|>" for i, t in enumerate(stages.rows.tokens)
        }
        self.tokenizer = with_special_tokens(tokenizer, list(self.names.values()))

    def label(self, messages: Sequence[Message], item: object) -> list[Message]:
        """The conversation with the token of the item's stage before every user turn.

        Raises:
            ValueError: no such stage, no user turn, or a text that holds a stage token: it would choose the stage.
        """
        stage = stage_of(item)
        if stage is not None:
            self.stages.token_id(*stage)  # refuses a stage that is not there
        for message in messages:
            for name in self.names.values():
                if name in message["content"]:
                    raise DPGError(f"a message holds the text {name!r}, which stands for a stage")
        return label_messages(messages, self.names[stage] if stage is not None else None)

    def own_ids(self, ids: Sequence[int]) -> list[int]:
        """Ids of `tokenizer` with those that the model has for the stage tokens."""
        own = {
            self.tokenizer.convert_tokens_to_ids(name): self.stages.token_id(*key) for key, name in self.names.items()
        }
        return [own.get(index, index) for index in ids]

    def encode(self, prompts: Sequence[str], device: Any) -> Any:
        """As `encode_prompts`, with the ids that the model has for the stage tokens."""
        batch = encode_prompts(self.tokenizer, prompts, device)
        found = batch["input_ids"]
        ids = found.clone()
        for (character, stage), name in self.names.items():
            own = self.tokenizer.convert_tokens_to_ids(name)
            ids[found == own] = self.stages.token_id(character, stage)
        batch["input_ids"] = ids
        return batch


def prepare(
    conversation: Any, personality: Any, tokenizer: Any, system: str | None, stages: StageTokenizer | None = None
) -> tuple[bool, list[str], Any]:
    """(whether a list was asked for, prompts, personality for them).

    Raises:
        ValueError: an empty conversation, or as many conversations as there are not personalities.
        TypeError: not a conversation.
    """
    several = _is_several(conversation)
    conversations = [_messages(item) for item in conversation] if several else [_messages(conversation)]
    one_each = per_row(personality)
    if one_each and not several:
        conversations = conversations * len(personality)
    if stages is not None:
        items = read_rows(personality, len(conversations))
        conversations = [stages.label(messages, item) for messages, item in zip(conversations, items, strict=True)]
    prompts = [chat_prompt(tokenizer, messages, system=system) for messages in conversations]
    if not prompts:
        raise DPGError("there is no conversation to answer")
    return several or one_each, prompts, personality


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
        raise DPGError("a conversation needs at least one message")
    return messages
