"""Where the layers of a model run: on one device, or on several (`device_map`), with weights that may be offloaded.

Why: docs/decisions.md, "Several devices".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dpg_fast.architecture.layers import Architecture, UnsupportedArchitectureError
from dpg_fast.compat.accelerate import execution_device, input_device

META = torch.device("meta")


@dataclass(frozen=True)
class Places:
    """The devices of one model.

    Attributes:
        first: where the input ids are looked up; slots are kept there.
        of: linear layer -> where it runs.
        others: devices of layers beyond ``first``.
    """

    first: torch.device
    of: dict[str, torch.device]
    others: tuple[torch.device, ...]

    @classmethod
    def find(cls, base: Any, architecture: Architecture) -> Places:
        """Where accelerate's hooks or else the weights say that the layers run.

        Raises:
            UnsupportedArchitectureError: a layer without weights in a model that has some, or an MLP on several devices.
        """
        of = {name: execution_device(base, name) for name in architecture.linears}
        first = input_device(base)
        if META in (first, *of.values()) and any(device != META for device in (first, *of.values())):
            absent = next((name for name, device in of.items() if device == META), "the input embedding")
            raise UnsupportedArchitectureError(
                f"{absent} has no weights (they are on the meta device) and no hook of accelerate that brings them; load the "
                "model with from_pretrained(..., device_map=...), or fill it before it is wrapped"
            )
        for mlp in architecture.mlps:
            devices = {name: of[f"{mlp.name}.{name}"] for name in mlp.layout.linears if name != mlp.layout.down}
            if len(set(devices.values())) > 1:
                where = ", ".join(f"{name} on {device}" for name, device in devices.items())
                raise UnsupportedArchitectureError(
                    f"{mlp.name} is split over devices ({where}); give a device_map that keeps each decoder layer whole"
                )
        return cls(first, of, tuple(dict.fromkeys(device for device in of.values() if device != first)))

    @property
    def all(self) -> tuple[torch.device, ...]:
        return (self.first, *self.others)
