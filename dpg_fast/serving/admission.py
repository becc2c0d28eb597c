"""What an engine's front end does with a request's personality: read it, refuse it, write it in one form, salt the cache.

A personality travels as a short text, and is refused where the request enters: workers meet canonical texts alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from dpg_fast.hypernet import AdapterNetwork, CombinedNetwork, HyperNetwork, StoredAdapters
from dpg_fast.hypernet.build import from_config
from dpg_fast.model.abilities import check_rows, networks_of
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.identity import adapter_identity, calibration_identity
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.description import Description
from dpg_fast.personality.row import Row, read_row
from dpg_fast.personality.scores import PRESETS, Personality
from dpg_fast.util.errors import DPGError, WrongTypeError
from dpg_fast.util.identity import digest

# fmt: off
__all__ = [
    "HEADER", "MAX_TEXT", "Abilities", "applied", "canonical", "characters_of", "check_network", "header_text", "read_request",
    "salt", "split_name",
]
# fmt: on

MAX_TEXT = 2000  # characters; five numbers written out in full, 1e-308 among them, take 1700
MAX_FIELDS = 16  # of a mapping
HEADER = "X-Personality"  # of a response: what was applied
_ASCII = "".join(map(chr, range(32, 127)))


def read_request(value: object) -> Row | None:
    """What a request's ``personality`` asks for; None is the base model.

    Args:
        value: text ("E+4 N-2", a preset, "@marit_oss"), an object of traits, five numbers, a Personality or a Character.

    Raises:
        ValueError: it cannot be read, or is longer than any personality; or it asks for what no engine serves yet: a
            description in words, a stage of a character's life.
    """
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise DPGError(f"a personality has at most {MAX_TEXT} characters, this one {len(value)}")
    if isinstance(value, Mapping) and len(value) > MAX_FIELDS:
        raise DPGError(f"a personality has at most {MAX_FIELDS} fields, this one {len(value)}")
    try:
        row = read_row(Personality(value) if isinstance(value, (list, tuple)) else value)  # type: ignore[arg-type]
    except TypeError as error:
        raise WrongTypeError(f"{error}; a request takes text, an object of traits, or five numbers") from error
    if isinstance(value, Description) or (row is not None and row.text is not None):
        raise DPGError("descriptions in words are not served here; give scores, such as 'E+4 N-2'")
    if row is not None and row.stage is not None:
        raise DPGError(f"{row}: stages of a character's life are not served here; give the character without a stage")
    if row is not None and len(canonical(row)) > MAX_TEXT:
        raise DPGError(f"a personality has at most {MAX_TEXT} characters, this one {len(canonical(row))}")
    return row


def canonical(row: Row) -> str:
    """The one text of what a row asks for; `read_request` gives the row back."""
    return str(row)


def applied(row: Row | None) -> str:
    """What is said of an answer: the canonical text, "none" for the base model."""
    return "none" if row is None else canonical(row)


def header_text(text: str) -> str:
    """`applied` as the value of a header: what is not ASCII is percent-encoded."""
    return quote(text, safe=_ASCII)


def split_name(name: str, characters: Collection[str]) -> tuple[str, str] | None:
    """(served name, text of the personality) of a model's name with "@" in it; None without.

    What follows "@" is a character where it begins with the name of one, and else scores or a preset.
    """
    base, mark, rest = name.partition("@")
    if not mark:
        return None
    return base, f"@{rest}" if rest.partition("/")[0].partition(" ")[0] in characters else rest


def salt(row: Row, adapter: str, *, prompt: int | None = None, user: str | None = None) -> str:
    """What keeps a prefix cache right: requests share blocks only when these are equal.

    Args:
        row: what the request asks for.
        adapter: `Abilities.fingerprint`.
        prompt: tokens of the prompt, where generated tokens are treated in another way than those of a prompt; else None.
        user: the request's own salt.
    """
    return digest([canonical(row), adapter, prompt, user], 32)


class Abilities:
    """What an adapter can be asked for, known from its directories without a base model or weights.

    Args:
        directories: of one adapter, or of one with a hypernetwork and one with neurons.

    Attributes:
        network: its weights lie on the meta device; None without one.
        steering: the table of neurons, or None.
        fingerprint: changes with every file that personalities are made from.

    Raises:
        ValueError: a directory that is no adapter, or an adapter of a kind that is not served.
    """

    def __init__(self, directories: list[Path]) -> None:
        self.network: AdapterNetwork | None = None
        self.steering: SteeringTable | None = None
        identities: list[dict[str, Any]] = []
        for directory in directories:
            config = artifact.read_config(directory)
            if config["hypernet"] is not None:
                with torch.device("meta"):
                    self.network = from_config(config["hypernet"])
            file = artifact.part_file(directory, "neurons")
            if file is not None:
                self.steering = SteeringTable.load(file)
            identities.append(adapter_identity(directory) | calibration_identity(directory))
        self.fingerprint = digest(identities, 16)
        check_network(self.network)

    @property
    def characters(self) -> tuple[str, ...]:
        """Names of the stored adapters."""
        return characters_of(self.network)

    def require(self, row: Row) -> None:
        """Raises ValueError when the adapter has nothing that could give the row what it asks for."""
        check_rows([row], self.network, self.steering, None)

    def named(self) -> dict[str, str]:
        """Name -> canonical text of what can be asked for by name: presets, and characters with their "@"."""
        offered = {name: str(preset) for name, preset in PRESETS.items()} | {f"@{n}": f"@{n}" for n in self.characters}
        return {name: text for name, text in offered.items() if self._gives(text)}

    def _gives(self, text: str) -> bool:
        row = read_request(text)
        try:
            if row is not None:
                self.require(row)
        except DPGError:
            return False
        return True


def characters_of(network: AdapterNetwork | None) -> tuple[str, ...]:
    """Names of the stored adapters of a network."""
    stored = network.stored if isinstance(network, CombinedNetwork) else network
    return stored.names if isinstance(stored, StoredAdapters) else ()


def check_network(network: AdapterNetwork | None) -> None:
    """Raises ValueError for networks that need the base model in a request, or weights of their own for each personality."""
    for part in networks_of(network):
        assert isinstance(part, HyperNetwork)
        if part.config.reads_text:
            raise DPGError(f"hypernetworks with encoder={part.config.encoder!r} are not served; accepted: 'scores'")
        if part.config.head == "wide":
            raise DPGError("hypernetworks with head='wide' are not served; accepted: 'bank'")
