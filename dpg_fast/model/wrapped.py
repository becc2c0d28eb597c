"""What all parts of :class:`PersonalityModel` stand on: the wrapped model and the runtime that changes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from dpg_fast.compat.transformers_models import model_name
from dpg_fast.hypernet import AdapterNetwork
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.layers.changes import NOT_PICKLED
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.runtime import Runtime
from dpg_fast.model.steering import SteeringOptions
from dpg_fast.neurons import SteeringTable
from dpg_fast.util.errors import DPGError

__all__ = ["Wrapped"]


class Wrapped(nn.Module):
    """A wrapped base model; attributes that are not defined here are the base's. See :class:`PersonalityModel`."""

    base: nn.Module
    hypernet: AdapterNetwork | None
    steering: SteeringTable | None
    _runtime: Runtime
    _tokenizer: Any
    _loaded: bool

    @property
    def device(self) -> torch.device:
        """Where input ids go: the base model's device, and with several that of its input embedding."""
        return self._runtime.supply.device()

    @property
    def calibration(self) -> Calibration:
        """Level -> steering strength; may be replaced at any time."""
        return self._runtime.supply.calibration

    @calibration.setter
    def calibration(self, value: Calibration) -> None:
        self._runtime.supply.calibration = value

    @property
    def steering_options(self) -> SteeringOptions:
        """Which tokens are steered, and the random mask; may be replaced at any time. Not saved with the adapter."""
        return self._runtime.options

    @steering_options.setter
    def steering_options(self, value: SteeringOptions) -> None:
        self._runtime.options = value

    def describe(self) -> str:
        """Which linear layers have LoRA, which neurons are steered, and what of the decoder's layers stays as it is."""
        sites = self.hypernet.sites if self.hypernet is not None else ()
        names = {site.name for site in sites}
        return self._runtime.architecture.describe(names, neurons=self.steering is not None)

    def compile(self, **options: Any) -> None:  # type: ignore[override]
        """Compile the base model's forward in place: ``torch.compile(**options)``, ``fullgraph=True`` included.

        A new personality is new values in the same buffers: nothing is compiled again. Calls with and without
        personalities, and with and without steered tokens, have a graph each.
        """
        self._require_loaded()
        self._runtime.compile(**options)

    def __copy__(self) -> Self:
        raise TypeError(
            "a shallow copy would share the changes to the base model; use the model itself, or copy.deepcopy()"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(NOT_PICKLED)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base", "_modules"):
                raise
            return getattr(super().__getattr__("base"), name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_dtype(tensor: Tensor) -> Tensor:  # master weights stay float32 when the model is cast
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        def keep_offloaded(tensor: Tensor) -> Tensor:  # weights that a hook brings stay where they are
            return tensor.to(fn(tensor.new_empty(0, device="cpu")).dtype) if tensor.is_meta else fn(tensor)

        dispatched = self._runtime.check_move(fn)
        with lasting():
            self.base._apply(keep_offloaded if dispatched else fn, recurse)
            if self.hypernet is not None:
                self.hypernet._apply(keep_dtype, recurse)
        return self

    def _require_loaded(self) -> None:
        if not self._loaded:
            raise RuntimeError("this model was unloaded; wrap the base model again")

    def _default_tokenizer(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            name = model_name(self.base)
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(name)
            except (OSError, ValueError) as error:
                raise DPGError(
                    f"no tokenizer was saved with the base model {name!r}; give tokenizer= to from_model(), load() or chat()"
                ) from error
        return self._tokenizer
