"""`PersonalityModel`: a Hugging Face causal LM whose every call takes a personality, one for all rows or one for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpg_fast.architecture import find_architecture
from dpg_fast.hypernet import AdapterNetwork, HypernetConfig, HyperNetwork, StoredAdapters
from dpg_fast.model import artifact, chatting
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.request import CallState, Request, tokens_in_cache
from dpg_fast.model.rows import PersonalityLike, Row, read_rows
from dpg_fast.model.slots import SlotTable, SlotValues
from dpg_fast.model.surgery import Surgery
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality import POLES, Character, Personality

SteerTokens = Literal["decode", "all"]


class PersonalityModel(nn.Module):
    """A causal LM with a controllable Big Five personality, given with each call.

    Use :meth:`from_pretrained` or :meth:`from_model`. Attributes that are not defined here (``config``, ``device``, ...) are
    the base model's. Rows whose personality is None are the base model's, and so is every call that gives none.

    Attributes:
        base: the wrapped Hugging Face model.
        hypernet: generates LoRA codes from a personality; the only trainable weights. None without one.
        steering: the table of personality neurons, or None.
        calibration: level -> steering strength.
    """

    def __init__(
        self,
        base: nn.Module,
        hypernet: AdapterNetwork | None = None,
        steering: SteeringTable | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        if isinstance(base, PersonalityModel) or ("forward" in base.__dict__ and hasattr(base.forward, "dpg_state")):
            raise ValueError("this model already has a personality; unload() it first")
        architecture = find_architecture(base)
        if steering is not None and (steering.num_layers, steering.intermediate) != (
            architecture.num_layers,
            architecture.intermediate,
        ):
            raise ValueError(
                f"the steering table is for {steering.num_layers} layers of {steering.intermediate} neurons, the model has "
                f"{architecture.num_layers} of {architecture.intermediate}"
            )
        devices = {parameter.device for parameter in base.parameters()}
        if len(devices) != 1:
            raise ValueError(f"the base model is spread over {sorted(map(str, devices))}; one device is accepted")
        sites = hypernet.sites if hypernet is not None else ()
        unknown = [site.name for site in sites if site not in architecture.sites]
        if unknown:
            raise ValueError(f"the bank has entries for layers that the model lacks: {', '.join(unknown[:5])}")
        self.base = base
        self.hypernet = hypernet
        self.steering = steering
        self.calibration = calibration or Calibration()
        self._state = CallState()
        scale = hypernet.config.scale if hypernet is not None else 1.0
        names = {site.name for site in sites}
        self._surgery = Surgery(architecture, self._state, names, scale, steering is not None)
        self._trainable = [p for p in base.parameters() if p.requires_grad]
        for parameter in self._trainable:
            parameter.requires_grad_(False)
        self._trunk_parameters = (
            [p for name, p in hypernet.named_parameters() if not name.startswith("bank.")]
            if hypernet is not None
            else []
        )
        self._table: SlotTable | None = None
        self._bank_key: tuple[Any, ...] | None = None
        self._codes_key: tuple[Any, ...] | None = None
        self._steering_device: torch.device | None = None
        self._checkpointing = False
        self._tokenizer: Any = None
        self._loaded = True
        if hypernet is not None:
            hypernet.to(next(iter(devices)))
        self.training = base.training
        _patch_forward(base, self._state)

    # ---------------------------------------------------------------- building

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        *,
        hypernet: HypernetConfig | AdapterNetwork | None = None,
        steering: SteeringTable | None = None,
        calibration: Calibration | None = None,
    ) -> PersonalityModel:
        """Wrap a loaded model. It is changed in place until :meth:`unload`; its weights are frozen meanwhile.

        Args:
            model: a causal LM of a supported structure (see :mod:`dpg_fast.architecture`).
            hypernet: a configuration makes a fresh one, whose B side is zero (the wrapped model starts as the base model);
                or a trained network, or stored adapters (:func:`dpg_fast.hypernet.from_peft`).
            steering: a table of personality neurons.
            calibration: level -> strength for the table; a straight line to strength 1.0 by default.

        Raises:
            UnsupportedArchitectureError: the model's structure is not supported.
            ValueError: a part does not fit the model.
        """
        if isinstance(hypernet, HypernetConfig):
            hypernet = HyperNetwork(hypernet, find_architecture(model).sites)
        return cls(model, hypernet, steering, calibration)

    @classmethod
    def from_pretrained(
        cls, base: str | Path, adapter: str | Path | None = None, *, allow_mismatch: bool = False, **kwargs: Any
    ) -> PersonalityModel:
        """Load a base model by ``AutoModelForCausalLM.from_pretrained`` and put an adapter on it.

        Args:
            base: Hub id or directory of the base model.
            adapter: directory or Hub id of what :meth:`save_pretrained` wrote; None gives the base model alone, to which
                no personality can be given yet.
            allow_mismatch: accept a base whose weights are not those that the adapter was made for.
            **kwargs: passed on (``dtype=``, ``device_map=``, ``revision=`` ...).

        Raises:
            ValueError: the adapter was made for another base.
        """
        from transformers import AutoModelForCausalLM

        directory = None if adapter is None else artifact.locate(adapter)  # before the base, which takes long to load
        model = AutoModelForCausalLM.from_pretrained(str(base), **kwargs)
        if directory is None:
            return cls(model)
        return cls.load(model, directory, allow_mismatch=allow_mismatch)

    @classmethod
    def load(cls, model: nn.Module, adapter: str | Path, *, allow_mismatch: bool = False) -> PersonalityModel:
        """Put a saved adapter on a loaded model; arguments and errors as in :meth:`from_pretrained`."""
        parts = artifact.load(artifact.locate(adapter), model, allow_mismatch=allow_mismatch)
        return cls(model, parts.hypernet, parts.steering, parts.calibration)

    def save_pretrained(self, directory: str | Path, *, notes: str = "") -> None:
        """Write the adapter (not the base): configuration, hypernetwork, neurons, calibration and a model card.

        Args:
            directory: made if needed; files are replaced one by one, each atomically.
            notes: Markdown put into the card, for example measured traits.
        """
        self._require_loaded()
        artifact.save(Path(directory), self.base, self.hypernet, self.steering, self.calibration, notes)

    def push_to_hub(self, repo_id: str, *, notes: str = "", **kwargs: Any) -> str:
        """Upload the adapter to the Hugging Face Hub and return its address; ``kwargs`` go to ``HfApi.create_repo``."""
        self._require_loaded()
        return artifact.push(repo_id, lambda directory: self.save_pretrained(directory, notes=notes), **kwargs)

    def unload(self) -> nn.Module:
        """Undo every change to the base model and return it; this object cannot be used afterwards."""
        self._require_loaded()
        self._surgery.undo()
        del self.base.__dict__["forward"]
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._loaded = False
        return self.base

    # ---------------------------------------------------------------- calling

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        personality: PersonalityLike = None,
        steer_from: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """The base model's forward, each row with its personality. Gradients reach the hypernetwork.

        Args:
            input_ids: int64 [rows, length] (or ``inputs_embeds=``).
            personality: one for all rows or a sequence with one for each; None is the base model. A float tensor [5] or
                [rows, 5] of scores is accepted for training.
            steer_from: position, padding included, of the first token whose neurons are steered; or int64 [rows].
                Generation steers what it writes, not the prompt: give the prompt's length to score an answer alike.
            **kwargs: passed on.

        Raises:
            ValueError, TypeError: see :meth:`generate`.
        """
        if input_ids is not None:
            kwargs["input_ids"] = input_ids
        with self._request(personality, _count_rows(kwargs), steer_from):
            return self.base(**kwargs)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        personality: PersonalityLike = None,
        steer_tokens: SteerTokens = "decode",
        **kwargs: Any,
    ) -> Any:
        """The base model's ``generate``, each row with its personality.

        Args:
            inputs: prompt ids int64 [rows, length] (or ``input_ids=``, ``inputs_embeds=``), padded on either side.
            personality: as in :meth:`forward`; with beams or ``num_return_sequences`` one for each prompt row.
            steer_tokens: ``"decode"`` steers the neurons of generated tokens only, as NPTI does; ``"all"`` the prompt too.
                The hypernetwork's LoRA always acts on all tokens.
            **kwargs: passed on, streamers and logits processors included.

        Returns:
            What the base model's ``generate`` returns.

        Raises:
            ValueError: the number of personalities is not the number of rows; or the model has nothing that could give it
                the personality asked for.
            TypeError: something that is not a personality.
        """
        if steer_tokens not in ("decode", "all"):
            raise ValueError(f'steer_tokens is {steer_tokens!r}; accepted: "decode", "all"')
        if inputs is not None:
            kwargs["inputs"] = inputs
        rows = _count_rows(kwargs)
        start = _prompt_length(kwargs) if steer_tokens == "decode" else 0
        with self._request(personality, rows, start):
            return self.base.generate(**kwargs)  # type: ignore[operator]

    def chat(
        self,
        conversation: str | Sequence[chatting.Message] | Sequence[Sequence[chatting.Message]] | Sequence[str],
        *,
        personality: PersonalityLike = None,
        tokenizer: Any = None,
        system: str | None = None,
        **kwargs: Any,
    ) -> str | list[str]:
        """Answer a conversation in the model's chat format and return the text.

        Args:
            conversation: a question, a list of messages, or a list of several such conversations. One conversation with a
                list of personalities is answered by each of them, in one batch.
            personality: as in :meth:`generate`.
            tokenizer: by default the one saved with the base model.
            system: an instruction put before the conversation.
            **kwargs: passed to :meth:`generate` (``max_new_tokens``, ``do_sample``, ``streamer`` ...).

        Returns:
            One text, or a list when several conversations or personalities were given.
        """
        tokenizer = tokenizer or self._default_tokenizer()
        many, prompts, personalities = chatting.prepare(conversation, personality, tokenizer, system)
        batch = chatting.encode_prompts(tokenizer, prompts, self.device)
        kwargs.setdefault("pad_token_id", chatting.padding(tokenizer, self.base))
        output = self.generate(**batch, personality=personalities, **kwargs)
        sequences = output if isinstance(output, Tensor) else output.sequences
        texts = tokenizer.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        answers = [text.strip() for text in texts]
        return answers if many or len(answers) != 1 else answers[0]

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Checkpoint the base model's layers; recomputation in the backward pass sees the same personalities."""
        options = dict(kwargs.pop("gradient_checkpointing_kwargs", None) or {})
        if options.get("use_reentrant"):
            raise ValueError("re-entrant checkpointing cannot carry a personality; leave use_reentrant out or False")
        options |= {"use_reentrant": False, "context_fn": self._checkpoint_contexts}
        self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options, **kwargs)  # type: ignore[operator]
        self._checkpointing = True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base", "_modules"):
                raise
            return getattr(super().__getattr__("base"), name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PersonalityModel:
        def keep_dtype(tensor: Tensor) -> Tensor:  # master weights stay float32 when the model is cast
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        self.base._apply(fn, recurse)
        if self.hypernet is not None:
            self.hypernet._apply(keep_dtype, recurse)
        return self

    # ---------------------------------------------------------------- inside

    @contextmanager
    def _request(self, personality: PersonalityLike, rows: int, steer_from: int | Tensor) -> Iterator[None]:
        self._require_loaded()
        items = read_rows(personality, rows)
        if all(item is None for item in items):
            with self._activated(None):
                yield
            return
        self._check_items(items)
        if torch.is_grad_enabled() and any(p.requires_grad for p in self._hypernet_parameters()):
            with self._activated(self._training_request(items, steer_from)):
                yield
            return
        with self._state.lock:
            table = self._prepare()
            distinct = list(dict.fromkeys(item for item in items if item is not None))
            slots = table.acquire(distinct, self._slot_values)
            values = table.values
        try:
            number = dict(zip(distinct, slots, strict=True))
            rows_slots = [-1 if item is None else number[item] for item in items]
            with self._activated(self._make_request(rows_slots, values, items, steer_from)):
                yield
        finally:
            with self._state.lock:
                table.release(slots)

    @contextmanager
    def _activated(self, request: Request | None) -> Iterator[None]:
        token = self._state.request.set(request)
        try:
            yield
        finally:
            self._state.request.reset(token)

    def _make_request(
        self, slots: Sequence[int], values: SlotValues, items: Sequence[Row], steer_from: int | Tensor
    ) -> Request:
        steers = self.steering is not None and any(isinstance(item, Personality) for item in items)
        row_slots = torch.tensor(slots, dtype=torch.int32, device=values.strengths.device)
        return Request(row_slots, values, self.hypernet is not None, steers, steer_from)

    def _training_request(self, items: Sequence[Row], steer_from: int | Tensor) -> Request:
        assert self.hypernet is not None
        checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in self.base.modules())
        if checkpointing and not self._checkpointing:
            raise ValueError("enable gradient checkpointing through PersonalityModel.gradient_checkpointing_enable()")
        self._prepare(training=True)
        distinct = list(dict.fromkeys(item for item in items if item is not None))
        number = {item: index for index, item in enumerate(distinct)}
        values = self._slot_values(distinct)
        return self._make_request([-1 if i is None else number[i] for i in items], values, items, steer_from)

    def _hypernet_parameters(self) -> Iterator[nn.Parameter]:
        return iter(()) if self.hypernet is None else self.hypernet.parameters()

    def _check_items(self, items: Sequence[Row]) -> None:
        personalities = {item for item in items if isinstance(item, Personality)}
        characters = {item for item in items if isinstance(item, Character)}
        if self.hypernet is None and self.steering is None:
            raise ValueError(
                "this model has neither a hypernetwork nor personality neurons, so a personality would have no effect; "
                "load an adapter, or give from_model() a hypernet= or steering="
            )
        if characters and not isinstance(self.hypernet, StoredAdapters):
            raise ValueError(f"{next(iter(characters))} names a stored adapter, and this model has none")
        if personalities and not isinstance(self.hypernet, HyperNetwork):
            if self.steering is None:
                raise ValueError("this model holds stored adapters only: give Character(name), not a Personality")
            usable = set(self.steering.poles)
            for item in personalities:
                wanted = [p for p in POLES if item.scores[p.trait.position] * (1 if p.high else -1) > 0]
                absent = [str(pole) for pole in wanted if pole not in usable]
                if absent:
                    raise ValueError(f"the steering table has no neurons for {', '.join(absent)} of {item}")

    def _slot_values(self, items: Sequence[Hashable]) -> SlotValues:
        device = self._device()
        strengths = torch.zeros(len(items), len(POLES))
        for row, item in enumerate(items):
            if isinstance(item, Personality) and self.steering is not None:
                strengths[row] = torch.tensor(self.calibration.strengths(item))
        if self.hypernet is None:
            empty = torch.zeros(len(items), 0, device=device)
            return SlotValues(empty, empty, strengths.to(device))
        kind = Character if isinstance(self.hypernet, StoredAdapters) else Personality
        taken = [item for item in items if isinstance(item, kind)]
        codes_a, codes_b = self.hypernet.codes(taken)
        if len(taken) < len(items):  # stored adapters beside personalities that only steer neurons: those have code 0
            rows = torch.tensor([isinstance(item, kind) for item in items]).nonzero().flatten().to(device)
            codes_a, codes_b = (
                code.new_zeros(len(items), code.shape[1]).index_copy(0, rows, code) for code in (codes_a, codes_b)
            )
        return SlotValues(codes_a, codes_b, strengths.to(device))

    def _prepare(self, training: bool = False) -> SlotTable:
        """Bring compute copies and slots up to date with the master weights, the device and the dtype."""
        device, dtype = self._device(), self._compute_dtype()
        if self.steering is not None and self._steering_device != device:
            self._surgery.set_steering(self.steering, device)
            self._steering_device = device
        trunk: tuple[Any, ...] = (device, self.calibration)
        if self.hypernet is not None:
            bank = self.hypernet.bank
            key = (device, dtype, training, *((id(p), p._version) for p in bank.parameters()))
            if key != self._bank_key or training:
                self._surgery.set_bank(functools.partial(self._compute_pair, dtype, training))
                self._bank_key = key
            trunk += tuple((id(p), p._version) for p in self._trunk_parameters)
        if self._table is None or trunk != self._codes_key:
            codes = self.hypernet.config.codes if self.hypernet is not None else 0
            self._table = SlotTable(codes, device)
            self._codes_key = trunk
        return self._table

    def _compute_pair(self, dtype: torch.dtype, training: bool, site: str) -> tuple[Tensor, Tensor]:
        assert self.hypernet is not None
        pair: tuple[Tensor, Tensor] = self.hypernet.bank.A(site), self.hypernet.bank.B(site)
        A, B = pair if training else (pair[0].detach(), pair[1].detach())
        return A.to(dtype), B.to(dtype)

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        call = self._state.call

        @contextmanager
        def recompute() -> Iterator[None]:
            with self._state.lock:
                before, self._state.call = self._state.call, call
                try:
                    yield
                finally:
                    self._state.call = before

        return nullcontext(), recompute()

    def _device(self) -> torch.device:
        return next(self.base.parameters()).device

    def _compute_dtype(self) -> torch.dtype:
        dtype = self.base.dtype
        return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.bfloat16

    def _default_tokenizer(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.base.config._name_or_path)  # type: ignore[union-attr]
        return self._tokenizer

    def _require_loaded(self) -> None:
        if not self._loaded:
            raise RuntimeError("this model was unloaded; wrap the base model again")


def _patch_forward(base: nn.Module, state: CallState) -> None:
    """Let ``base`` bind the running request, if there is one, to each of its forwards."""
    original = base.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        request = state.request.get()
        call = None
        if request is not None:
            first = kwargs.get("input_ids", args[0] if args else None)
            if first is None:
                first = kwargs["inputs_embeds"]
            call = request.bind(first.shape[0], first.shape[1], tokens_in_cache(kwargs.get("past_key_values")))
        with state.lock:
            state.call = call
            try:
                return original(*args, **kwargs)
            finally:
                state.call = None

    forward.dpg_state = state  # type: ignore[attr-defined]
    base.forward = forward  # type: ignore[method-assign]


def _count_rows(kwargs: dict[str, Any]) -> int:
    for name in ("input_ids", "inputs", "inputs_embeds"):
        if kwargs.get(name) is not None:
            return int(kwargs[name].shape[0])
    return 1  # generate() without a prompt starts from one beginning-of-sequence token


def _prompt_length(kwargs: dict[str, Any]) -> int:
    for name in ("input_ids", "inputs", "inputs_embeds"):
        if kwargs.get(name) is not None:
            return int(kwargs[name].shape[1])
    return 1
