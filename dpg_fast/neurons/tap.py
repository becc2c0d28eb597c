"""Feed a model's gate activations to a counter while it generates.

A token counts as decoded when its position lies past the prompt in the cache and its row has not ended; a prompt is never
counted, however short (the released NPTI code goes by the number of rows and counts short prompts).

Gates of several steps are kept and counted together: a neuron's histogram then stays in the cache for all their tokens, and
on a CPU reaching the histograms in memory is what counting costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpg_fast.architecture.layers import Architecture
from dpg_fast.architecture.mlps import ACTIVATIONS, Mlp
from dpg_fast.compat.transformers import prompt_of, tokens_before
from dpg_fast.neurons.statistics import ActivationCounter

#: most bytes of gates that wait to be counted
WAITING_BYTES = 512 * 2**20


def steps_together(num_layers: int, intermediate: int, rows: int, max_new_tokens: int, dtype: torch.dtype) -> int:
    """Decode steps whose gates are counted together: a whole answer's, or what fits into :data:`WAITING_BYTES`.

    Args:
        num_layers: L.
        intermediate: I, neurons per layer.
        rows: of a batch.
        max_new_tokens: decode steps of a batch.
        dtype: of the gates.
    """
    return max(1, min(max_new_tokens, WAITING_BYTES // (num_layers * intermediate * rows * dtype.itemsize)))


class DecodeTap:
    """Counts decode tokens of one batch at a time, inside :meth:`watch`.

    Args:
        model: the generating model.
        architecture: its gated MLPs.
        counter: takes the activations.
        eos: tokens that end a row; they and what follows are not counted.
        window: decode steps whose gates wait to be counted together (:func:`steps_together`).
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, counter: ActivationCounter, eos: set[int], window: int
    ) -> None:
        self._model = model
        self._architecture = architecture
        self._counter = counter
        self._window = window
        self._eos = torch.tensor(sorted(eos), dtype=torch.int64, device=counter.positive.device)
        self._prompt_length = 0
        self._read = 0  # tokens of a row, prompt included, that forwards with counted tokens have read
        self._rows = torch.empty(0)
        self._ended = torch.empty(0)
        self._slots: Tensor | None = None
        self._counted: Tensor | None = None
        self._answer_tokens = torch.empty(0)
        self._sums = torch.empty(0, 0, 0)
        self._gates = torch.empty(0, 0, 0)
        self._waiting = torch.empty(0, dtype=torch.int32)
        self._used = 0
        self._new = 0

    @contextmanager
    def watch(self, prompt_length: int, slots: Tensor) -> Iterator[None]:
        """Count what the model decodes inside the block, one ``generate`` call for n rows.

        Args:
            prompt_length: tokens of the prompts, padding included.
            slots: int32 [n], the counter's slot of each row, on its device.
        """
        self._prompt_length = prompt_length
        self._rows = slots
        self._used = self._new = 0
        self._read = 0
        self._ended = torch.zeros(slots.numel(), dtype=torch.bool, device=slots.device)
        self._answer_tokens = torch.zeros(slots.numel(), dtype=torch.int64, device=slots.device)
        self._start_sums(slots.numel(), slots.device)
        handles = [self._model.register_forward_pre_hook(self._before, with_kwargs=True)]
        for mlp in self._architecture.mlps:
            handles.append(self._listen(mlp))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._flush()
        self._counter.count_answers(self._sums[:, : slots.numel()], self._answer_tokens, slots)

    def _start_sums(self, rows: int, device: torch.device) -> None:
        """Zero the answers' running sums [L, rows, I]; the memory of the largest batch is kept."""
        if not self._counter.means:
            return
        if self._sums.shape[1] < rows:
            shape = (self._architecture.num_layers, rows, self._architecture.intermediate)
            self._sums = torch.zeros(shape, dtype=torch.float32, device=device)
        else:
            self._sums.zero_()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = prompt_of(args, kwargs)
        assert ids is not None  # the search's own generate
        length = ids.shape[1]
        before = tokens_before(args, kwargs, length)
        if before is None and length < self._prompt_length:
            raise RuntimeError(
                f"generate() called the model with {length} of {self._prompt_length} prompt tokens and neither a cache nor an "
                "attention mask from which their position follows, so answers cannot be told from prompts"
            )
        past = int(before or 0)
        if past + length <= self._prompt_length:
            self._slots = None
            return
        if past < self._read:
            raise RuntimeError(
                f"generate() called the model with tokens {past} to {past + length - 1}, of which those before {self._read} have "
                "been counted already; generate with a cache and without drafts, one token at a time"
            )
        self._read = past + length
        decoded = torch.arange(past, past + length, device=ids.device) >= self._prompt_length
        ended = torch.isin(ids, self._eos) & decoded
        ended = (ended.int().cumsum(1) > 0) | self._ended[:, None]
        self._ended = ended[:, -1]
        counted = decoded & ~ended
        self._answer_tokens += counted.sum(1)
        self._slots = torch.where(counted, self._rows[:, None], -1).to(torch.int32).flatten()
        self._counted = counted.float()
        self._counter.count_tokens(self._slots)
        self._make_room(self._slots)

    def _make_room(self, slots: Tensor) -> None:
        """Count what waits if the tokens of this forward do not fit beside it; note where they go."""
        self._used += self._new
        larger = slots.numel() * self._window > self._gates.shape[1]
        if larger or self._used + slots.numel() > self._gates.shape[1]:
            self._new = 0
            self._flush()
        if larger:
            shape = (self._architecture.num_layers, slots.numel() * self._window, self._architecture.intermediate)
            weight = next(iter(self._architecture.mlps[0].module.parameters()))
            dtype = weight.dtype if weight.dtype.is_floating_point else torch.bfloat16
            self._gates = torch.empty(shape, dtype=dtype, device=slots.device)
            self._waiting = torch.empty(shape[1], dtype=torch.int32, device=slots.device)
        self._new = slots.numel()
        self._waiting[self._used : self._used + self._new] = slots

    def _flush(self) -> None:
        """Count the gates that wait."""
        self._used += self._new
        for mlp in self._architecture.mlps if self._used else ():
            self._counter.count(mlp.layer, self._gates[mlp.layer, : self._used], self._waiting[: self._used])
        self._used = self._new = 0

    def _listen(self, mlp: Mlp) -> RemovableHandle:
        """Take what goes into the MLP's activation; where that is a function, from the layer before it."""
        kept = self._counter.act
        if mlp.act_module is not None:

            def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                self._take(mlp.layer, output if kept == "identity" else args[0], output)

            return mlp.act_module.register_forward_hook(hook)
        assert mlp.act is not None
        function = ACTIVATIONS[mlp.act]

        def source_hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            gate = mlp.halves(output)[0] if mlp.layout.merged is not None else output
            needed = self._counter.means or kept == "identity"
            value = function(gate) if needed else gate
            self._take(mlp.layer, value if kept == "identity" else gate, value)

        return mlp.module.get_submodule(mlp.layout.source).register_forward_hook(source_hook)

    def _take(self, layer: int, gate: Tensor, output: Tensor) -> None:
        """Keep one layer's gates of this forward, and add its activations to the answers' sums."""
        if self._slots is None or self._counted is None:
            return
        gate = gate.reshape(-1, gate.shape[-1])
        if len(gate) != self._new:
            raise RuntimeError(
                f"the MLP of layer {layer} was given {len(gate)} of the {self._new} tokens of a forward that goes beyond the "
                "prompt, so its neurons cannot be counted for the others; generate with a cache, one token at a time"
            )
        self._gates[layer, self._used : self._used + self._new] = gate
        if self._counter.means:
            rows, length = self._counted.shape
            output = output.to(self._sums.device)  # of a layer that runs elsewhere
            if length == 1:
                self._sums[layer, :rows].addcmul_(output.reshape(rows, -1).float(), self._counted)
            else:
                values = output.reshape(rows, length, -1).float()
                self._sums[layer, :rows] += torch.einsum("rt,rti->ri", self._counted, values)
