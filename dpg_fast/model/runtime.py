"""What stands between a call and the patched layers: the changes to a base model, and the forward that obeys a `Speaking`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.compat.accelerate import placed_by
from dpg_fast.compat.torch import unmoved
from dpg_fast.compat.transformers import checkpoints
from dpg_fast.compat.transformers_models import conv1d_shape, model_type
from dpg_fast.hypernet import AdapterNetwork
from dpg_fast.model.abilities import check_parts, check_rows, networks_of
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.guard import warn_of_extremes
from dpg_fast.model.layers.changes import Watch, require_own_classes
from dpg_fast.model.layers.checkpointing import CheckpointContexts
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.layers.misfits import check_sites
from dpg_fast.model.layers.places import Places
from dpg_fast.model.layers.reach import Reach
from dpg_fast.model.layers.root import Root, remove_copied
from dpg_fast.model.layers.surgery import Surgery
from dpg_fast.model.reading import BaseReader
from dpg_fast.model.request import CallState, Running
from dpg_fast.model.slots import SlotValues, TokenBuffers
from dpg_fast.model.speaking import Speaking
from dpg_fast.model.stage_embedding import StageEmbedding
from dpg_fast.model.steering import SteeringOptions
from dpg_fast.model.supply import Supply
from dpg_fast.model.wide import WideSupply
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.row import Row
from dpg_fast.util.errors import DPGError


class Runtime:
    """Changes a base model so that it obeys requests, and makes requests of personalities.

    Args and errors: as :meth:`PersonalityModel.from_model`; ``tokenizer`` gives one when descriptions are read.

    Attributes:
        architecture: of the base model.
        supply: slots and copies of the bank; holds the calibration.
        options: of the steering; read at every call.
        stages: the stage tokens of the characters, or None; stage_tokens: how many.
        checkpointing: gradient checkpointing was enabled in the way that keeps requests for the backward pass.
        reach: watches the first forwards with a personality.
        state: what the patched layers read.
        running: calls and forwards that run now; live: those among them that hold slots.
        buffers: for the slots of their tokens.
        undone: the changes were taken back.
    """

    def __init__(
        self,
        base: nn.Module,
        hypernet: AdapterNetwork | None,
        steering: SteeringTable | None,
        calibration: Calibration,
        tokenizer: Callable[[], Any],
        state: CallState | None = None,
    ) -> None:
        remove_copied(base)
        architecture = find_architecture(base, dense_only=True)
        check_parts(architecture, hypernet, steering)
        places = Places.find(base, architecture)
        sites = hypernet.sites if hypernet is not None else ()
        check_sites(base, architecture.sites, sites)
        self.base, self.architecture = base, architecture
        self.hypernet, self.steering = hypernet, steering
        self.options = SteeringOptions()
        self.warned = False
        self.checkpointing = False
        self.state = state or CallState()
        #: weak: what was interrupted before it could leave is gone all the same
        self.running: WeakSet[Running | Speaking] = WeakSet()
        self.live: WeakSet[Speaking] = WeakSet()
        self.buffers = TokenBuffers()
        self.undone = False
        if hypernet is not None:
            hypernet.to(places.first)
        scale = hypernet.config.scale if hypernet is not None else 1.0
        names = {site.name for site in sites}
        self._surgery = Surgery(architecture, places, self.state, names, scale, steering is not None)
        self.reach = Reach(base, self.state, self._surgery.changed)
        rows = hypernet.stages if hypernet is not None else None
        try:
            self.stages = StageEmbedding(base, rows, self.state) if rows is not None else None
        except BaseException:
            self._surgery.undo()
            raise
        self.stage_tokens = 0 if rows is None else len(rows.tokens)
        parts = (base, architecture, hypernet, steering, calibration, self._surgery, places)
        wide = hypernet is not None and hypernet.config.head == "wide"
        self.supply = WideSupply(*parts, moved=self._moved) if wide else Supply(*parts)
        self._tokenizer = tokenizer
        for network in networks_of(hypernet):
            network.reader = BaseReader(base, architecture, self.state, tokenizer, self.supply.device)
        self._original_forward = base.forward
        self._inner_forward: Callable[..., Any] = base.forward
        self._compile_options: dict[str, Any] | None = None
        self.checkpoint_contexts = CheckpointContexts(self.state, self.only_hypernet_trains)
        self._changes = [*self._surgery.changes, *([self.stages.change] if self.stages is not None else [])]
        self._watch = Watch(base, self._changes)
        self._root = Root(base, self._patched_forward())

    @contextmanager
    def exclusive(self, what: str) -> Iterator[None]:
        """For changes to the model: no call runs inside the block.

        Raises:
            RuntimeError: a call is running, in another thread or around this one; nothing is changed then.
        """
        if not self.state.lock.acquire(blocking=False):
            raise RuntimeError(f"{what} while the model is being called in another thread; wait for that call to end")
        try:
            if not all(one.left for one in self.running):
                raise RuntimeError(
                    f"{what} while a call of the model is running, in another thread or around this one (a generate(), a "
                    "speaking() block, a hook); wait for it to end"
                )
            yield
        finally:
            self.state.lock.release()

    def undo(self) -> None:
        """Take every change to the base model back; inside :meth:`exclusive`.

        Raises:
            RuntimeError: somebody else has changed a changed module's class since; nothing is undone then.
        """
        require_own_classes([*self._changes, *self._surgery.fused])
        with lasting():
            self._surgery.undo()
        for network in networks_of(self.hypernet):
            network.reader = None
        if self.stages is not None:
            self.stages.undo()
        self._root.undo()
        self.checkpoint_contexts.untrained = None
        self.undone = True

    def quiet(self) -> AbstractContextManager[Any]:
        """No forward runs inside the block, in any other thread."""
        return self.state.lock

    def again(
        self,
        hypernet: AdapterNetwork | None,
        base: nn.Module | None = None,
        tokenizer: Callable[[], Any] | None = None,
        steering: SteeringTable | None = None,
    ) -> Runtime:
        """The same changes with another network, after :meth:`undo`; or to another ``base`` that is not changed yet."""
        made = Runtime(
            self.base if base is None else base,
            hypernet,
            self.steering if steering is None else steering,
            self.supply.calibration,
            tokenizer or self._tokenizer,
            self.state if base is None else None,
        )
        made.options, made.warned = self.options, self.warned
        if base is None:
            made.checkpointing = self.checkpointing
            made.checkpoint_contexts = self.checkpoint_contexts  # which the layers have already
            made.checkpoint_contexts.untrained = made.only_hypernet_trains
        if self._compile_options is not None:
            made.compile(**self._compile_options)
        return made

    def export_options(self) -> dict[str, Any]:
        """What PEFT has to be told of the base model; arguments of `AdapterNetwork.to_peft`."""
        assert self.hypernet is not None
        adapted = [self.architecture.linears[site.name] for site in self.hypernet.sites]
        transposed = {conv1d_shape(layer) is not None for layer in adapted}
        if len(transposed) > 1:
            raise DPGError("PEFT has no format for an adapter of Conv1D and linear layers together; narrow targets=")
        return {"model_type": model_type(self.base), "transposed": transposed.pop()}

    def check(self, rows: Sequence[Row | None]) -> None:
        """Raises ValueError when the model has nothing that could give one of the rows what it asks for; warns of extremes."""
        asked = dict.fromkeys(row for row in rows if row is not None)
        if asked:
            check_rows(list(asked), self.hypernet, self.steering, self.stages)
            if self.steering is not None and not self.warned:
                self.warned = warn_of_extremes(asked, self.supply.calibration)

    def check_stages(self, rows: Sequence[Row | None], kwargs: Mapping[str, Any]) -> None:
        """Raises ValueError when a row's stage is unknown, or has no token in the prompt among the arguments of a forward."""
        self.check(rows)
        assert self.stages is not None  # or the check above had refused the stage
        self.stages.check_prompt(rows, kwargs.get("input_ids", kwargs.get("inputs")))

    def require_reached(self) -> None:
        """Raises RuntimeError when calls of the base model pass by what was changed, since somebody replaced something."""
        if self.base.__dict__.get("forward") is not self._root.seen:
            self._root.check()
        if not unmoved(self._watch.placed):
            self._watch.look()
            self.reach.restart()

    def training_values(self, rows: Sequence[Row]) -> SlotValues:
        """Slots for distinct rows, which gradients reach."""
        self.check(rows)
        self.require_reached()
        if checkpoints(self.base) and not self.checkpointing:
            raise DPGError("enable gradient checkpointing through PersonalityModel.gradient_checkpointing_enable()")
        return self.supply.for_training(rows)

    @property
    def replaced(self) -> bool:
        """Whether a call that somebody's own forward serves is running, which has its personalities already."""
        return self.state.replaced.get()

    @contextmanager
    def bound(self, kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Inside the block the running request also holds for parts of the base that are called past its forward."""
        request, state = self.state.request.get()(), self.state
        outer = state.replaced.get()
        try:
            state.replaced.set(True)
            with state.lock:
                before = state.call
                call = None if request is None or request.left else request.bind((), kwargs)
                try:
                    state.call = call
                    yield
                finally:
                    state.call = before
        finally:
            state.replaced.set(outer)

    def watched(self, forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """``forward(*args, **kwargs)`` inside :meth:`bound`, watched as the base's own forward is."""
        if self.state.call is None or self.reach.complete:
            return forward(*args, **kwargs)
        return self.reach.run(forward, args, kwargs)

    def only_hypernet_trains(self) -> bool:
        """Whether the hypernetwork has parameters to train, and the base none."""
        return self.trains() and not any(p.requires_grad for p in self.base.parameters())

    def trains(self) -> bool:
        """Whether the hypernetwork has parameters to train."""
        return self.hypernet is not None and any(p.requires_grad for p in self.hypernet.parameters())

    def _moved(self, values: SlotValues) -> None:
        for speaking in self.live:  # their slots are where they were, in larger buffers
            speaking.values = values

    def check_move(self, fn: Callable[[Tensor], Tensor]) -> bool:
        """Whether accelerate has placed the model.

        Raises:
            ValueError: it is, and ``fn``, about to be applied to all tensors, would move layers off their devices.
        """
        if placed_by(self.base)[0] is None:
            return False
        for device in self.supply.places.all:
            moved = fn(torch.empty(0, device=device)).device
            if moved != device:
                raise DPGError(
                    f"accelerate runs layers of the base model on {device}, so it cannot be moved to {moved}; load it with "
                    "another device_map, or call accelerate.hooks.remove_hook_from_submodules(model.base) first"
                )
        return True

    def compile(self, **options: Any) -> None:
        """Run the base model's forward through ``torch.compile(**options)``, all of it inside the compiled region."""
        self._compile_options = options
        self._inner_forward = torch.compile(self._original_forward, **options)

    def _patched_forward(self) -> Callable[..., Any]:
        """The base model's forward, bound to the running `Speaking` if there is one."""
        state = self.state

        # Which personality is wanted is found out here, in Python; what comes after it may be compiled as one graph.
        @functools.partial(torch.compiler.disable, recursive=False)
        def forward(*args: Any, **kwargs: Any) -> Any:
            speaking = state.request.get()()
            while speaking is not None and speaking.left:  # it was interrupted on its way out
                speaking = speaking.outer
            token = Running()
            with state.lock:
                before = state.call  # a hook may call the model again
                call = None if speaking is None else speaking.bind(args, kwargs)
                try:
                    self.running.add(token)
                    state.call = call
                    if state.mirrors:
                        state.put(call)
                    if call is None or self.reach.complete or state.reached is not None:
                        output = self._inner_forward(*args, **kwargs)
                    else:
                        output = self.reach.run(self._original_forward, args, kwargs)
                finally:
                    state.put(before)
                    self.running.discard(token)
            if speaking is not None and speaking.widen:
                output.logits = torch.nn.functional.pad(output.logits, (0, speaking.widen), value=-math.inf)
            return output

        return forward
