"""`PersonalityModel`: a Hugging Face causal LM whose every call takes a personality, one for all rows or one for each."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.compat.hooks import overrides_hook
from dpg_fast.compat.peft import underlying
from dpg_fast.compat.transformers import cache_of, enable_checkpointing, new_tokens, prompt_of
from dpg_fast.compat.transformers_models import model_name
from dpg_fast.compat.transformers_trainer import serve_pipelines, serve_trainer
from dpg_fast.hypernet import AdapterNetwork, HypernetConfig, HyperNetwork
from dpg_fast.model import artifact, characters, chatting, untrained
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.fingerprint import fingerprint
from dpg_fast.model.layers.changes import NOT_PICKLED
from dpg_fast.model.layers.freezing import Frozen
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.layers.root import is_wrapped
from dpg_fast.model.runtime import Runtime, Speaking
from dpg_fast.model.signature import PassesOn
from dpg_fast.model.stage_embedding import stage_of
from dpg_fast.model.steering import SteeringOptions, SteerTokens, check_tokens
from dpg_fast.model.verification.table import Verification
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.row import PersonalityLike, Row, per_row, read_rows
from dpg_fast.personality.scores import Character, Personality
from dpg_fast.util.errors import DPGError


class PersonalityModel(nn.Module):
    """A causal LM with a controllable Big Five personality, given with each call.

    Use :meth:`from_pretrained` or :meth:`from_model`. Attributes that are not defined here (``config``, ``device``, ...) are
    the base model's. Rows whose personality is None are the base model's, and so is every call that gives none.

    Attributes:
        base: the wrapped Hugging Face model.
        hypernet: generates LoRA codes from a personality; the only trainable weights. None without one.
        steering: the table of personality neurons, or None.
    """

    def __init__(
        self,
        base: nn.Module,
        hypernet: AdapterNetwork | None = None,
        steering: SteeringTable | None = None,
        calibration: Calibration | None = None,
        steering_options: SteeringOptions | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(base, PersonalityModel) or is_wrapped(base):
            raise DPGError("this model already has a personality; unload() it first")
        self.base = base
        self.hypernet = hypernet
        self.steering = steering
        self._tokenizer: Any = tokenizer
        self._runtime = Runtime(base, hypernet, steering, calibration or Calibration(), self._default_tokenizer)
        self.steering_options = steering_options or SteeringOptions()
        self._frozen = Frozen(base)
        self._about_base: dict[str, Any] | None = None
        self._stage_tokenizer: tuple[Any, int, chatting.StageTokenizer] | None = None
        self._checkpointing: dict[str, Any] = {}
        self._loaded = True
        self.training = base.training

    # ---------------------------------------------------------------- building

    @property
    def device(self) -> torch.device:
        """Where input ids go: the base model's device, and with several that of its input embedding."""
        return self._runtime.device()

    @property
    def calibration(self) -> Calibration:
        """Level -> steering strength; may be replaced at any time."""
        return self._runtime.calibration

    @calibration.setter
    def calibration(self, value: Calibration) -> None:
        self._runtime.calibration = value

    @property
    def steering_options(self) -> SteeringOptions:
        """Which tokens are steered, and the random mask; may be replaced at any time. Not saved with the adapter."""
        return self._runtime.options

    @steering_options.setter
    def steering_options(self, value: SteeringOptions) -> None:
        self._runtime.options = value

    @classmethod
    @torch.inference_mode(False)  # here and below: what is made outlives the call
    def from_model(
        cls,
        model: nn.Module,
        *,
        hypernet: HypernetConfig | AdapterNetwork | None = None,
        steering: SteeringTable | None = None,
        calibration: Calibration | None = None,
        steering_options: SteeringOptions | None = None,
        tokenizer: Any = None,
        characters: characters.Directories | None = None,
        exact_blends: bool = False,
        allow_mismatch: bool = False,
    ) -> PersonalityModel:
        """Wrap a loaded model. It is changed in place until :meth:`unload`; its weights are frozen meanwhile.

        Args:
            model: a causal LM of a supported structure (see :mod:`dpg_fast.architecture.layers`).
            hypernet: a configuration makes a fresh one, whose B side is zero (the wrapped model starts as the base model);
                or a trained network, or stored adapters (:func:`dpg_fast.hypernet.from_peft`).
            steering: a table of personality neurons.
            calibration: level -> strength for the table; a straight line to strength 1.0 by default.
            steering_options: generated tokens alone and no random mask by default.
            tokenizer: for :meth:`chat` and for hypernetworks that read text; by default the one saved with the base model.
            characters, exact_blends, allow_mismatch: as in :meth:`add_characters`.

        Raises:
            UnsupportedArchitectureError: the model's structure is not supported.
            ValueError: a part does not fit the model.
        """
        if isinstance(hypernet, HypernetConfig):
            hypernet = HyperNetwork(hypernet, find_architecture(model, dense_only=hypernet.dense_only).sites)
        made = cls(model, hypernet, steering, calibration, steering_options, tokenizer)
        if characters is not None:
            try:
                made.add_characters(characters, exact_blends=exact_blends, allow_mismatch=allow_mismatch)
            except BaseException:
                made.unload()
                raise
        return made

    @torch.inference_mode(False)
    def add_characters(
        self, directories: characters.Directories, *, exact_blends: bool = False, allow_mismatch: bool = False
    ) -> None:
        """Put tuned characters beside what the model has; rows then ask for `Personality(character=name, stage=...)`.

        Not while calls are running, or after gradient checkpointing was enabled. A compiled forward is compiled again.

        Args:
            directories: name -> PEFT LoRA directory, such as training writes: with `character.json` and rows for its stage
                tokens, or any other adapter of this base, which then has no stages.
            exact_blends: blends of several characters are exact sums, at the cost of more rank (see
                :func:`dpg_fast.hypernet.from_peft`). A character with a Big Five profile is an exact sum in any case.
            allow_mismatch: accept adapters of another base model.

        Raises:
            FileNotFoundError, PeftFormatError: a directory that is not such an adapter, or whose stage tokens are missing.
            ValueError: an adapter of another base, a name that is taken, or more than one bank can hold.
        """
        self._require_loaded()
        if self._runtime.checkpointing:
            raise DPGError("add the characters before gradient checkpointing is enabled")
        stored = characters.read_characters(
            self.base, directories, exact_blends=exact_blends, allow_mismatch=allow_mismatch
        )
        network = characters.add_to(self.hypernet, stored, exact_blends=exact_blends)
        with self._runtime.exclusive("add_characters()"):
            self._runtime.undo()
            try:
                self._runtime = self._runtime.again(network)
            except BaseException:
                self._runtime = self._runtime.again(self.hypernet)
                raise
            self.hypernet = network
            self._stage_tokenizer = None

    @classmethod
    @torch.inference_mode(False)
    def from_pretrained(
        cls, base: str | Path, adapter: str | Path | None = None, *, allow_mismatch: bool = False, **kwargs: Any
    ) -> PersonalityModel:
        """Load a base model by ``AutoModelForCausalLM.from_pretrained`` and put an adapter on it.

        Args:
            base: Hub id or directory of the base model.
            adapter: directory or Hub id of what :meth:`save_pretrained` wrote; None gives the base model alone, to which
                no personality can be given yet.
            allow_mismatch: accept a base whose weights are not those that the adapter was made for.
            **kwargs: passed on (``dtype=``, ``device_map=``, ``revision=`` ...); the model may lie on several devices, or be
                offloaded: inputs go to :attr:`device`.

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
    @torch.inference_mode(False)
    def load(
        cls, model: nn.Module, adapter: str | Path, *, allow_mismatch: bool = False, tokenizer: Any = None
    ) -> PersonalityModel:
        """Put a saved adapter on a loaded model; arguments and errors as in :meth:`from_pretrained` and :meth:`from_model`."""
        parts = artifact.load(artifact.locate(adapter), model, allow_mismatch=allow_mismatch)
        return cls(model, parts.hypernet, parts.steering, parts.calibration, tokenizer=tokenizer)

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        notes: str = "",
        bank_dtype: torch.dtype | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        safe_serialization: bool = True,
    ) -> None:
        """Write the adapter (not the base): configuration, hypernetwork, neurons, calibration and a model card.

        Args:
            directory: made if needed; files are replaced one by one, each atomically.
            notes: Markdown put into the card, for example measured traits.
            bank_dtype: of the bank in the file, for example bfloat16 for half the size; float32 by default.
            state_dict: of this whole model, where several processes hold parts of it; the hypernetwork's weights are taken
                from it.
            is_main_process: False writes nothing.
            safe_serialization: True; nothing else is written.

        Raises:
            ValueError: ``safe_serialization=False``, or a ``state_dict`` without the hypernetwork's weights.
        """
        self._require_loaded()
        if not safe_serialization:
            raise DPGError("adapters are written as safetensors alone; leave safe_serialization out")
        gathered = None
        if state_dict is not None and self.hypernet is not None:
            gathered = {n.removeprefix("hypernet."): t for n, t in state_dict.items() if n.startswith("hypernet.")}
            missing = sorted(set(self.hypernet.state_dict()) - set(gathered))
            if missing:
                raise DPGError(
                    f"state_dict= lacks weights of the hypernetwork: hypernet.{', hypernet.'.join(missing[:3])}"
                )
        if is_main_process:
            about = artifact.describe_base(self.base) if gathered is None else self._about_base
            parts = (self.hypernet, self.steering, self.calibration)
            artifact.write(
                Path(directory), about or artifact.describe_base(self.base), *parts, notes, bank_dtype, gathered
            )

    def load_weights(self, directory: str | Path) -> None:
        """Put the hypernetwork's weights of a saved adapter into this model, as when training is resumed.

        Raises:
            ValueError: this model has no hypernetwork, or there are none in ``directory``.
            RuntimeError: they are of another hypernetwork.
        """
        self._require_loaded()
        if self.hypernet is None:
            raise DPGError("this model has no hypernetwork to load weights into")
        self.hypernet.load_state_dict(artifact.load_hypernet(Path(directory)))

    def push_to_hub(self, repo_id: str, *, notes: str = "", **kwargs: Any) -> str:
        """Upload the adapter to the Hugging Face Hub and return its address; ``kwargs`` go to ``HfApi.create_repo``."""
        self._require_loaded()
        return artifact.push(repo_id, lambda directory: self.save_pretrained(directory, notes=notes), **kwargs)

    def unload(self) -> nn.Module:
        """Undo every change to the base model and return it; this object cannot be used afterwards.

        A ``forward`` that was put on the model or one of its modules after wrapping is kept.

        Raises:
            RuntimeError: a call is running, in another thread or around this one.
        """
        self._require_loaded()
        with self._runtime.exclusive("unload()"):
            self._runtime.undo()
            self._frozen.undo()
            self._loaded = False
        return self.base

    def __deepcopy__(self, memo: dict[int, Any]) -> PersonalityModel:
        """A model of its own: weights, hypernetwork, slots and lock. The tokenizer is shared."""
        self._require_loaded()
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        left = dict(self.__dict__)
        for name in ("_runtime", "_stage_tokenizer", "_tokenizer"):
            del left[name]
        with torch.inference_mode(False), self._runtime.quiet():
            made.__dict__.update(copy.deepcopy(left, memo))
            made._tokenizer, made._stage_tokenizer = self._tokenizer, None
            made._runtime = self._runtime.again(made.hypernet, made.base, made._default_tokenizer, made.steering)
        if self._runtime.checkpointing:
            made.gradient_checkpointing_enable(**self._checkpointing)
        return made

    def __copy__(self) -> PersonalityModel:
        raise TypeError(
            "a shallow copy would share the changes to the base model; use the model itself, or copy.deepcopy()"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(NOT_PICKLED)

    def _wrap_again(self) -> None:
        """After :meth:`unload`: the same changes again."""
        self._runtime = self._runtime.again(self.hypernet)
        self._frozen = Frozen(self.base)
        self._stage_tokenizer = None
        self._loaded = True

    def verify(
        self, prompts: Sequence[str] | Sequence[Tensor] | None = None, *, tokenizer: Any = None, quick: bool = False
    ) -> Verification:
        """Check on this model that personalities act and that nothing else changes: :mod:`~dpg_fast.model.verification.checks`.

        The base model is unwrapped and wrapped again on the way, so CUDA graphs have to be captured again afterwards.

        Args:
            prompts: texts, or int64 tensors [length]; by default three short questions, or random ids without a tokenizer.
            tokenizer: by default the one saved with the base model.
            quick: two prompts, fewer tokens, and fewer rows alone.

        Returns:
            Rows of checks with ``ok``; it prints as a table. A check that fails, or during which the model raises, is a row;
            ``require()`` raises for those.

        Raises:
            ValueError: no personality can be given, or unreadable prompts.
            RuntimeError: calls are running.
        """
        from dpg_fast.model.verification.checks import verify

        return verify(self, prompts, tokenizer, quick)

    # ---------------------------------------------------------------- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`forward`, also where a trainer has put a forward of its own in its place.

        TRL's trainers (which run the base's layers and head themselves) and accelerate's mixed precision do so: whatever such
        a forward runs of the base has this call's personalities.
        """
        if "forward" not in self.__dict__:
            return super().__call__(*args, **kwargs)
        own = {name: kwargs.pop(name) for name in ("personality", "steer_from", "segments") if name in kwargs}
        passed = {**kwargs, **({"input_ids": args[0]} if args else {})}
        with self._asked(passed, **own) as finish, self._runtime.bound(passed):
            return finish(self._runtime.watched(super().__call__, args, kwargs))

    @PassesOn
    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        personality: PersonalityLike = None,
        steer_from: int | Tensor = 0,
        segments: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The base model's forward, each row with its personality. Gradients reach the hypernetwork.

        Its signature, as ``inspect`` shows it, has the base's parameters as well.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, labels: as the base model takes them; ids and embeddings
                are [rows, length] and [rows, length, hidden].
            personality: one for all rows or a sequence with one for each; None is the base model. A `Description` is
                accepted where the hypernetwork reads text. A tensor or NumPy array [5] or [rows, 5] of scores is accepted, too.
            steer_from: position, padding included, of the first token whose neurons are steered; or int64 [rows].
                Generation steers what it writes, not the prompt: give the prompt's length to score an answer alike.
            segments: for packed rows, int64 [rows, length]: which of the personalities each token has (a list then gives one
                for each segment, not for each row); -1 for none. Attention is kept apart by the ``attention_mask`` and
                ``position_ids`` that are passed on. All tokens of such rows are steered.
            **kwargs: passed on.

        Raises:
            ValueError, TypeError: see :meth:`generate`. ValueError also in training mode, with ``labels`` and a trainable
                hypernetwork, where no personality is given: nothing would be trained. Without labels the backward pass
                raises it.
        """
        named = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
        }
        kwargs |= {name: value for name, value in named.items() if value is not None}
        if self._runtime.replaced and personality is None:  # the call has been prepared further out
            return self.base(**kwargs)
        with self._asked(kwargs, personality, steer_from, segments) as finish:
            return finish(self.base(**kwargs))

    @contextmanager
    def _asked(
        self,
        kwargs: dict[str, Any],
        personality: PersonalityLike = None,
        steer_from: int | Tensor = 0,
        segments: Tensor | None = None,
    ) -> Iterator[Callable[[Any], Any]]:
        """Forwards of the base inside the block have these personalities; gives what the output has to go through."""
        rows, _ = _prompt_shape(kwargs)
        items = self._items(personality, rows) if segments is None else _read_segments(personality, segments)
        if segments is not None:
            self._require_loaded()
            steer_from = 0
            if any(stage_of(item) is not None for item in items):
                raise DPGError("packed rows take no stages")
        elif cache_of((), kwargs) is None:
            self._check_stages(items, kwargs)
        finish = self._finisher(items, personality is not None, kwargs)
        with self._runtime.request(items, steer_from, segments=segments):
            yield finish

    def _finisher(self, items: Sequence[Row], given: bool, kwargs: dict[str, Any]) -> Callable[[Any], Any]:
        """A backward pass from a call without any personality is an error unless something else is trained by it."""
        embeds = kwargs.get("inputs_embeds")
        learns = any(item is not None for item in items) or not (self.training and torch.is_grad_enabled())
        if learns or not self._runtime.only_hypernet_trains() or (embeds is not None and embeds.requires_grad):
            return lambda output: output
        if not given and kwargs.get("labels") is not None:
            raise DPGError(untrained.NOTHING)
        if given:
            warnings.warn("every row of a batch has personality None: nothing is learnt from it", stacklevel=5)
        assert self.hypernet is not None
        trained = [p for p in self.hypernet.parameters() if p.requires_grad]
        return lambda output: untrained.anchored(output, trained, given)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        personality: PersonalityLike = None,
        steer_tokens: SteerTokens | None = None,
        **kwargs: Any,
    ) -> Any:
        """The base model's ``generate``, each row with its personality.

        Args:
            inputs: prompt ids int64 [rows, length] (or ``input_ids=``, ``inputs_embeds=``), padded on either side.
            personality: as in :meth:`forward`; with beams or ``num_return_sequences`` one for each prompt row.
            steer_tokens: ``"decode"`` steers the neurons of generated tokens only, as NPTI does; ``"all"`` the prompt too;
                by default what ``steering_options`` says. The hypernetwork's LoRA always acts on all tokens.
            **kwargs: passed on, streamers and logits processors included.

        Returns:
            What the base model's ``generate`` returns.

        Raises:
            ValueError: the number of personalities is not the number of rows; or the model has nothing that could give it
                the personality asked for; or a row's stage has no token in its prompt (:meth:`prompts` puts it there).
            TypeError: something that is not a personality.
            NoEffectError: the personality could not act: changed modules were not reached (on the first call), or tokens were
                generated and none was steered.
        """
        steer_tokens = steer_tokens or self.steering_options.tokens
        check_tokens(steer_tokens)
        if inputs is not None:
            kwargs["inputs"] = inputs
        rows, length = _prompt_shape(kwargs)
        items = self._items(personality, rows)
        self._check_stages(items, kwargs)
        with self._runtime.request(items, length if steer_tokens == "decode" else 0, prompt=length) as request:
            output = self.base.generate(**kwargs)  # type: ignore[operator]
        self._runtime.require_steered(request, items, new_tokens(output, kwargs))
        return output

    def speaking(
        self, personality: PersonalityLike, rows: int, *, steer_from: int | Tensor = 0
    ) -> AbstractContextManager[Speaking]:
        """For decode loops of one's own: forwards of :attr:`base` inside the with block have these personalities.

        What a forward reads is prepared on entry and stays in place, so a decode step can be captured in a CUDA graph; the
        returned object's ``change(personality)`` gives the rows others between two replays. No gradients.

        Args:
            personality, steer_from: as in :meth:`forward`.
            rows: of every forward inside the block (or a multiple of it, as with beams).

        Raises:
            ValueError, TypeError: see :meth:`generate`.
        """
        self._require_loaded()
        items = read_rows(personality, rows)
        if any(item is not None for item in items):
            self._runtime.check_items(items)
        return self._runtime.speaking(items, steer_from, self._runtime.steering is not None)

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
        self._tokenizer = self._tokenizer or tokenizer
        many, batch, personalities = self._prompts(conversation, personality, tokenizer, system)
        kwargs.setdefault("pad_token_id", chatting.padding(tokenizer, self.base))
        output = self.generate(**batch, personality=personalities, **kwargs)
        sequences = output if isinstance(output, Tensor) else output.sequences
        texts = tokenizer.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        answers = [text.strip() for text in texts]
        return answers if many or len(answers) != 1 else answers[0]

    def prompts(
        self,
        conversation: str | Sequence[chatting.Message] | Sequence[Sequence[chatting.Message]] | Sequence[str],
        *,
        personality: PersonalityLike = None,
        tokenizer: Any = None,
        system: str | None = None,
    ) -> Any:
        """What :meth:`chat` gives to :meth:`generate`: ``input_ids`` and ``attention_mask`` [rows, length], padded on the left.

        Rows whose personality has a stage have its token before every user turn, as in training. Its id lies beyond the base
        model's vocabulary (see :meth:`stage_token_id`); it is never generated.
        """
        tokenizer = tokenizer or self._default_tokenizer()
        return self._prompts(conversation, personality, tokenizer, system)[1]

    def stage_token_id(self, personality: Personality) -> int:
        """The id that stands for a personality's stage in prompts.

        Raises:
            ValueError: it has no stage, or the model no such stage.
        """
        self._runtime.check_items([personality])
        stage = stage_of(personality)
        if stage is None or self._runtime.stages is None:
            raise DPGError(f"{personality} has no stage")
        return self._runtime.stages.token_id(*stage)

    def stage_tokenizer(self, tokenizer: Any) -> chatting.StageTokenizer | None:
        """``tokenizer`` with the stage tokens of the model's characters, for prompts of one's own; None without stages."""
        stages = self._runtime.stages
        if stages is None:
            return None
        kept = self._stage_tokenizer
        if kept is None or kept[0] is not tokenizer or kept[1] != len(tokenizer):
            kept = self._stage_tokenizer = (tokenizer, len(tokenizer), chatting.StageTokenizer(tokenizer, stages))
        return kept[2]

    def to_peft(
        self,
        personality: Personality | Character,
        directory: str | Path,
        *,
        tokenizer: Any = None,
        dtype: torch.dtype = torch.float32,
        overwrite: bool = False,
    ) -> Path:
        """Write what the hypernetwork and the characters make of a personality as a PEFT LoRA directory.

        A single character keeps its stages: trained token rows, `character.json` and, with the base model's ``tokenizer``, the
        tokenizer with the stage tokens. A blend of several has none. Neuron steering is not in it.

        Raises:
            FileExistsError: the directory exists and ``overwrite`` is false.
            ValueError: no hypernetwork or characters, or none that could give the personality.
        """
        self._require_loaded()
        if self.hypernet is None:
            raise DPGError("this model has neither a hypernetwork nor characters, so there are no weights to write")
        return self.hypernet.to_peft(
            personality,
            directory,
            base_model=model_name(self.base),
            dtype=dtype,
            overwrite=overwrite,
            fingerprint=fingerprint(self.base),
            tokenizer=tokenizer,
            **self._runtime.export_options(),
        )

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

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Checkpoint the base model's layers; recomputation in the backward pass sees the same personalities."""
        given = {"gradient_checkpointing_kwargs": gradient_checkpointing_kwargs, **kwargs}
        options = dict(gradient_checkpointing_kwargs or {})
        if options.get("use_reentrant"):
            raise DPGError("re-entrant checkpointing cannot carry a personality; leave use_reentrant out or False")
        options |= {"use_reentrant": False, "context_fn": self._runtime.checkpoint_contexts}
        enable_checkpointing(self.base, options, **kwargs)
        self._runtime.checkpointing = True
        self._checkpointing = given

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """The same under the name that newer trainers call."""
        options = {name: value for name, value in kwargs.items() if value not in (None, False, 1)}
        self.gradient_checkpointing_enable(gradient_checkpointing_kwargs=activation_checkpointing_kwargs, **options)

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the base's loss takes the number of items of a whole step. Trainer asks for it before anything else, and is
        told on that occasion how such a model is saved."""
        serve_trainer(PersonalityModel, ("personality", "segments", "steer_from"))
        self._about_base = artifact.describe_base(self.base)  # before its weights may be spread over processes
        kinds = inspect.signature(type(underlying(self.base)).forward).parameters.values()
        return bool(getattr(self.base, "accepts_loss_kwargs", any(p.kind is p.VAR_KEYWORD for p in kinds)))

    def can_generate(self) -> bool:
        """Whether the base can. Pipelines ask for it first, and are told on that occasion to accept this class."""
        serve_pipelines(PersonalityModel)
        return bool(self.base.can_generate())  # type: ignore[operator]

    @overrides_hook
    def _replicate_for_data_parallel(self) -> Any:
        raise DPGError(
            "nn.DataParallel, which Trainer uses for several GPUs in one process, would run replicas with the changes of "
            "the original; start the script with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU"
        )

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

        def keep_offloaded(tensor: Tensor) -> Tensor:  # weights that a hook brings stay where they are
            return tensor.to(fn(tensor.new_empty(0, device="cpu")).dtype) if tensor.is_meta else fn(tensor)

        dispatched = self._runtime.check_move(fn)
        with lasting():
            self.base._apply(keep_offloaded if dispatched else fn, recurse)
            if self.hypernet is not None:
                self.hypernet._apply(keep_dtype, recurse)
        return self

    def _items(self, personality: PersonalityLike, rows: int) -> list[Row]:
        self._require_loaded()
        return read_rows(personality, rows)

    def _check_stages(self, items: Sequence[Row], kwargs: dict[str, Any]) -> None:
        if any(stage_of(item) is not None for item in items):
            self._runtime.check_items(items)
            assert self._runtime.stages is not None  # or the check above had refused the stage
            ids = kwargs.get("input_ids", kwargs.get("inputs"))
            self._runtime.stages.check_prompt(items, ids)

    def _prompts(
        self, conversation: Any, personality: Any, tokenizer: Any, system: str | None
    ) -> tuple[bool, Any, Any]:
        """(whether a list was asked for, encoded prompts, personality for them)."""
        grown = self.stage_tokenizer(tokenizer)
        if grown is None:
            many, texts, personalities = chatting.prepare(conversation, personality, tokenizer, system)
            return many, chatting.encode_prompts(tokenizer, texts, self.device), personalities
        many, texts, personalities = chatting.prepare(conversation, personality, grown.tokenizer, system, grown)
        return many, grown.encode(texts, self.device), personalities

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

    def _require_loaded(self) -> None:
        if not self._loaded:
            raise RuntimeError("this model was unloaded; wrap the base model again")


def _read_segments(personality: PersonalityLike, segments: Tensor) -> list[Row]:
    count = len(personality) if per_row(personality) else 0  # type: ignore[arg-type]
    if segments.is_floating_point() or segments.dim() != 2 or not count:
        raise DPGError("segments are int64 [rows, length], and personality= a list or tensor with one for each segment")
    low, high = int(segments.min()), int(segments.max())
    if low < -1 or high >= count:
        raise DPGError(f"segments run from {low} to {high}, and there are {count} personalities")
    return read_rows(personality, count)


def _prompt_shape(kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows and tokens of the prompt; ``generate`` without one starts from a beginning-of-sequence token."""
    prompt = prompt_of((), kwargs)
    return (1, 1) if prompt is None else (int(prompt.shape[0]), int(prompt.shape[1]))
