"""What a hypernetwork looks like: the adapted linear layers (sites) and the sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from dpg_fast.architecture.sites import Site, whole
from dpg_fast.util.errors import DPGError, WrongTypeError

__all__ = [
    "MAX_CODES",
    "MAX_RANK",
    "HypernetConfig",
    "Site",
    "select_sites",
    "sort_sites",
]

MAX_RANK = 512
MAX_CODES = 64
MAX_ALPHA = 1e6
MAX_HIDDEN = 16384
MAX_WIDE = 1025
MAX_TEXT_FEATURES = 256
SCORE_FEATURES = 6
"""The constant 1 and the five traits: what the linear part of the trunk can tell apart."""
LAST_LAYERS = frozenset(
    {"o_proj", "out_proj", "dense", "c_proj", "down_proj", "fc2", "fc_out", "w2", "dense_4h_to_h", "output_linear"}
)
"""Linear layers that give hidden states; others are given some."""
ENCODERS = ("scores", "text", "both", "stored")
HEADS = ("bank", "wide")
NEUTRALS = ("learnt", "base")


@dataclass(frozen=True)
class HypernetConfig:
    """Sizes of a hypernetwork. Immutable; checked when made.

    Attributes:
        rank: r of each generated LoRA pair, 1 to 512.
        codes: K, entries in the bank, 1 to 64. With 6 or more, one starts as the constant and five as the
            traits. A wide head has `hidden` + 1, whatever is given here.
        alpha: LoRA alpha, above 0 and below a million; the product is scaled by alpha / rank.
        hidden: width of the trunk's hidden layers, 1 to 16384; of a wide head, at most 1024.
        depth: hidden layers of the trunk, 0 (codes linear in the scores; at most 6 codes) to 16.
        encoder: what is read. "scores": five trait scores; "text": a description, as the base model's hidden states,
            averaged over its tokens; "both": scores and text. "stored": one bank entry for each stored adapter.
        targets: "all", or the last name component(s) of the layers to adapt, e.g. ("q_proj", "mlp.up_proj").
        first_layer: decoder layers before this one are left alone; training then ends its backward pass there.
        head: "bank" (compact: `codes` entries, mixed inside the kernels) or "wide" (full A and B from the trunk's last
            hidden layer, one linear map for each site; materialised for each personality).
        text_features: principal components of the averaged states that are read, 1 to 256, beside the estimated scores.
        neutral: what five scores of 0 are. "learnt": whatever training makes of them; "base": the base model exactly, because
            the trunk's B codes at 0 are subtracted (encoder "scores" alone, since a text has no zero).
        dense_only: accept a base that is a mixture of experts, whose attention and shared experts alone are adapted.

    Raises:
        TypeError, ValueError: a field of the wrong type or out of range.
    """

    rank: int = 8
    codes: int = 6
    alpha: float = 16.0
    hidden: int = 64
    depth: int = 2
    encoder: Literal["scores", "text", "both", "stored"] = "scores"
    targets: tuple[str, ...] | Literal["all"] = "all"
    first_layer: int = 0
    head: Literal["bank", "wide"] = "bank"
    text_features: int = 32
    dense_only: bool = False
    neutral: Literal["learnt", "base"] = "learnt"

    def __post_init__(self) -> None:
        whole(self.rank, "rank", 1, MAX_RANK)
        if self.head not in HEADS:
            raise DPGError(f"head must be one of {', '.join(HEADS)}, not {self.head!r}")
        whole(self.hidden, "hidden", 1, MAX_HIDDEN if self.head == "bank" else MAX_WIDE - 1)
        if self.head == "wide":
            object.__setattr__(self, "codes", self.hidden + 1)
        whole(self.codes, "codes", 1, MAX_CODES if self.head == "bank" else MAX_WIDE)
        whole(self.depth, "depth", 0, 16)
        whole(self.text_features, "text_features", 1, MAX_TEXT_FEATURES)
        whole(self.first_layer, "first_layer", 0, None)
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)):
            raise WrongTypeError(f"alpha must be a number, not {self.alpha!r}")
        if not 0 < self.alpha < MAX_ALPHA:
            raise DPGError(f"alpha must be finite and above 0, not {self.alpha}")
        object.__setattr__(self, "alpha", float(self.alpha))
        if self.encoder not in ENCODERS:
            raise DPGError(f"encoder must be one of {', '.join(ENCODERS)}, not {self.encoder!r}")
        if self.neutral not in NEUTRALS:
            raise DPGError(f"neutral must be one of {', '.join(NEUTRALS)}, not {self.neutral!r}")
        if self.neutral == "base" and self.encoder != "scores":
            raise DPGError(f'neutral="base" needs encoder="scores", not {self.encoder!r}: a text has no zero')
        if not isinstance(self.dense_only, bool):
            raise WrongTypeError(f"dense_only must be true or false, not {self.dense_only!r}")
        if self.encoder == "stored" and self.head == "wide":
            raise DPGError("stored adapters have no head to generate them")
        if self.head == "wide" and self.depth == 0:
            raise DPGError("a wide head reads the trunk's last hidden layer, so it needs depth >= 1")
        if self.encoder == "scores" and self.depth == 0 and self.codes > SCORE_FEATURES:
            raise DPGError(
                f"depth=0 makes the codes linear in the scores, so more than {SCORE_FEATURES} add nothing; "
                f"use codes <= {SCORE_FEATURES} or depth >= 1 (codes={self.codes})"
            )
        self._check_targets()

    def _check_targets(self) -> None:
        if self.targets == "all":
            return
        if isinstance(self.targets, str):
            raise DPGError(
                f'targets must be "all" or a tuple of names, not {self.targets!r}; did you mean ({self.targets!r},)?'
            )
        if not isinstance(self.targets, (list, tuple)):
            raise WrongTypeError(f'targets must be "all" or a tuple of names, not {self.targets!r}')
        targets = tuple(self.targets)
        if not targets:
            raise DPGError('targets is empty; use "all" or at least one name')
        for name in targets:
            if not isinstance(name, str) or not name:
                raise DPGError(f"a target is the last part of a module name, not {name!r}")
        if len(set(targets)) != len(targets):
            raise DPGError(f"targets repeats a name: {', '.join(targets)}")
        object.__setattr__(self, "targets", targets)

    @property
    def reads_text(self) -> bool:
        """Whether the base model has to read a description."""
        return self.encoder in ("text", "both")

    @property
    def features(self) -> int:
        """Width of what the trunk is given: the constant 1, the traits, and components of the text."""
        return SCORE_FEATURES + (self.text_features if self.reads_text else 0)

    @property
    def scale(self) -> float:
        """alpha / rank: the factor on B(z) A(z)."""
        return self.alpha / self.rank

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives back an equal configuration."""
        values = dataclasses.asdict(self)
        values["targets"] = self.targets if self.targets == "all" else list(self.targets)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HypernetConfig:
        """From `to_dict`; fields left out keep their defaults.

        Raises:
            ValueError: an unknown field, or a value out of range.
        """
        values = dict(values)
        if values.pop("per_layer_codes", False):  # a field of earlier files, false in most of them
            raise DPGError("codes of its own for each layer (per_layer_codes) are not supported any more")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise DPGError(f"unknown field(s) {', '.join(unknown)}; accepted: {', '.join(known)}")
        return cls(**values)


def sort_sites(sites: Iterable[Site]) -> tuple[Site, ...]:
    """The sites in their one order: by name, numbers by value (layer 2 before layer 10).

    Raises:
        ValueError: two sites of one name.
    """
    found = sorted(
        sites,
        key=lambda site: [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in site.name.split(".")],
    )
    for first, second in pairwise(found):
        if first.name == second.name:
            raise DPGError(f"site {first.name!r} is given twice")
    return tuple(found)


def select_sites(
    available: Iterable[Site], targets: tuple[str, ...] | Literal["all"], first_layer: int = 0
) -> tuple[Site, ...]:
    """The sites of layer `first_layer` and later whose name ends with one of `targets` (whole components), in the order of
    `sort_sites`.

    Raises:
        ValueError: no site at all, or a target that matches none; the message lists what is available.
    """
    every = sort_sites(available)
    if not every:
        raise DPGError("the base model has no linear layer that can be adapted (no sites)")
    sites = tuple(site for site in every if site.layer is None or site.layer >= first_layer)
    if not sites:
        last = max(site.layer for site in every if site.layer is not None)
        raise DPGError(f"first_layer={first_layer}, but the model's last layer is {last}")
    if targets == "all":
        return sites
    kinds = list(dict.fromkeys(site.kind for site in sites))
    for target in targets:
        if not any(_matches(site.name, target) for site in sites):
            raise DPGError(f"no layer is called {target!r}; available targets: {', '.join(kinds)}")
    return tuple(site for site in sites if any(_matches(site.name, target) for target in targets))


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
