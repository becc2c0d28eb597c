"""`PersonalityModel`: a Hugging Face causal LM whose every call takes a personality, one for all rows or one for each."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.compat.peft import underlying
from dpg_fast.compat.transformers import cache_of, new_tokens, prompt_of
from dpg_fast.compat.transformers_trainer import serve_pipelines, serve_trainer
from dpg_fast.hypernet import AdapterNetwork, HypernetConfig, HyperNetwork
from dpg_fast.model import characters
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.chatting import Chatting
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.saving import Saving
from dpg_fast.model.layers.freezing import Frozen
from dpg_fast.model.layers.root import is_wrapped
from dpg_fast.model.runtime import Runtime
from dpg_fast.model.speaking import Speaking
from dpg_fast.model.stage_embedding import check_beams
from dpg_fast.model.steering import SteeringOptions, SteerTokens, check_tokens
from dpg_fast.model.training.signature import PassesOn
from dpg_fast.model.training.trainable import Trainable
from dpg_fast.model.verification.table import Verification
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.row import PersonalityLike, Row, per_row, read_rows
from dpg_fast.util.errors import DPGError


class PersonalityModel(Saving, Chatting, Trainable):
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
        self._tokenizer = tokenizer
        self._runtime = Runtime(base, hypernet, steering, calibration or Calibration(), self._default_tokenizer)
        self.steering_options = steering_options or SteeringOptions()
        self._frozen = Frozen(base)
        self._about_base = None
        self._notes = ""
        self._stage_tokenizer = None
        self._checkpointing = {}
        self._loaded = True
        self.training = base.training

    # ---------------------------------------------------------------- building

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
        self._require_loaded()
        if segments is not None:
            steer_from, rows = 0, _read_segments(personality, segments)
            if any(row is not None and row.stage is not None for row in rows):
                raise DPGError("packed rows take no stages")
        else:
            prompt = prompt_of((), kwargs)
            rows = read_rows(personality, 1 if prompt is None else len(prompt))
        speaking = Speaking(self._runtime, rows, steer_from, segments=segments)
        if speaking.stages and cache_of((), kwargs) is None:
            self._runtime.check_stages(rows, kwargs)
        finish = self._finisher(rows, personality is not None, kwargs)
        with speaking:
            yield finish

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
        if not self._loaded:
            self._require_loaded()
        if inputs is not None:
            kwargs["inputs"] = inputs
        runtime = self._runtime
        if steer_tokens is None:
            steer_tokens = runtime.options.tokens
        else:
            check_tokens(steer_tokens)
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if prompt is None:
            prompt = prompt_of((), kwargs)
        # without a prompt, generate() starts from a beginning-of-sequence token
        count, length = (1, 1) if prompt is None else (int(prompt.shape[0]), int(prompt.shape[1]))
        rows = read_rows(personality, count)
        speaking = Speaking(runtime, rows, length if steer_tokens == "decode" else 0, prompt=length)
        if speaking.stages:
            runtime.check_stages(rows, kwargs)
            check_beams(runtime.base, kwargs)
        with speaking:
            output = runtime.base.generate(**kwargs)  # type: ignore[operator]
        speaking.require_steered(new_tokens(output, kwargs))
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
        asked = read_rows(personality, rows)
        self._runtime.check(asked)
        return Speaking(self._runtime, asked, steer_from, changing=True)

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


def _read_segments(personality: PersonalityLike, segments: Tensor) -> list[Row | None]:
    count = len(personality) if per_row(personality) else 0  # type: ignore[arg-type]
    if segments.is_floating_point() or segments.dim() != 2 or not count:
        raise DPGError("segments are int64 [rows, length], and personality= a list or tensor with one for each segment")
    low, high = int(segments.min()), int(segments.max())
    if low < -1 or high >= count:
        raise DPGError(f"segments run from {low} to {high}, and there are {count} personalities")
    return read_rows(personality, count)
