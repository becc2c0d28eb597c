"""The frozen base model reads a description: its averaged hidden states, without any adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture.layers import Architecture
from dpg_fast.model.request import CallState
from dpg_fast.util.errors import DPGError

MAX_TOKENS = 2048


class BaseReader:
    """Reads texts one at a time, so that what is found of a text depends on nothing else: no padding, no other rows.

    Args:
        base: the wrapped causal LM.
        architecture: of it.
        state: of its patched layers; no call is active while it reads.
        tokenizer: gives the tokenizer when it is first needed.
        device: says where ids go.
    """

    def __init__(
        self,
        base: Any,
        architecture: Architecture,
        state: CallState,
        tokenizer: Callable[[], Any],
        device: Callable[[], torch.device],
    ) -> None:
        self._base, self._architecture, self._state, self._tokenizer = base, architecture, state, tokenizer
        self._device = device

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseReader:
        return self  # a copied network reads with the same base model

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """See `dpg_fast.hypernet.encoders.Reader`.

        Raises:
            ValueError: the text has no tokens, or more than 2048.
        """
        ids = self._tokenizer()(text, return_tensors="pt")["input_ids"]
        if not 0 < ids.shape[1] <= MAX_TOKENS:
            raise DPGError(f"a description has 1 to {MAX_TOKENS} tokens, this one has {ids.shape[1]}: {text[:80]!r}")
        device = self._device()
        ids = ids.to(device)
        found: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            found.append(x.float().flatten(0, -2).mean(dim=0))

        decoder, layers = self._architecture.decoder, self._architecture.layers
        with torch.inference_mode(False), self._state.lock, self._quiet():
            hook = layers[len(layers) * 5 // 6].register_forward_pre_hook(keep, with_kwargs=True)
            try:
                decoder(input_ids=ids, use_cache=False)
            finally:
                hook.remove()
        return found[-1].to(device)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """No call, no autocast, evaluation mode."""
        call = self._state.put(None)
        training = [module for module in self._base.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.autocast(self._device().type, enabled=False):
                yield
        finally:
            for module in training:
                module.training = True
            self._state.put(call)
