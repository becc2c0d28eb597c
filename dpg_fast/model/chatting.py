"""Conversations in, answers out: chat prompts with the tokens of the characters' stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from dpg_fast.hypernet.stage_rows import with_special_tokens
from dpg_fast.model.stage_embedding import StageEmbedding
from dpg_fast.model.wrapped import Wrapped
from dpg_fast.personality.row import PersonalityLike, RowLike, per_row, read_row, read_rows
from dpg_fast.personality.scores import Personality
from dpg_fast.personality.stages import label_messages
from dpg_fast.text.prompting import Message, chat_prompt, encode_prompts, padding
from dpg_fast.util.errors import DPGError

__all__ = ["Chatting", "Message", "StageTokenizer", "encode_prompts", "padding", "prepare"]

ChatInput: TypeAlias = str | Sequence[Message] | Sequence[Sequence[Message]] | Sequence[str]


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

    def label(self, messages: Sequence[Message], item: RowLike) -> list[Message]:
        """The conversation with the token of the item's stage before every user turn.

        Raises:
            ValueError: no such stage, no user turn, or a text that holds a stage token: it would choose the stage.
        """
        row = read_row(item)
        stage = None if row is None else row.stage
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


class Chatting(Wrapped):
    """The part of :class:`PersonalityModel` that answers conversations."""

    _stage_tokenizer: tuple[Any, int, StageTokenizer] | None

    def chat(
        self,
        conversation: ChatInput,
        *,
        personality: PersonalityLike = None,
        tokenizer: Any = None,
        system: str | None = None,
        **kwargs: Any,
    ) -> str | list[str]:
        """Answer a conversation in the model's chat format and return the text.

        Args:
            conversation: a question, a list of messages, or a list of several such conversations. One conversation with a
                list of personalities is answered by each of them, in one batch.
            personality: as in :meth:`generate`.
            tokenizer: by default the one saved with the base model.
            system: an instruction put before the conversation.
            **kwargs: passed to :meth:`generate` (``max_new_tokens``, ``do_sample``, ``streamer`` ...).

        Returns:
            One text, or a list when several conversations or personalities were given.
        """
        tokenizer = tokenizer or self._default_tokenizer()
        self._tokenizer = self._tokenizer or tokenizer
        many, batch, personalities = self._prompts(conversation, personality, tokenizer, system)
        kwargs.setdefault("pad_token_id", padding(tokenizer, self.base))
        output = self.generate(**batch, personality=personalities, **kwargs)
        sequences = output if isinstance(output, Tensor) else output.sequences
        texts = tokenizer.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        answers = [text.strip() for text in texts]
        return answers if many or len(answers) != 1 else answers[0]

    def prompts(
        self,
        conversation: ChatInput,
        *,
        personality: PersonalityLike = None,
        tokenizer: Any = None,
        system: str | None = None,
    ) -> Any:
        """What :meth:`chat` gives to :meth:`generate`: ``input_ids`` and ``attention_mask`` [rows, length], padded on the left.

        Rows whose personality has a stage have its token before every user turn, as in training. Its id lies beyond the base
        model's vocabulary (see :meth:`stage_token_id`); it is never generated.
        """
        tokenizer = tokenizer or self._default_tokenizer()
        return self._prompts(conversation, personality, tokenizer, system)[1]

    def stage_token_id(self, personality: Personality) -> int:
        """The id that stands for a personality's stage in prompts.

        Raises:
            ValueError: it has no stage, or the model no such stage.
        """
        row = read_row(personality)
        self._runtime.check([row])
        if row is None or row.stage is None or self._runtime.stages is None:
            raise DPGError(f"{personality} has no stage")
        return self._runtime.stages.token_id(*row.stage)

    def stage_tokenizer(self, tokenizer: Any) -> StageTokenizer | None:
        """``tokenizer`` with the stage tokens of the model's characters, for prompts of one's own; None without stages."""
        stages = self._runtime.stages
        if stages is None:
            return None
        kept = self._stage_tokenizer
        if kept is None or kept[0] is not tokenizer or kept[1] != len(tokenizer):
            kept = self._stage_tokenizer = (tokenizer, len(tokenizer), StageTokenizer(tokenizer, stages))
        return kept[2]

    def _prompts(
        self, conversation: Any, personality: Any, tokenizer: Any, system: str | None
    ) -> tuple[bool, Any, Any]:
        """(whether a list was asked for, encoded prompts, personality for them)."""
        grown = self.stage_tokenizer(tokenizer)
        if grown is None:
            many, texts, personalities = prepare(conversation, personality, tokenizer, system)
            return many, encode_prompts(tokenizer, texts, self.device), personalities
        many, texts, personalities = prepare(conversation, personality, grown.tokenizer, system, grown)
        return many, grown.encode(texts, self.device), personalities


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
        personality = read_rows(personality, len(conversations))
        conversations = [stages.label(messages, row) for messages, row in zip(conversations, personality, strict=True)]
    prompts = [chat_prompt(tokenizer, messages, system=system) for messages in conversations]
    if not prompts:
        raise DPGError("there is no conversation to answer")
    return several or one_each, prompts, personality


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
