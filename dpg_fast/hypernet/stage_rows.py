"""Embedding rows of stage tokens: each character's own, kept beside its bank entry."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpg_fast.personality.row import RowItem, read_row
from dpg_fast.personality.stages import CharacterCard, stage_token, write_card
from dpg_fast.util.errors import DPGError

__all__ = ["StageRows", "StageToken", "character_files", "no_stage", "with_special_tokens"]


class StageToken(NamedTuple):
    """One stage of one character.

    Attributes:
        character, stage: names, as a Personality gives them.
        label: temporal label ("TIME-I").
        trained_id: the token's id in the vocabulary that the character was tuned with.
    """

    character: str
    stage: str
    label: str
    trained_id: int


class StageRows(nn.Module):
    """The trained rows, one for each stage of each character, so that two characters may mean different things by one label.

    Attributes:
        tokens: what the rows are of, in order.
        rows: buffer, float32 [n, width], as the embedding holds its weights (before a scale of its own).
        embedding: dotted path of the embedding in the base model.
    """

    rows: Tensor

    def __init__(self, tokens: Sequence[StageToken], width: int, embedding: str) -> None:
        super().__init__()
        self.tokens = tuple(StageToken(*token) for token in tokens)
        self.embedding = embedding
        self._index = {(token.character, token.stage): i for i, token in enumerate(self.tokens)}
        if not self.tokens or len(self._index) != len(self.tokens):
            raise DPGError(f"stage tokens are missing or repeat: {list(self.tokens)}")
        self.register_buffer("rows", torch.zeros(len(self.tokens), width))

    @classmethod
    def read(cls, cards: Mapping[str, tuple[CharacterCard, Mapping[int, Tensor], str]]) -> StageRows | None:
        """Rows of characters as their adapters hold them: name -> (card, id -> row [width], path of the embedding).

        Raises:
            ValueError: rows of different widths or embeddings.
        """
        tokens, rows, paths = [], [], set()
        for name, (card, trained, path) in cards.items():
            for stage, label in card.stages.items():
                number = card.tokens[stage_token(label)]
                tokens.append(StageToken(name, stage, label, number))
                rows.append(trained[number].float())
                paths.add(path)
        if not tokens:
            return None
        if len({row.shape for row in rows}) != 1 or len(paths) != 1:
            raise DPGError("the characters' stage tokens have embeddings of different sizes or places")
        made = cls(tokens, rows[0].numel(), paths.pop())
        made.rows.copy_(torch.stack(rows))
        return made

    @classmethod
    def joined(cls, parts: Iterable[StageRows | None]) -> StageRows | None:
        """All rows of several; None without any.

        Raises:
            ValueError: rows of different widths or embeddings, or one character twice.
        """
        found = [part for part in parts if part is not None]
        if not found:
            return None
        if len({(part.rows.shape[1], part.embedding) for part in found}) != 1:
            raise DPGError("the characters' stage tokens have embeddings of different sizes or places")
        made = cls([token for part in found for token in part.tokens], found[0].rows.shape[1], found[0].embedding)
        made.rows.copy_(torch.cat([part.rows.cpu() for part in found]))
        return made

    def index(self, character: str, stage: str) -> int:
        """The row of a character's stage.

        Raises:
            ValueError: no such stage; the message lists those of the character.
        """
        found = self._index.get((character, stage))
        if found is None:
            raise DPGError(no_stage(character, stage, [t.stage for t in self.tokens if t.character == character]))
        return found

    def of(self, character: str) -> dict[str, tuple[StageToken, Tensor]]:
        """Stage -> (token, row) of one character; empty for one without stages."""
        return {t.stage: (t, self.rows[i]) for i, t in enumerate(self.tokens) if t.character == character}

    def to_config(self) -> dict[str, Any]:
        """Plain JSON values from which `from_config` makes a module that takes this one's state dict."""
        return {
            "tokens": [list(token) for token in self.tokens],
            "width": self.rows.shape[1],
            "embedding": self.embedding,
        }

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> StageRows:
        return cls([StageToken(*token) for token in values["tokens"]], values["width"], values["embedding"])

    def extra_repr(self) -> str:
        return ", ".join(f"{token.character}/{token.stage}" for token in self.tokens)


def no_stage(character: str, stage: str, known: Sequence[str]) -> str:
    """The message for a stage that a character does not have."""
    have = f"its stages: {', '.join(known)}" if known else "it was tuned without stages, or is an adapter without them"
    return f"{character} has no stage {stage!r}; {have}"


def character_files(
    stages: StageRows | None, item: RowItem, base_model: str, fingerprint: dict[str, Any] | None, tokenizer: Any
) -> dict[str, Any]:
    """What `write_peft` gets besides the weights for an item that is a single character with stages; nothing for others.

    Args:
        stages: the network's.
        item: a Personality or Character.
        base_model, fingerprint: for the card.
        tokenizer: of the base model, to be written with the stage tokens added; None writes none.

    Raises:
        ValueError: the tokenizer would give the tokens other ids than they were tuned with.
    """
    row = read_row(item)
    character = None if row is None else row.blend
    own = stages.of(character.names[0]) if stages is not None and character is not None else {}
    if stages is None or character is None or len(character.names) != 1 or not own:
        return {}
    card = CharacterCard(
        character.names[0],
        {stage: token.label for stage, (token, _) in own.items()},
        {stage_token(token.label): token.trained_id for token, _ in own.values()},
        base_model,
        fingerprint,
    )
    grown = with_stage_tokens(tokenizer, card) if tokenizer is not None else None

    def more(directory: Path) -> None:
        write_card(directory, card)
        if grown is not None:
            grown.save_pretrained(directory)

    return {
        "tokens": {token.trained_id: row for token, row in own.values()},
        "embedding": stages.embedding,
        "more": more,
    }


def with_stage_tokens(tokenizer: Any, card: CharacterCard) -> Any:
    """A copy of a tokenizer that also knows a character's stage tokens, under the ids that it was tuned with.

    Raises:
        ValueError: the tokenizer would give them other ids.
    """
    made = with_special_tokens(tokenizer, sorted(card.tokens, key=lambda token: card.tokens[token]))
    found = {token: made.convert_tokens_to_ids(token) for token in card.tokens}
    if found != card.tokens:
        raise DPGError(f"{card.character} was tuned with the stage tokens {card.tokens}, this tokenizer gives {found}")
    return made


def with_special_tokens(tokenizer: Any, texts: Sequence[str]) -> Any:
    """A copy of a tokenizer with more special tokens, as training adds them: matched as they are, spaces around them kept."""
    from transformers import AddedToken

    made = copy.deepcopy(tokenizer)
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in texts], special_tokens=True)
    return made
