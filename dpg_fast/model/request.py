"""What the patched layers read during one forward, and where they find it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dpg_fast.model.slots import SlotValues
from dpg_fast.model.steering import RandomMask
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.model.speaking import Speaking


#: calling it gives None, as a reference to a Speaking that is gone does
NOBODY = type(None)


class ForwardCall(NamedTuple):
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

    def on(self, device: torch.device) -> ForwardCall:
        """The same call for layers that run on another device."""
        values = (self.values.mirrors or {}).get(device)
        if values is None:
            raise RuntimeError(f"the model was moved to {device} during a call; start the call again")
        soon = device.type != "cpu"  # a copy to the CPU that nobody waits for may be read too early
        lora, steered = (None if t is None else t.to(device, non_blocking=soon) for t in self[:2])
        return self._replace(lora_slots=lora, steer_slots=steered, values=values)

    def seen_by(self, name: str, x: Tensor) -> ForwardCall:
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
        """Which positions of each row the layer ``name`` is given as ``x``; errors as in :meth:`ForwardCall.seen_by`."""
        if isinstance(self.kept, int) and self.kept > 0 and x.shape[:-1] == (self.rows, self.kept):
            return slice(-self.kept, None)
        wanted = "a tensor of positions" if isinstance(self.kept, Tensor) else self.kept or "all"
        raise DPGError(
            f"{name} was given {list(x.shape[:-1])} of the [{self.rows}, {self.length}] tokens of this forward, and which ones "
            f"cannot be told (logits_to_keep: {wanted}), so neither can their personalities; layers may see all tokens, or the "
            "last N of each row with logits_to_keep=N"
        )


class CallState:
    """Shared by all patched layers of one model.

    ``request`` belongs to the calling thread or task. ``call`` is set for the duration of one forward, under the lock: it is
    a plain attribute, not a thread-local one, because torch.compile guards on the former and overlooks changes of the latter.
    ``mirrors`` has one entry for each device beyond the first that layers run on.
    ``reached`` takes the adapters that a watched forward reaches (see `reach.Reach`); None in all other forwards.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        #: gives the running Speaking; weak, so that a block whose end was interrupted ends with its frame
        self.request: ContextVar[Callable[[], Speaking | None]] = ContextVar("dpg_fast_request", default=NOBODY)
        self.call: ForwardCall | None = None
        self.mirrors: tuple[CallMirror, ...] = ()
        #: whether a call of the wrapper is running; and one whose forward somebody has replaced
        self.inside: ContextVar[bool] = ContextVar("dpg_fast_inside", default=False)
        self.replaced: ContextVar[bool] = ContextVar("dpg_fast_replaced", default=False)
        self.reached: set[Any] | None = None

    def put(self, call: ForwardCall | None) -> ForwardCall | None:
        """Make ``call`` the running one, on every device; returns the one before. Under the lock."""
        before, self.call = self.call, call
        for mirror in self.mirrors:
            mirror.call = None if call is None else call.on(mirror.device)
        return before


class Running:
    """One forward while it runs."""

    left = False


class CallMirror:
    """What layers on one other device than the first read in place of the :class:`CallState`: the running call, there."""

    def __init__(self, device: torch.device, state: CallState) -> None:
        self.device = device
        self.call: ForwardCall | None = None
        self._state = state

    @property
    def reached(self) -> set[Any] | None:
        return self._state.reached
