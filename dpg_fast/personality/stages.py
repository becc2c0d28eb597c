"""Stages of a character's life as tokens: `character.json` beside a tuned adapter, and where a token stands in a conversation.

PersLLM (arXiv 2407.12393) puts a temporal label, a token of its own such as `<TIME-I>`, in front of the user's input. Here it
stands directly before the text of every user turn, without a space, so that the text itself is tokenised as it always is and
the stage is not lost when old turns are dropped. Training and serving both use `label_messages`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import checked, read_json, refusing

__all__ = ["CARD_FILE", "CARD_SCHEMA", "CharacterCard", "label_messages", "read_card", "stage_token", "write_card"]

CARD_FILE = "character.json"
CARD_SCHEMA = 1
_FIELDS = ("schema", "character", "stages", "tokens", "base_model", "fingerprint")


def stage_token(label: str) -> str:
    """The token of a temporal label: "TIME-I" -> "<TIME-I>"."""
    return f"<{label}>"


def label_messages(messages: Sequence[Mapping[str, str]], token: str | None) -> list[dict[str, str]]:
    """The conversation with `token` before the text of every user turn; unchanged copies for None.

    Raises:
        ValueError: there is a token but no user turn to carry it.
    """
    turns = [dict(message) for message in messages]
    if token is None:
        return turns
    asked = [turn for turn in turns if turn["role"] == "user"]
    if not asked:
        raise DPGError(f"the stage token {token} stands before user turns, and the conversation has none")
    for turn in asked:
        turn["content"] = token + turn["content"]
    return turns


@dataclass(frozen=True)
class CharacterCard:
    """What belongs to a tuned character besides its weights.

    Attributes:
        character: name to ask for it by.
        stages: stage -> temporal label ("early" -> "TIME-I"), in the order of time; empty for a character without stages.
        tokens: stage token ("<TIME-I>") -> id in the vocabulary that it was tuned with.
        base_model: name or path of the base model.
        fingerprint: of the base model before its vocabulary grew (`dpg_fast.model.disk.fingerprint`), or None.

    Raises:
        ValueError: an empty name, a stage whose token has no id, a token of no stage, or ids that repeat or are negative.
    """

    character: str
    stages: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    base_model: str = ""
    fingerprint: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.character, str) or not self.character.strip():
            raise DPGError(f"character must be a name, not {self.character!r}")
        for name, of in (("stages", self.stages), ("tokens", self.tokens)):
            if not isinstance(of, dict) or not all(isinstance(key, str) and key.strip() for key in of):
                raise DPGError(f"{name} must be an object with names, not {of!r}")
        labels = list(self.stages.values())
        if not all(isinstance(label, str) and label.strip() for label in labels) or len(set(labels)) != len(labels):
            raise DPGError(f"every stage needs a label of its own, not {self.stages!r}")
        wanted, found = {stage_token(label) for label in labels}, set(self.tokens)
        if wanted != found:
            raise DPGError(
                f"{self.character}: the stages have the tokens {sorted(wanted)}, but ids are given for {sorted(found)}"
            )
        ids = list(self.tokens.values())
        whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in ids)
        if not whole or len(set(ids)) != len(ids):
            raise DPGError(f"tokens need different ids, 0 or above, not {self.tokens!r}")

    def token_id(self, stage: str) -> int:
        """The id of a stage's token.

        Raises:
            ValueError: the character has no such stage; the message lists those that it has.
        """
        label = self.stages.get(stage)
        if label is None:
            have = f"its stages: {', '.join(self.stages)}" if self.stages else "it was tuned without stages"
            raise DPGError(f"{self.character} has no stage {stage!r}; {have}")
        return self.tokens[stage_token(label)]


def write_card(directory: str | Path, card: CharacterCard) -> Path:
    """Write `character.json` into an adapter's directory (atomically); its path."""
    path = Path(directory) / CARD_FILE
    values = {"schema": CARD_SCHEMA, **{name: getattr(card, name) for name in _FIELDS[1:]}}
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    return path


def read_card(directory: str | Path) -> CharacterCard:
    """Read `character.json` of an adapter's directory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: not JSON, another schema, an unknown or missing field, or values that `CharacterCard` refuses.
    """
    path = Path(directory) / CARD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no {CARD_FILE}: it is not a tuned character")
    values = read_json(path)
    if not isinstance(values, dict) or values.get("schema") != CARD_SCHEMA:
        stated = values.get("schema") if isinstance(values, dict) else None
        raise DPGError(f"{path}: schema {stated!r} is not {CARD_SCHEMA}")
    unknown, missing = sorted(set(values) - set(_FIELDS)), sorted({"character", "stages", "tokens"} - set(values))
    if unknown or missing:
        raise DPGError(f"{path}: unknown fields {unknown}, missing {missing}")
    checked(_Card, values, path)
    with refusing(path):
        return CharacterCard(**{name: value for name, value in values.items() if name != "schema"})


@with_config(ConfigDict(strict=True, extra="allow"))
class _Card(TypedDict):
    character: str
    stages: dict[str, str]
    tokens: dict[str, Annotated[int, Field(ge=0, lt=2**31)]]
    base_model: NotRequired[str]
    fingerprint: NotRequired[dict[str, Any] | None]
