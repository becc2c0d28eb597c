"""`Speaking`: the rows of a block of forwards, from the slots that it holds to what each forward's layers are given.

Why: docs/decisions.md, "Which tokens are steered follows from the cache".
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpg_fast.compat.transformers import forward_shape, packed_shape
from dpg_fast.model.layers.changes import NoEffectError
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.request import NOBODY, ForwardCall, Positions
from dpg_fast.model.slots import SlotTable, SlotValues
from dpg_fast.model.steering import RandomMask
from dpg_fast.personality.row import PersonalityLike, Row, read_rows
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.model.runtime import Runtime

__all__ = ["Speaking"]


class Speaking:
    """Inside its ``with`` block every forward of the base model, in this thread, has these personalities.

    Entering it puts the personalities into slots, pinned until it is left; with gradients for the hypernetwork they get
    slots of their own, as a part of the graph. Rows that are all the base model's change nothing.

    Args:
        runtime: of the model.
        rows: what each row asks for, or, with ``segments``, each segment; the model can give it.
        steer_from: position (padding included) of the first token that is steered: one number, or int64 [rows].
        prompt: inside ``generate``, tokens of the prompt. With stage tokens in it, logits then get a column of -inf for each,
            so that what looks up the prompt's ids in them (a repetition penalty) finds them.
        segments: int64 [rows, length]: token t of a packed forward has the personality ``rows[segments[t]]``, -1 for none.
        unsteered: bool [rows, length], with ``segments``: tokens whose neurons are not steered; none by default.
        changing: the personalities may change on the way: slots and steering are ready for any, there are no gradients, and
            a block may end without a forward.

    Attributes:
        active: whether a row has a personality.
        left: the block was left, or not entered after all: no forward obeys, whatever was interrupted on the way out.
        outer: the block around this one.
        row_slots: int32 [n], -1 for the base model; set on entry, as are the next three.
        values: contents of the slots.
        lora: whether a bank takes part; steering: whether neurons are steered.
        stages: whether prompts may hold stage tokens; widen: columns of -inf behind the logits.
        forwards: that were bound so far.
        steered: whether one of them steered a token; int32 [T], the last one's slots, where that is known on the device alone.
    """

    row_slots: Tensor
    values: SlotValues

    def __init__(
        self,
        runtime: Runtime,
        rows: Sequence[Row | None],
        steer_from: int | Tensor = 0,
        *,
        prompt: int | None = None,
        segments: Tensor | None = None,
        unsteered: Tensor | None = None,
        changing: bool = False,
    ) -> None:
        asked = [row for row in rows if row is not None]
        steers = runtime.steering is not None
        self._runtime, self._rows = runtime, rows
        self.active = bool(asked) or changing
        self.steer_from, self.prompt, self.segments, self.changing = steer_from, prompt, segments, changing
        self.unsteered = unsteered
        self.options = runtime.options
        self.lora = runtime.hypernet is not None
        self.steering = steers and (changing or any([row.scores is not None for row in asked]))
        self.stages = any([row.stage is not None for row in asked])
        self.widen = runtime.stage_tokens if prompt is not None and self.stages else 0
        self.forwards = 0
        self.steered: bool | Tensor = False
        self._step = 0
        self._table: SlotTable | None = None
        self._slots: dict[Row, int] = {}
        self._repeated: dict[tuple[int, int], Tensor] = {}
        self._bounds: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.left = False
        self.outer: Speaking | None = None
        self._outer_inside = False

    def __enter__(self) -> Speaking:
        runtime, state = self._runtime, self._runtime.state
        self.outer, self._outer_inside = state.request.get()(), state.inside.get()
        while self.outer is not None and self.outer.left:
            self.outer = self.outer.outer
        try:
            with state.lock:
                if runtime.undone:
                    raise RuntimeError(
                        "the model was unloaded, or given characters, while this call began; call it again"
                    )
                self.left = False
                self._repeated.clear()
                runtime.running.add(self)
            if self.active and not self.changing and torch.is_grad_enabled() and runtime.trains():
                self._enter_training()
            elif self.active:
                with state.lock, torch.inference_mode(False), torch.no_grad():
                    known = runtime.supply.current
                    if known is None or not all([row is None or row in known.slots for row in self._rows]):
                        runtime.check(self._rows)  # a row that has a slot was checked when it got it
                    runtime.require_reached()
                    table = self._table = runtime.supply.table()
                    self._slots = slots = table.acquire(self, self._rows, runtime.supply.values)
                    numbers = [-1 if row is None else slots[row] for row in self._rows]
                    self.values = table.values
                    self.row_slots = torch.tensor(numbers, dtype=torch.int32, device=self.values.strengths.device)
                    runtime.live.add(self)
            state.request.set(weakref.ref(self) if self.active else NOBODY)
            state.inside.set(True)
            return self
        except BaseException:
            self._leave()
            raise

    def _enter_training(self) -> None:
        place: dict[Row, int] = {}
        numbers = [-1 if row is None else place.setdefault(row, len(place)) for row in self._rows]
        self.values = self._runtime.training_values(list(place))
        self.row_slots = torch.tensor(numbers, dtype=torch.int32, device=self.values.strengths.device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.left = True
        finally:
            self._leave()
        if kind is not None or not self.active:
            return
        if not (self.forwards or self.changing):
            raise NoEffectError(
                "the personality had no effect: the base model's forward was replaced after the model was wrapped, so that no "
                "forward took the personality up; unload(), replace it, and wrap the model again"
            )
        self._runtime.reach.conclude()

    def _leave(self) -> None:
        runtime, state = self._runtime, self._runtime.state
        self.left = True
        state.request.set(NOBODY if self.outer is None else weakref.ref(self.outer))
        state.inside.set(self._outer_inside)
        with state.lock:
            if self._table is not None:
                self._table.keep(self)
            runtime.live.discard(self)
            runtime.running.discard(self)

    def change(self, personality: PersonalityLike) -> bool:
        """Give the rows other personalities from the next forward on, by writing to the buffers that are in use.

        Args:
            personality: one for all rows, or one for each.

        Returns:
            True when a captured CUDA graph replays with the new personalities; False when the slots did not hold them all
            and their buffers have moved: graphs have to be captured again.

        Raises:
            ValueError, TypeError: as in :meth:`PersonalityModel.generate`.
        """
        rows = read_rows(personality, len(self._rows))
        runtime, before = self._runtime, self.values
        runtime.check(rows)
        with runtime.state.lock, lasting():
            table = runtime.supply.current
            assert table is not None and self._table is not None
            slots = table.acquire(self, rows, runtime.supply.values)
            try:
                self._point(rows, slots)
                self._rows, self._table, self._slots, self.values = rows, table, slots, table.values
            except BaseException:
                self._point(self._rows, self._slots)
                raise
            finally:
                table.keep(self, self._slots.values())
            self.stages = self.stages or any(row is not None and row.stage is not None for row in rows)
        return self.values is before

    def _point(self, rows: Sequence[Row | None], slots: Mapping[Row, int]) -> None:
        numbers = [-1 if row is None else slots[row] for row in rows]
        self.row_slots.copy_(torch.tensor(numbers, dtype=torch.int32))
        for repeated in self._repeated.values():
            repeated.view(len(rows), -1).copy_(self.row_slots[:, None])

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ForwardCall:
        """What the layers of one forward with these arguments are given: a slot for each of its tokens.

        Generation may have repeated each row (beams, ``num_return_sequences``), side by side.

        Raises:
            ValueError: no ids or embeddings, or a number of rows that is not a multiple of n.
            RuntimeError: which tokens are to be steered depends on how many came before them, and that cannot be told.
        """
        self.forwards += 1
        if self.segments is not None:  # whatever cache there is says nothing about packed tokens
            rows, length, kept = packed_shape(args, kwargs)
            several = None if length == 1 else Positions(rows, length, kept)
            slots = self._of_segments(self.segments, rows, length)
            lora, steered = (slots if wanted else None for wanted in (self.lora, self.steering))
            if steered is not None and self.unsteered is not None:
                steered = steered.masked_fill(self.unsteered.reshape(-1).to(slots.device), -1)
            return ForwardCall(lora, steered, self.values, self._mask(), self.stages, several)
        rows, length, past, kept = forward_shape(args, kwargs)
        several = None if length == 1 else Positions(rows, length, kept)
        factor, odd = divmod(rows, self.row_slots.numel())
        if odd:
            raise DPGError(
                f"the model was called with {rows} rows inside a call that gave {len(self._rows)} personalities"
            )
        if torch.is_grad_enabled():  # autograd keeps slots for longer than this call
            slots = self.row_slots.repeat_interleave(factor * length)
        elif (lent := self._repeated.get((factor, length))) is not None:
            slots = lent
        else:
            slots = self._runtime.buffers.take(self, "tokens", rows, length, self.row_slots.device)
            slots.view(len(self._rows), -1).copy_(self.row_slots[:, None])
            if not (slots.is_cuda and _capturing()):  # or what was not replayed yet would be read
                self._repeated[factor, length] = slots  # change() writes to it
        lora = slots if self.lora else None
        if not self.steering:
            return ForwardCall(lora, None, self.values, None, self.stages, several)
        mask, steered = None, None
        if self.options.random_mask is not None:
            mask = self._mask()
        start = self.steer_from
        if past is None:
            past = self._no_past(length)
        if not (isinstance(start, int) and isinstance(past, int)):
            steered = self._steered_of(slots, factor, length, past)
        elif past >= start:
            self.steered, steered = True, slots
        elif past + length > start:
            steered = self._steered_of(slots, factor, length, past)
        return ForwardCall(lora, steered, self.values, None if steered is None else mask, self.stages, several)

    def steered_any(self) -> bool:
        """Whether a token was steered (the last forward's, where only the device knows: then it waits for the device)."""
        return self.steered if isinstance(self.steered, bool) else bool((self.steered >= 0).any())

    def require_steered(self, new_tokens: int) -> None:
        """After a generation of ``new_tokens``, at least two of them or, if the prompt was to be steered, one.

        Raises:
            NoEffectError: neurons were to be steered for one of the rows, and no token was.
        """
        first = (
            1 if isinstance(self.steer_from, int) and self.steer_from == 0 else 2
        )  # the prompt's forward gives the first
        if not (self.active and self.steering) or new_tokens < first or self.steered_any():
            return
        strengths = self._runtime.supply.calibration.strengths
        if any(any(strengths(row.scores)) for row in self._rows if row is not None and row.scores is not None):
            raise NoEffectError(
                f"the personality's neurons had no effect: of {new_tokens} generated tokens none was steered, since every "
                "forward was taken for a part of the prompt. The model keeps its context in a way unknown here; "
                'give use_cache=False, or steer_tokens="all"'
            )

    def _no_past(self, length: int) -> int:
        everything = isinstance(self.steer_from, int) and self.steer_from == 0
        if self.prompt is not None and length < self.prompt and not everything:  # a step of decoding, not the prompt
            raise RuntimeError(
                f"generate() called the model with {length} of {self.prompt} prompt tokens and neither a cache nor an "
                "attention mask from which their position follows, so it cannot be told which tokens are to be "
                'steered; give use_cache=False, or steer_tokens="all"'
            )
        return 0

    def _steered_of(self, slots: Tensor, factor: int, length: int, past: int | Tensor) -> Tensor:
        """int32 [T]: the tokens' slots, -1 before the first token that is steered.

        Decoding with a static cache comes here at every step: it takes two launches, and writes where the last step wrote.
        """
        rows, start = slots.numel() // length, self.steer_from
        bounds = self._bounds.get((factor, length))
        if bounds is None:
            with lasting():
                first = (
                    start.to(slots.device)[:, None].repeat_interleave(factor, 0) if isinstance(start, Tensor) else start
                )
                before = first - torch.arange(length, device=slots.device)
                bounds = before, torch.full((), -1, dtype=torch.int32, device=slots.device)
            if not (slots.is_cuda and _capturing()):
                self._bounds[factor, length] = bounds
        before, nobody = bounds
        if isinstance(past, Tensor):  # a static cache's, on the device of its layer
            past = past.to(slots.device)
        if torch.is_grad_enabled() or self._runtime.state.call is not None:  # inside a forward that still reads its own
            steer_slots = torch.empty_like(slots)
        else:
            steer_slots = self._runtime.buffers.take(self, "steered", rows, length, slots.device)
        torch.where(before <= past, slots.view(rows, length), nobody, out=steer_slots.view(rows, length))
        if self.steered is not True:
            self.steered = steer_slots
        return steer_slots

    def _of_segments(self, segments: Tensor, rows: int, length: int) -> Tensor:
        if segments.shape != (rows, length):
            raise DPGError(f"segments have shape {list(segments.shape)}, the forward has [{rows}, {length}] tokens")
        none = self.row_slots.new_full((1,), -1)
        return torch.cat([self.row_slots, none])[segments.reshape(-1).to(none.device)]  # -1 is the last

    def _mask(self) -> RandomMask | None:
        keep = self.options.random_mask
        if keep is None:
            return None
        self._step += 1
        return RandomMask(keep, self.options.seed, self._step)


def _capturing() -> bool:
    """Whether what is done on the current stream of the GPU is recorded into a graph now, not run."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
