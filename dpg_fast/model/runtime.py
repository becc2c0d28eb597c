"""What stands between a call and the patched layers: checks, slots, compute copies of the bank, the running request."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture.layers import Architecture, UnsupportedArchitectureError, find_architecture
from dpg_fast.compat.accelerate import placed_by
from dpg_fast.compat.transformers import checkpoints, kept_positions, prompt_of, tokens_before
from dpg_fast.compat.transformers_models import conv1d_shape, model_type
from dpg_fast.hypernet import AdapterNetwork, CombinedNetwork, HyperNetwork, StoredAdapters
from dpg_fast.hypernet.stage_rows import no_stage
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.layers.changes import Watch
from dpg_fast.model.layers.checkpointing import CheckpointContexts
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.layers.misfits import check_sites
from dpg_fast.model.layers.places import META, Places, mark
from dpg_fast.model.layers.reach import NoEffectError, Reach
from dpg_fast.model.layers.root import Root, remove_copied
from dpg_fast.model.layers.surgery import Surgery
from dpg_fast.model.reading import BaseReader
from dpg_fast.model.request import Call, CallState, Request
from dpg_fast.model.slots import SlotTable, SlotValues
from dpg_fast.model.stage_embedding import StageEmbedding, stage_of
from dpg_fast.model.steering import SteeringOptions
from dpg_fast.model.wide import WideTable, one_hot
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.description import character_of
from dpg_fast.personality.row import PersonalityLike, Row, is_profile, read_rows, scores_of
from dpg_fast.personality.scores import POLES
from dpg_fast.util.errors import DPGError


class Speaking:
    """The personalities of a block of forwards; see :meth:`PersonalityModel.speaking`.

    Attributes:
        request: bound to every forward.
        slots: of the personalities at work, pinned.
    """

    def __init__(self, runtime: Runtime, request: Request, slots: dict[Row, int]) -> None:
        self._runtime = runtime
        self.request = request
        self.slots = slots

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
        return self._runtime.change(self, read_rows(personality, self.request.row_slots.numel()))


class Runtime:
    """Changes a base model so that it obeys requests, and makes requests of personalities.

    Args and errors: as :meth:`PersonalityModel.from_model`; ``tokenizer`` gives one when descriptions are read.

    Attributes:
        architecture: of the base model.
        calibration: level -> steering strength; read at every call.
        options: of the steering; read at every call.
        stages: the stage tokens of the characters, or None.
        checkpointing: gradient checkpointing was enabled in the way that keeps requests for the backward pass.
        reach: watches the first forwards with a personality.
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
        _check_experts(architecture, hypernet, steering)
        if steering is not None:
            found = (architecture.num_layers, architecture.intermediate)
            if (steering.num_layers, steering.intermediate) != found:
                raise DPGError(
                    f"the steering table is for {steering.num_layers} layers of {steering.intermediate} neurons, the model "
                    f"has {found[0]} of {found[1]}"
                )
        places = Places.find(base, architecture)
        sites = hypernet.sites if hypernet is not None else ()
        check_sites(base, architecture.sites, sites)
        self.base = base
        self.architecture = architecture
        self.hypernet = hypernet
        self.steering = steering
        self.calibration = calibration
        self.options = SteeringOptions()
        self.checkpointing = False
        self._state = state or CallState()
        self._trunk: list[nn.Parameter] = []
        if hypernet is not None:
            hypernet.to(places.first)
            banked = {id(p) for p in hypernet.bank.parameters()}
            self._trunk = [p for p in hypernet.parameters() if id(p) not in banked]
        scale = hypernet.config.scale if hypernet is not None else 1.0
        names = {site.name for site in sites}
        groups = hypernet.groups if hypernet is not None else None
        self._groups = len(set(groups.values())) if groups is not None else 0
        self._surgery = Surgery(architecture, places, self._state, names, scale, steering is not None, groups)
        self._places, self._mark = places, mark(base)
        self.reach = Reach(base, self._state, self._surgery.changed)
        rows = hypernet.stages if hypernet is not None else None
        try:
            self.stages = StageEmbedding(base, rows, self._state) if rows is not None else None
        except BaseException:
            self._surgery.undo()
            raise
        self._networks = [part for part in hypernet.modules() if isinstance(part, HyperNetwork)] if hypernet else []
        self._tokenizer = tokenizer
        for network in self._networks:
            network.reader = BaseReader(base, architecture, self._state, tokenizer, self.device)
        self._wide = hypernet is not None and hypernet.config.head == "wide"
        self._live: dict[int, Request] = {}
        self._table: SlotTable | None = None
        self._bank_key: tuple[Any, ...] | None = None
        self._codes_key: tuple[Any, ...] | None = None
        self._steering_places: Places | None = None
        self._original_forward = base.forward
        self._inner_forward: Callable[..., Any] = base.forward
        self._compile_options: dict[str, Any] | None = None
        self.checkpoint_contexts = CheckpointContexts(self._state, self.only_hypernet_trains)
        changes = [*self._surgery.changes, *([self.stages.change] if self.stages is not None else [])]
        self._watch = Watch(base, changes)
        self._running: set[object] = set()
        self._undone = False
        self._patch_forward()

    @contextmanager
    def exclusive(self, what: str) -> Iterator[None]:
        """For changes to the model: no call runs inside the block.

        Raises:
            RuntimeError: a call is running, in another thread or around this one; nothing is changed then.
        """
        if not self._state.lock.acquire(blocking=False):
            raise RuntimeError(f"{what} while the model is being called in another thread; wait for that call to end")
        try:
            if self._running:
                raise RuntimeError(
                    f"{what} while a call of the model is running, in another thread or around this one (a generate(), a "
                    "speaking() block, a hook); wait for it to end"
                )
            yield
        finally:
            self._state.lock.release()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """A call is running inside the block."""
        token = object()
        with self._state.lock:
            if self._undone:
                raise RuntimeError("the model was unloaded, or given characters, while this call began; call it again")
            self._running.add(token)
        try:
            yield
        finally:
            self._running.discard(token)

    def undo(self) -> None:
        """Take every change to the base model back; inside :meth:`exclusive`.

        Raises:
            RuntimeError: somebody else has changed a changed module's class since; nothing is undone then.
        """
        self._watch.require_own_classes()
        with lasting():
            self._surgery.undo()
        for network in self._networks:
            network.reader = None
        if self.stages is not None:
            self.stages.undo()
        self._root.undo()
        self.checkpoint_contexts.untrained = None
        self._undone = True

    def quiet(self) -> AbstractContextManager[Any]:
        """No forward runs inside the block, in any other thread."""
        return self._state.lock

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
            self.calibration,
            tokenizer or self._tokenizer,
            self._state if base is None else None,
        )
        made.options = self.options
        if base is None:
            made.checkpointing = self.checkpointing
            made.checkpoint_contexts = self.checkpoint_contexts  # which the layers have already
            made.checkpoint_contexts.untrained = made.only_hypernet_trains
        if self._compile_options is not None:
            made.compile(**self._compile_options)
        return made

    @property
    def busy(self) -> bool:
        """Whether calls with a personality are running."""
        return bool(self._live)

    def export_options(self) -> dict[str, Any]:
        """What PEFT has to be told of the base model; arguments of `AdapterNetwork.to_peft`."""
        assert self.hypernet is not None
        adapted = [self.architecture.linears[site.name] for site in self.hypernet.sites]
        transposed = {conv1d_shape(layer) is not None for layer in adapted}
        if len(transposed) > 1:
            raise DPGError("PEFT has no format for an adapter of Conv1D and linear layers together; narrow targets=")
        return {"model_type": model_type(self.base), "transposed": transposed.pop()}

    @contextmanager
    def request(
        self,
        items: Sequence[Row],
        steer_from: int | Tensor,
        prompt: int | None = None,
        segments: Tensor | None = None,
    ) -> Iterator[Request | None]:
        """Every forward of the base model inside the block, in this thread, gives row i the personality ``items[i]``, or, with
        ``segments`` int64 [rows, length], token t the personality ``items[segments[t]]``.

        ``prompt``: its tokens, inside ``generate``. With stage tokens in it, logits then get a column of -inf for each, so
        that what looks up the prompt's ids in them (a repetition penalty) finds them.

        Raises:
            ValueError: the model has nothing that could give one of them.
        """
        if all(item is None for item in items):
            with self._entered(), self._activated(None):
                yield None
            return
        self.check_items(items)
        if torch.is_grad_enabled() and self._trains():
            with self._entered():
                request = self._training_request(items, steer_from)
                request.segments = segments
                with self._activated(request):
                    yield request
                    self._require_forwards(request)
            return
        steers = self.steering is not None and any(scores_of(item) is not None for item in items)
        with self.speaking(items, steer_from, steers) as speaking:
            speaking.request.segments = segments
            speaking.request.prompt = prompt
            if prompt is not None and speaking.request.stages and self.stages is not None:
                speaking.request.widen = len(self.stages.rows.tokens)
            yield speaking.request
            self._require_forwards(speaking.request)

    @contextmanager
    def speaking(self, items: Sequence[Row], steer_from: int | Tensor, steers: bool) -> Iterator[Speaking]:
        """As :meth:`request` without gradients, for personalities that may change on the way; ``steers``: neurons take part."""
        with self._entered(), self._spoken(items, steer_from, steers) as speaking:
            yield speaking

    @contextmanager
    def _spoken(self, items: Sequence[Row], steer_from: int | Tensor, steers: bool) -> Iterator[Speaking]:
        with self._state.lock, lasting():
            self._require_reached()
            table = self._prepare()
            slots = self._acquire(table, items)
            row_slots = self._row_slots(items, slots, table.values.strengths.device)
            lora = self.hypernet is not None
            request = Request(row_slots, table.values, lora, steers, steer_from, self.options, has_stages(items))
            self._live[id(request)] = request
        speaking = Speaking(self, request, slots)
        try:
            with self._activated(request):
                yield speaking
        finally:
            with self._state.lock:
                del self._live[id(request)]
                table.release(list(speaking.slots.values()))

    def change(self, speaking: Speaking, items: Sequence[Row]) -> bool:
        """Behind :meth:`Speaking.change`."""
        request = speaking.request
        if len(items) != request.row_slots.numel():
            raise DPGError(f"{len(items)} personalities were given for {request.row_slots.numel()} rows")
        if any(item is not None for item in items):
            self.check_items(items)
        with self._state.lock, lasting():
            table = self._table
            assert table is not None  # made when the block was entered
            before = request.values
            slots = self._acquire(table, items)
            request.rewrite(self._row_slots(items, slots, request.row_slots.device))
            table.release(list(speaking.slots.values()))
            speaking.slots = slots
            stayed = table.values is before
            request.values = table.values
            request.stages = request.stages or has_stages(items)
        return stayed

    def _acquire(self, table: SlotTable, items: Sequence[Row]) -> dict[Row, int]:
        distinct = list(dict.fromkeys(item for item in items if item is not None))
        return dict(zip(distinct, table.acquire(distinct, self._slot_values), strict=True))

    def _row_slots(self, items: Sequence[Row], slots: Mapping[Row, int], device: torch.device) -> Tensor:
        return torch.tensor([-1 if i is None else slots[i] for i in items], dtype=torch.int32, device=device)

    @contextmanager
    def _activated(self, request: Request | None) -> Iterator[None]:
        token, inside = self._state.request.set(request), self._state.inside.set(True)
        try:
            yield
        finally:
            self._state.inside.reset(inside)
            self._state.request.reset(token)
        if request is not None:
            self.reach.conclude()

    def _require_forwards(self, request: Request) -> None:
        if not request.forwards:
            raise NoEffectError(
                "the personality had no effect: the base model's forward was replaced after the model was wrapped, so that no "
                "forward took the personality up; unload(), replace it, and wrap the model again"
            )

    def require_steered(self, request: Request | None, items: Sequence[Row], new_tokens: int) -> None:
        """After a generation of ``new_tokens``, at least two of them or, if the prompt was to be steered, one.

        Raises:
            NoEffectError: neurons were to be steered for one of the rows, and no token was.
        """
        first = 1 if request is not None and request.steer_from == 0 else 2  # the prompt's forward gives the first
        if request is None or not request.steering or new_tokens < first or request.steered_any():
            return
        if any(any(self.calibration.strengths(scores)) for scores in map(scores_of, items) if scores is not None):
            raise NoEffectError(
                f"the personality's neurons had no effect: of {new_tokens} generated tokens none was steered, since every "
                "forward was taken for a part of the prompt. The model keeps its context in a way unknown here; "
                'give use_cache=False, or steer_tokens="all"'
            )

    @property
    def replaced(self) -> bool:
        """Whether a call that somebody's own forward serves is running, which has its personalities already."""
        return self._state.replaced.get()

    @contextmanager
    def bound(self, kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Inside the block the running request also holds for parts of the base that are called past its forward."""
        request, state = self._state.request.get(), self._state
        call = None if request is None else self._bind(request, (), kwargs)
        token = state.replaced.set(True)
        try:
            with state.lock:
                before, state.call = state.call, call
                try:
                    yield
                finally:
                    state.call = before
        finally:
            state.replaced.reset(token)

    def watched(self, forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """``forward(*args, **kwargs)`` inside :meth:`bound`, watched as the base's own forward is."""
        if self._state.call is None or self.reach.complete:
            return forward(*args, **kwargs)
        return self.reach.run(forward, args, kwargs)

    @staticmethod
    def _bind(request: Request, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        first = prompt_of(args, kwargs)
        if first is None:
            raise DPGError("the model was called without input_ids and inputs_embeds")
        rows, length = first.shape[:2]
        return request.bind(rows, length, tokens_before(args, kwargs, length), kept_positions(kwargs))

    def only_hypernet_trains(self) -> bool:
        """Whether the hypernetwork has parameters to train, and the base none."""
        return self._trains() and not any(p.requires_grad for p in self.base.parameters())

    def _training_request(self, items: Sequence[Row], steer_from: int | Tensor) -> Request:
        assert self.hypernet is not None
        self._require_reached()
        if checkpoints(self.base) and not self.checkpointing:
            raise DPGError("enable gradient checkpointing through PersonalityModel.gradient_checkpointing_enable()")
        if not self._wide:  # whose weights travel with the call, so that recomputed layers find them
            self._prepare(training=True)
        elif self.steering is not None:
            self.device()
            self._prepare_steering()
        distinct = list(dict.fromkeys(item for item in items if item is not None))
        values = self._slot_values(distinct)
        if self._groups and not self._wide:
            values = SlotValues.make(*values[:3])
        values = values.mirrored(self._places.others)
        row_slots = self._row_slots(items, {item: i for i, item in enumerate(distinct)}, values.strengths.device)
        steers = self.steering is not None and any(scores_of(item) is not None for item in items)
        return Request(row_slots, values, True, steers, steer_from, self.options, has_stages(items))

    def _require_reached(self) -> None:
        """Raises RuntimeError when calls of the base model pass by what was changed, since somebody replaced something."""
        self._root.check()
        if not self._watch.check():
            self.reach.restart()

    def _trains(self) -> bool:
        return self.hypernet is not None and any(p.requires_grad for p in self.hypernet.parameters())

    def check_items(self, items: Sequence[Row]) -> None:
        """Raises ValueError when the model has nothing that could give one of the personalities."""
        network = self.hypernet
        if network is None and self.steering is None:
            raise DPGError(
                "this model has neither a hypernetwork nor personality neurons, so a personality would have no effect; "
                "load an adapter, or give from_model() a hypernet= or steering="
            )
        for item in items:
            character, staged = character_of(item), stage_of(item)
            if character is not None and not isinstance(network, (StoredAdapters, CombinedNetwork)):
                raise DPGError(f"{character} names a stored adapter, and this model has none")
            if staged is not None:
                if self.stages is None:
                    raise DPGError(no_stage(*staged, []))
                self.stages.token_id(*staged)
        generated = {item for item in items if is_profile(item)}
        profile = network.profile if isinstance(network, CombinedNetwork) else network
        if isinstance(profile, HyperNetwork):
            for item in generated:
                if (refusal := profile.refuses(item)) is not None:
                    raise DPGError(refusal)
        elif generated:
            if self.steering is None:
                raise DPGError(
                    "this model holds stored adapters only, which know no scores: give Character(name) or "
                    "Personality(character=name), not a Personality with scores"
                )
            usable = set(self.steering.poles)
            for item in generated:
                scores = scores_of(item)
                if scores is None or not scores.has_scores:
                    raise DPGError(
                        f"this model has no hypernetwork that reads text, and {item!r} has no scores to steer by; give it "
                        "a personality="
                    )
                wanted = [p for p in POLES if scores.scores[p.trait.position] * (1 if p.high else -1) > 0]
                absent = [str(pole) for pole in wanted if pole not in usable]
                if absent:
                    raise DPGError(f"the steering table has no neurons for {', '.join(absent)} of {item}")

    def _slot_values(self, items: Sequence[Hashable]) -> SlotValues:
        device = self.device()
        strengths = torch.zeros(len(items), len(POLES))
        for row, item in enumerate(items):
            scores = scores_of(item)
            if scores is not None and self.steering is not None:
                strengths[row] = torch.tensor(self.calibration.strengths(scores))
        if self.hypernet is None:
            empty = torch.zeros(len(items), 0, device=device)
            return SlotValues(empty, empty, strengths.to(device))
        parts = [self.hypernet.part_of(item) for item in items]
        codes_a, codes_b = self.hypernet.codes([part for part in parts if part is not None])
        if self._wide:
            bank, groups = self.hypernet.bank, self.hypernet.groups
            pairs = bank.materialise_all(codes_a, codes_b, groups, self._compute_dtype())
            if self._places.others:
                pairs = {n: (A.to(self._places.of[n]), B.to(self._places.of[n])) for n, (A, B) in pairs.items()}
            codes = one_hot(len(items), device)
            return SlotValues(codes, codes, strengths.to(device), pairs=pairs)
        if any(part is None for part in parts):  # stored adapters beside personalities that only steer neurons: code 0
            rows = torch.tensor([part is not None for part in parts]).nonzero().flatten().to(device)
            codes_a, codes_b = (
                code.new_zeros(len(items), *code.shape[1:]).index_copy(0, rows, code) for code in (codes_a, codes_b)
            )
        if self._groups:
            codes_a, codes_b = (code.transpose(0, 1).contiguous() for code in (codes_a, codes_b))
        return SlotValues(codes_a, codes_b, strengths.to(device))

    def _prepare(self, training: bool = False) -> SlotTable:
        """Bring compute copies and slots up to date with the master weights, the device and the dtype."""
        device, dtype = self.device(), self._compute_dtype()
        intact = self._surgery.intact()
        if not intact:  # layers were moved, one by one or all of them
            self._place()
        self._prepare_steering()
        if self._wide:
            return self._prepare_wide(dtype, intact)
        trunk: tuple[Any, ...] = (self._places, self.calibration)
        if self.hypernet is not None:
            bank = self.hypernet.bank
            key = (self._places, dtype, training, *((id(p), p._version) for p in bank.parameters()))
            if key != self._bank_key or training or not intact:
                self._surgery.set_bank(functools.partial(self._compute_pair, dtype, training), stacked=not training)
                self._bank_key = key
            trunk += tuple((id(p), p._version) for p in self._trunk)
        if self._table is None or trunk != self._codes_key:
            codes = self.hypernet.config.codes if self.hypernet is not None else 0
            self._table = SlotTable(codes, device, groups=self._groups, others=self._places.others)
            self._codes_key = trunk
        return self._table

    def _prepare_steering(self) -> None:
        if self.steering is not None and self._steering_places is not self._places:
            with lasting():
                self._surgery.set_steering(self.steering, self._places)
            self._steering_places = self._places

    def _prepare_wide(self, dtype: torch.dtype, intact: bool) -> SlotTable:
        """The same for a wide head: slots hold weights, which are made again when the head has changed."""
        assert self.hypernet is not None
        place = (self._places, dtype)
        made_of = (self.calibration, *((id(p), p._version) for p in self.hypernet.parameters()))
        if self._table is None or self._bank_key != place:
            config = self.hypernet.config
            self._table = WideTable(self.hypernet.sites, config.rank, self._surgery, self._places, dtype, self._moved)
            self._table.attach()
            self._bank_key, self._codes_key = place, made_of
        assert isinstance(self._table, WideTable)
        if not intact:
            self._table.attach()
        if self._codes_key != made_of:
            with torch.no_grad():
                self._table.refresh(self._slot_values)
            self._codes_key = made_of
        return self._table

    def _moved(self, values: SlotValues) -> None:
        for request in self._live.values():  # their slots are where they were, in larger buffers
            request.values = values

    def _compute_pair(self, dtype: torch.dtype, training: bool, site: str) -> tuple[Tensor, Tensor]:
        assert self.hypernet is not None
        pair: tuple[Tensor, Tensor] = self.hypernet.bank.A(site), self.hypernet.bank.B(site)
        A, B = pair if training else (pair[0].detach(), pair[1].detach())
        device = self._places.of[site]
        return A.to(device, dtype), B.to(device, dtype)

    def device(self) -> torch.device:
        """Where the base model takes its input, and slots are kept."""
        if self._mark != mark(self.base):
            self._place()
        return self._places.first

    def check_move(self, fn: Callable[[Tensor], Tensor]) -> bool:
        """Whether accelerate has placed the model.

        Raises:
            ValueError: it is, and ``fn``, about to be applied to all tensors, would move layers off their devices.
        """
        if placed_by(self.base)[0] is None:
            return False
        for device in self._places.all:
            moved = fn(torch.empty(0, device=device)).device
            if moved != device:
                raise DPGError(
                    f"accelerate runs layers of the base model on {device}, so it cannot be moved to {moved}; load it with "
                    "another device_map, or call accelerate.hooks.remove_hook_from_submodules(model.base) first"
                )
        return True

    def _place(self) -> None:
        """After the base model has moved: everything that its layers read follows."""
        found = Places.find(self.base, self.architecture)
        self._mark = mark(self.base)
        if found == self._places:
            return
        self._places = found
        self._surgery.place(found)
        if self.hypernet is not None and found.first != META:
            with lasting():
                self.hypernet.to(found.first)

    def _compute_dtype(self) -> torch.dtype:
        dtype = getattr(self.base, "dtype", None)
        return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.bfloat16

    def compile(self, **options: Any) -> None:
        """Run the base model's forward through ``torch.compile(**options)``, all of it inside the compiled region."""
        self._compile_options = options
        self._inner_forward = torch.compile(self._original_forward, **options)

    def _patch_forward(self) -> None:
        """Let the base model bind the running request, if there is one, to each of its forwards."""
        state = self._state

        # Which personality is wanted is found out here, in Python; what comes after it may be compiled as one graph.
        @functools.partial(torch.compiler.disable, recursive=False)
        def forward(*args: Any, **kwargs: Any) -> Any:
            request = state.request.get()
            call = None if request is None else self._bind(request, args, kwargs)
            token = object()
            with state.lock:
                self._running.add(token)
                before = state.put(call)  # a hook may call the model again
                try:
                    if call is None or self.reach.complete or state.reached is not None:
                        output = self._inner_forward(*args, **kwargs)
                    else:
                        output = self.reach.run(self._original_forward, args, kwargs)
                finally:
                    state.put(before)
                    self._running.discard(token)
            if request is not None and request.widen:
                output.logits = torch.nn.functional.pad(output.logits, (0, request.widen), value=-math.inf)
            return output

        self._root = Root(self.base, forward)


def _check_experts(architecture: Architecture, hypernet: AdapterNetwork | None, steering: SteeringTable | None) -> None:
    """Refuse parts that were made for a dense model on a mixture of experts; stored adapters name the layers they change."""
    networks = [] if hypernet is None else [part for part in hypernet.modules() if isinstance(part, HyperNetwork)]
    accepts = all(network.config.dense_only for network in networks) and (steering is None or steering.dense_only)
    if architecture.experts and not accepts:
        raise UnsupportedArchitectureError(architecture.mixture())


def has_stages(items: Sequence[Row]) -> bool:
    """Whether a row speaks at a stage, so that prompts may hold stage tokens."""
    return any(stage_of(item) is not None for item in items)
