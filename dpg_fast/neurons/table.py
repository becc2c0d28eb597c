"""The steering table: what the activation kernel adds and clamps, for ten poles, in every layer.

Steering towards pole P with opposite Q, as NPTI (arXiv 2410.12327) does it: ``v = act(gate)``; neurons of Q are capped,
``v = min(v, 0)``; then neurons of P get ``v += strength * p95 * sigmoid(10 * (diff - 0.15))``. The cap runs only in layers
where P has a neuron. NPTI's random 90% mask is left out, so its gamma corresponds to ``strength = 0.9 * gamma`` here in
expectation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor
from typing_extensions import TypedDict

from dpg_fast.neurons.selection import FIELDS, PoleNeurons
from dpg_fast.personality.scores import POLES, Pole
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_tensors
from dpg_fast.util.reading import checked, open_tensors, parse_json, refusing, take

SCHEMA = "dpg_fast.neurons/1"
MAX_P95 = 1e6
MAX_NEURONS = 1 << 26  # of a model: the dense table of as many takes 3 GB


def check_neurons(pole: Pole, chosen: PoleNeurons, num_layers: int, intermediate: int) -> None:
    """Refuse neurons that lie outside a model, or whose numbers a table cannot hold.

    Raises:
        ValueError: which, and of which pole.
    """
    if len(chosen) == 0:
        return
    for name, limit in (("layer", num_layers), ("neuron", intermediate)):
        values = getattr(chosen, name)
        if int(values.min()) < 0 or int(values.max()) >= limit:
            raise DPGError(
                f"{pole}: {name} {int(values.max())} lies outside this model ({num_layers} layers of "
                f"{intermediate} neurons)"
            )
    bad = int((~torch.isfinite(chosen.p95)).sum())
    if bad:
        raise DPGError(f"{pole}: {bad} neurons have a p95 that is not finite; remove them first")
    if float(chosen.p95.abs().max()) > MAX_P95 or not bool(chosen.diff.isfinite().all()):
        raise DPGError(f"{pole}: a p95 is above {MAX_P95:g}, or a diff is not finite")


class SteeringTable:
    """Neuron lists of some or all poles, and the dense table made of them.

    Args:
        neurons: the neurons of each pole; poles that are missing cannot be steered to.
        num_layers: L.
        intermediate: I, neurons per layer.
        origin: how the lists were made, JSON-ready; kept in the file. `"dense_only": True` accepts a mixture of experts.

    Attributes:
        clamp_mask: int16 [L, I]; bit p (see ``Pole.index``) is set when steering to pole p caps this neuron at zero.
        add: float32 [L, 10, I]; what full strength of pole p adds.

    Raises:
        ValueError: a neuron lies outside the model, or a p95 is not finite.
    """

    def __init__(
        self,
        neurons: Mapping[Pole, PoleNeurons],
        num_layers: int,
        intermediate: int,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.origin = dict(origin or {})
        self.neurons = dict(neurons)
        self.num_layers = num_layers
        self.intermediate = intermediate
        self.clamp_mask = torch.zeros(num_layers, intermediate, dtype=torch.int16)
        self.add = torch.zeros(num_layers, len(POLES), intermediate, dtype=torch.float32)
        for pole, chosen in self.neurons.items():
            check_neurons(pole, chosen, num_layers, intermediate)
            self.add[chosen.layer.long(), pole.index, chosen.neuron.long()] = chosen.addition
        for pole, chosen in self.neurons.items():
            opposite = self.neurons.get(pole.opposite)
            if opposite is None:
                continue
            capped = opposite.keep(torch.isin(opposite.layer, chosen.layer))
            self.clamp_mask[capped.layer.long(), capped.neuron.long()] |= 1 << pole.index

    @property
    def poles(self) -> tuple[Pole, ...]:
        """The poles that can be steered to."""
        return tuple(pole for pole in POLES if len(self.neurons.get(pole, ())) > 0)

    @property
    def dense_only(self) -> bool:
        """Whether it was made knowing that the base is a mixture of experts, for its shared experts alone."""
        return bool(self.origin.get("dense_only"))

    def counts_per_layer(self) -> dict[Pole, Tensor]:
        """int64 [L] for each pole: its neurons in each layer."""
        return {p: torch.bincount(n.layer.long(), minlength=self.num_layers) for p, n in self.neurons.items()}

    def save(self, path: Path) -> None:
        """Write the neuron lists as safetensors, atomically; the dense table is rebuilt on loading."""
        tensors: dict[str, Tensor] = {
            f"{pole}.{name}": getattr(chosen, name).contiguous()
            for pole, chosen in self.neurons.items()
            for name in FIELDS
        }
        about: dict[str, Any] = {
            "schema": SCHEMA,
            "num_layers": self.num_layers,
            "intermediate": self.intermediate,
        }
        if self.origin:
            about["origin"] = self.origin
        metadata = {"dpg_fast": json.dumps(about)}  # one entry: safetensors does not keep the order of several
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: Path, sizes: tuple[int, int] | None = None) -> SteeringTable:
        """Read what :meth:`save` wrote.

        Args:
            path: of the file.
            sizes: layers and neurons per layer of the model that it is for, where that is known.

        Raises:
            ValueError: the file is not a steering table of a known schema, or of another model's sizes.
        """
        with open_tensors(path) as file, refusing(path):
            about = parse_json((file.metadata() or {}).get("dpg_fast", "{}"), f"{path}: metadata")
            found = about.get("schema") if isinstance(about, dict) else None
            if found != SCHEMA:
                raise DPGError(f"{path}: schema {found!r} is not {SCHEMA!r}")
            checked(_About, about, f"{path}: metadata")
            own = (about["num_layers"], about["intermediate"])
            if sizes is not None and own != sizes:
                raise DPGError(
                    f"{path}: for {own[0]} layers of {own[1]} neurons, and the model has {sizes[0]} of {sizes[1]}"
                )
            if own[0] * own[1] > MAX_NEURONS:
                raise DPGError(f"{path}: {own[0]} layers of {own[1]} neurons are more than any model has")
            stored = set(file.keys())
            neurons = {
                pole: PoleNeurons(*(take(file, f"{pole}.{name}", path, dtype) for name, dtype in _DTYPES.items()))
                for pole in POLES
                if f"{pole}.layer" in stored
            }
            return cls(neurons, *own, about.get("origin"))


_DTYPES = dict(zip(FIELDS, (torch.int32, torch.int32, *3 * [torch.float32]), strict=True))


@with_config(ConfigDict(strict=True, extra="allow"))
class _About(TypedDict):
    num_layers: Annotated[int, Field(ge=1)]
    intermediate: Annotated[int, Field(ge=1)]
    origin: NotRequired[dict[str, Any]]
