"""What one call of the model carries: a slot for each row, and from which token on it is steered.

Why: docs/decisions.md, "Which tokens are steered follows from the cache".
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.slots import SlotValues
from dpg_fast.model.steering import RandomMask, SteeringOptions
from dpg_fast.util.errors import DPGError


class Call(NamedTuple):
    """What the patched layers read during one forward of T tokens.

    Attributes:
        lora_slots: int32 [T], or None when no bank takes part.
        steer_slots: int32 [T], or None when no token is steered.
        values: the slots' contents.
        mask: of the neurons that are added to, or None for all.
        stages: whether the tokens may be stage tokens, beyond the base's vocabulary.
        several: of a forward of several positions; None where each row has one token, of which no layer can see fewer.
    """

    lora_slots: Tensor | None
    steer_slots: Tensor | None
    values: SlotValues
    mask: RandomMask | None = None
    stages: bool = False
    several: Positions | None = None

    def on(self, device: torch.device) -> Call:
        """The same call for layers that run on another device."""
        values = (self.values.mirrors or {}).get(device)
        if values is None:
            raise RuntimeError(f"the model was moved to {device} during a call; start the call again")
        soon = device.type != "cpu"  # a copy to the CPU that nobody waits for may be read too early
        lora, steered = (None if t is None else t.to(device, non_blocking=soon) for t in self[:2])
        return self._replace(lora_slots=lora, steer_slots=steered, values=values)

    def seen_by(self, name: str, x: Tensor) -> Call:
        """This call as a layer reads it that may be given fewer positions than the model was.

        Args:
            name: of the layer.
            x: its input, [..., d].

        Raises:
            ValueError: other tokens than the forward's, or than those whose logits were asked for.
        """
        slots = self.steer_slots if self.lora_slots is None else self.lora_slots
        if slots is None or slots.numel() * x.shape[-1] == x.numel():
            return self
        assert self.several is not None
        rows = self.several.rows
        index = self.several.selected(name, x)
        lora, steered = (
            None if one is None else one.view(rows, -1)[:, index].reshape(-1).contiguous()
            for one in (self.lora_slots, self.steer_slots)
        )
        return self._replace(lora_slots=lora, steer_slots=steered)


class Positions(NamedTuple):
    """The tokens of one forward.

    Attributes:
        rows, length: it has rows * length tokens.
        kept: how many last positions of each row the logits were asked for, or a tensor of positions; None for all.
    """

    rows: int
    length: int
    kept: int | Tensor | None

    def selected(self, name: str, x: Tensor) -> slice:
        """Which positions of each row the layer ``name`` is given as ``x``; errors as in :meth:`Call.seen_by`."""
        if isinstance(self.kept, int) and self.kept > 0 and x.shape[:-1] == (self.rows, self.kept):
            return slice(-self.kept, None)
        wanted = "a tensor of positions" if isinstance(self.kept, Tensor) else self.kept or "all"
        raise DPGError(
            f"{name} was given {list(x.shape[:-1])} of the [{self.rows}, {self.length}] tokens of this forward, and which ones "
            f"cannot be told (logits_to_keep: {wanted}), so neither can their personalities; layers may see all tokens, or the "
            "last N of each row with logits_to_keep=N"
        )


@dataclass
class Request:
    """A personality for each of n rows, to be bound to every forward that the call makes.

    Args:
        row_slots: int32 [n], -1 for the base model.
        values: contents of the slots.
        lora: whether a bank takes part.
        steering: whether neurons are steered.
        steer_from: position (padding included) of the first token that is steered: one number, or int64 [n].
        options: of the steering.
        segments: int64 [rows, length], the personality (0 to n - 1, -1 for none) of each token of a packed forward; None
            where each row has one.
        stages: whether prompts may hold stage tokens.
        widen: columns of -inf that are put behind the logits, for what ``generate`` does with the prompt's ids.
        prompt: inside ``generate``, tokens of the prompt; None for a single forward.
        forwards: that were bound so far.
        steered: whether one of them steered a token; int32 [T], the last one's slots, where that is known on the device alone.
    """

    row_slots: Tensor
    values: SlotValues
    lora: bool
    steering: bool
    steer_from: int | Tensor
    options: SteeringOptions = field(default_factory=SteeringOptions)
    stages: bool = False
    widen: int = 0
    segments: Tensor | None = None
    prompt: int | None = None
    forwards: int = 0
    steered: bool | Tensor = False
    _step: int = 0
    _rows: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def bind(self, rows: int, length: int, past: int | Tensor | None, kept: int | Tensor | None = None) -> Call:
        """Slots of the ``rows * length`` tokens of one forward that has ``past`` tokens before it (None: unknown).

        ``kept``: see :class:`Positions`.

        Generation may have repeated each row (beams, ``num_return_sequences``), side by side.

        Raises:
            ValueError: ``rows`` is not a multiple of n.
            RuntimeError: which tokens are to be steered depends on how many came before them, and that cannot be told.
        """
        self.forwards += 1
        call = self._bind(rows, length, past)
        return call if length == 1 else call._replace(several=Positions(rows, length, kept))

    def _bind(self, rows: int, length: int, past: int | Tensor | None) -> Call:
        n = self.row_slots.numel()
        if self.segments is not None:
            return self._bind_segments(self.segments, rows, length)
        if rows % n:
            raise DPGError(f"the model was called with {rows} rows inside a call that gave {n} personalities")
        slots = self._repeat(rows // n, length)
        lora = slots if self.lora else None
        if not self.steering:
            return Call(lora, None, self.values, stages=self.stages)
        if past is None:
            everything = isinstance(self.steer_from, int) and self.steer_from == 0
            if (
                self.prompt is not None and length < self.prompt and not everything
            ):  # a step of decoding, not the prompt
                raise RuntimeError(
                    f"generate() called the model with {length} of {self.prompt} prompt tokens and neither a cache nor an "
                    "attention mask from which their position follows, so it cannot be told which tokens are to be "
                    'steered; give use_cache=False, or steer_tokens="all"'
                )
            past = 0
        if isinstance(past, Tensor):  # a static cache's, on the device of its layer
            past = past.to(slots.device)
        mask = self._mask()
        start = self.steer_from
        if isinstance(start, int) and isinstance(past, int):
            if past >= start:
                self.steered = True
                return Call(lora, slots, self.values, mask, self.stages)
            if past + length <= start:
                return Call(lora, None, self.values, stages=self.stages)
        position = past + torch.arange(length, device=slots.device)
        first = start.to(slots.device)[:, None].repeat_interleave(rows // n, 0) if isinstance(start, Tensor) else start
        steered = (position >= first).expand(rows, length).reshape(-1)
        steer_slots = torch.where(steered, slots, -1).to(torch.int32)
        if self.steered is not True:
            self.steered = steer_slots
        return Call(lora, steer_slots, self.values, mask, self.stages)

    def steered_any(self) -> bool:
        """Whether a token was steered (the last forward's, where only the device knows: then it waits for the device)."""
        return self.steered if isinstance(self.steered, bool) else bool((self.steered >= 0).any())

    def _bind_segments(self, segments: Tensor, rows: int, length: int) -> Call:
        if segments.shape != (rows, length):
            raise DPGError(f"segments have shape {list(segments.shape)}, the forward has [{rows}, {length}] tokens")
        none = self.row_slots.new_full((1,), -1)
        slots = torch.cat([self.row_slots, none])[segments.reshape(-1).to(none.device)]  # -1 is the last
        lora, steered = (slots if wanted else None for wanted in (self.lora, self.steering))
        return Call(lora, steered, self.values, self._mask(), self.stages)

    def _mask(self) -> RandomMask | None:
        keep = self.options.random_mask
        if keep is None:
            return None
        self._step += 1
        return RandomMask(keep, self.options.seed, self._step)

    def rewrite(self, row_slots: Tensor) -> None:
        """Other slots, in the tensors that forwards (and captured graphs) already read."""
        self.row_slots.copy_(row_slots)
        for (factor, length), repeated in self._rows.items():
            repeated.copy_(self.row_slots.repeat_interleave(factor * length))

    def _repeat(self, factor: int, length: int) -> Tensor:
        if factor * length == 1:
            return self.row_slots
        key = (factor, length)
        if key not in self._rows:
            with lasting():  # for rewrite()
                self._rows = {key: self.row_slots.repeat_interleave(factor * length)}
        return self._rows[key]


class CallState:
    """Shared by all patched layers of one model.

    ``request`` belongs to the calling thread or task. ``call`` is set for the duration of one forward, under the lock: it is
    a plain attribute, not a thread-local one, because torch.compile guards on the former and overlooks changes of the latter.
    ``mirrors`` has one entry for each device beyond the first that layers run on.
    ``reached`` takes the adapters that a watched forward reaches (see `reach.Reach`); None in all other forwards.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.request: ContextVar[Request | None] = ContextVar("dpg_fast_request", default=None)
        self.call: Call | None = None
        self.mirrors: tuple[CallMirror, ...] = ()
        #: whether a call of the wrapper is running; and one whose forward somebody has replaced
        self.inside: ContextVar[bool] = ContextVar("dpg_fast_inside", default=False)
        self.replaced: ContextVar[bool] = ContextVar("dpg_fast_replaced", default=False)
        self.reached: set[Any] | None = None

    def put(self, call: Call | None) -> Call | None:
        """Make ``call`` the running one, on every device; returns the one before. Under the lock."""
        before, self.call = self.call, call
        for mirror in self.mirrors:
            mirror.call = None if call is None else call.on(mirror.device)
        return before


class CallMirror:
    """What layers on one other device than the first read in place of the :class:`CallState`: the running call, there."""

    def __init__(self, device: torch.device, state: CallState) -> None:
        self.device = device
        self.call: Call | None = None
        self._state = state

    @property
    def reached(self) -> set[Any] | None:
        return self._state.reached
