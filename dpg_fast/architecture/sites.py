"""The linear layers of a model that low-rank weights can be added to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dpg_fast.util.errors import DPGError, WrongTypeError

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Linear layers that are given the same input."""


@dataclass(frozen=True)
class Site:
    """One linear layer of the base model that gets LoRA weights.

    Attributes:
        name: dotted module path in the base model, e.g. "model.layers.0.self_attn.q_proj".
        in_features, out_features: sizes of the layer, at least 1.
    """

    name: str
    in_features: int
    out_features: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[^./]+(\.[^./]+)*", self.name):
            raise DPGError(f'a site name is a module path like "model.layers.0.mlp.up_proj", not {self.name!r}')
        for field in ("in_features", "out_features"):
            whole(getattr(self, field), f"{self.name}: {field}", 1, None)

    @property
    def kind(self) -> str:
        """The last component of the name, e.g. "q_proj"."""
        return self.name.rpartition(".")[2]

    @property
    def layer(self) -> int | None:
        """The first number in the name, e.g. 0; None without one."""
        return next((int(part) for part in self.name.split(".") if part.isdecimal()), None)


def whole(value: Any, what: str, low: int, high: int | None) -> None:
    accepted = f"a whole number in {low}..{high}" if high is not None else f"a whole number, at least {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongTypeError(f"{what} must be {accepted}, not {value!r}")
    if value < low or (high is not None and value > high):
        raise DPGError(f"{what} must be {accepted}, not {value}")
