"""Tuned characters and their stages of life: the file ``character.json``, and stage tokens in tokenizers and conversations.

A character's adapter directory is a PEFT LoRA directory that also holds the tokenizer with the stage tokens ("<TIME-I>", as in
PersLLM, arXiv 2407.12393), their trained embedding rows (PEFT's ``trainable_token_indices``), and ``character.json``:

    {"schema": 1, "character": "marit_oss", "stages": {"early": "TIME-I"}, "tokens": {"<TIME-I>": 49152},
     "base_model": "...", "fingerprint": {...}, "name": "Marit Oss", "analysis": false, "method": "sft"}

The fingerprint is of the base model before its embeddings were enlarged. `with_stage` is what training and serving share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.files import write_text

SCHEMA = 1
CHARACTER = "character.json"
_LABEL = re.compile(r"[A-Z0-9][A-Z0-9-]{0,31}")


def stage_token(label: str) -> str:
    """The token of a temporal label: "TIME-I" -> "<TIME-I>".

    Raises:
        ValueError: not capitals, digits and hyphens.
    """
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise ValueError(f"a stage's label is made of capitals, digits and hyphens, such as TIME-I, not {label!r}")
    return f"<{label}>"


@dataclass(frozen=True)
class TunedCharacter:
    """What ``character.json`` holds.

    Attributes:
        character: short name, by which a `Personality` or `Character` selects it.
        stages: stage -> temporal label, in the order of time.
        tokens: stage token -> id in the tokenizer beside the file.
        base_model: name of the base model.
        fingerprint: of the base model (`dpg_fast.model.fingerprint`).
        name: as the character is called in texts.
        analysis: whether the character was trained to think aloud ("[Analysis] ... [Response] ...") before it answers.
        method: "sft" or "dpo".
    """

    character: str
    stages: Mapping[str, str]
    tokens: Mapping[str, int]
    base_model: str = ""
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    analysis: bool = False
    method: str = "sft"

    def __post_init__(self) -> None:
        if not self.character.strip():
            raise ValueError("the character has no name")
        wanted = {stage_token(label) for label in self.stages.values()}
        if len(wanted) < len(self.stages):
            raise ValueError(f"two stages of {self.character} have one label: {dict(self.stages)}")
        if wanted != set(self.tokens):
            raise ValueError(
                f"the tokens of {self.character} are {', '.join(sorted(self.tokens)) or 'none'}, its stages need "
                + (", ".join(sorted(wanted)) or "none")
            )
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in self.tokens.values()):
            raise ValueError(f"ids of tokens are whole numbers from 0, not {dict(self.tokens)}")
        if len(set(self.tokens.values())) < len(self.tokens):
            raise ValueError(f"two tokens of {self.character} have one id: {dict(self.tokens)}")

    def token(self, stage: str) -> str:
        """The token of a stage.

        Raises:
            ValueError: the character has no such stage, or none at all.
        """
        if not self.stages:
            raise ValueError(f"{self.character} was tuned without stages, so stage={stage!r} cannot be asked for")
        if stage not in self.stages:
            raise ValueError(f"{self.character} has no stage {stage!r}; its stages: {', '.join(self.stages)}")
        return stage_token(self.stages[stage])

    def save(self, directory: Path) -> None:
        """Write ``character.json`` into ``directory``, atomically."""
        write_text(Path(directory) / CHARACTER, json.dumps({"schema": SCHEMA} | asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> TunedCharacter:
        """Read ``character.json`` of ``directory``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no JSON object of this schema, or says what cannot be.
        """
        path = Path(directory) / CHARACTER
        if not path.is_file():
            raise FileNotFoundError(f"{directory} has no {CHARACTER}, so it is not a tuned character's directory")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from None
        if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path}: wanted a JSON object with schema {SCHEMA}")
        try:
            return cls(**found)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from None

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that lacks the stage tokens, or has them elsewhere.

        Raises:
            ValueError: so; the message says what to load instead.
        """
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in self.tokens if token not in vocabulary]
        if missing:
            raise ValueError(
                f"the tokenizer does not know {', '.join(missing)} of {self.character}; load the one in the character's "
                "directory, not the base model's"
            )
        moved = {token: vocabulary[token] for token, index in self.tokens.items() if vocabulary[token] != index}
        if moved:
            raise ValueError(f"{CHARACTER} of {self.character} says {dict(self.tokens)}, but the tokenizer has {moved}")


def add_stage_tokens(tokenizer: Any, labels: Iterable[str]) -> dict[str, int]:
    """Add a special token for each label; token -> id. Tokens that are there already stay as they are."""
    from transformers import AddedToken

    tokens = [stage_token(label) for label in labels]
    new = [AddedToken(t, normalized=False, special=True) for t in tokens if t not in tokenizer.get_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for token in tokens}


def with_stage(
    messages: Sequence[Mapping[str, str]], token: str | None, known: Iterable[str] = ()
) -> list[dict[str, str]]:
    """The conversation with ``token`` right before the text of each user turn, as the character was trained.

    Every turn has it, so that a conversation whose beginning was dropped still says when it is.

    Args:
        messages: turns of role and content.
        token: "<TIME-I>"; None puts nothing there.
        known: stage tokens that are removed from what the user wrote: the text must not choose the stage.
    """
    unwanted = {*known, token} - {None}
    found = []
    for message in messages:
        turn = dict(message)
        if turn["role"] == "user":
            text = turn["content"]
            for other in unwanted:
                text = text.replace(str(other), "")
            turn["content"] = (token or "") + text
        found.append(turn)
    return found
