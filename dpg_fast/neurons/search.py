"""Find personality neurons: let a model answer as people of both poles and count what fires while it writes.

The run follows NPTI (arXiv 2410.12327): for each question one persona of the pole drawn at random, chat template, greedy
decoding with a repetition penalty, statistics on decode tokens only. A token counts as decoded when its position lies past
the prompt in the cache and its row has not ended; a prompt is never counted, however short.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture import Architecture, find_architecture
from dpg_fast.files import write_text
from dpg_fast.neurons.selection import PoleNeurons, select_neurons
from dpg_fast.neurons.statistics import ActivationCounter, PoleStatistics
from dpg_fast.neurons.table import SteeringTable
from dpg_fast.personality import Pole, Trait
from dpg_fast.prompting import chat_prompt, encode_prompts

PERSONA_PROMPT = (
    "{description}\n\nAnswer as this person would, in the first person. Let the views, the mood and the tone be theirs. "
    "Keep it to a few sentences."
)


@dataclass(frozen=True)
class SearchSettings:
    """How answers are generated and neurons chosen.

    NPTI used batches of 32, at most 500 new tokens, a repetition penalty of 1.1, a floor of 2,000 neurons and a threshold of
    0.1. ``seed`` draws the persona of each question.
    """

    batch_size: int = 32
    max_new_tokens: int = 64
    repetition_penalty: float = 1.1
    minimum: int = 2000
    threshold: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens", "minimum"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass
class PoleRun:
    """One pole's statistics and the answers they were counted on."""

    statistics: PoleStatistics
    answers: list[str] = field(default_factory=list)


class DecodeTap:
    """Feeds the activations of decode tokens to a counter while ``model`` generates.

    Use as a context manager around one ``generate`` call for a batch whose prompts are ``prompt_length`` tokens (padding
    included). Rows stop counting at their end-of-sequence token.
    """

    def __init__(
        self,
        model: nn.Module,
        architecture: Architecture,
        counter: ActivationCounter,
        prompt_length: int,
        eos: set[int],
    ) -> None:
        self._model = model
        self._architecture = architecture
        self._counter = counter
        self._prompt_length = prompt_length
        self._eos = torch.tensor(sorted(eos), dtype=torch.int64)
        self._ended: Tensor | None = None
        self._mask: Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> DecodeTap:
        self._handles.append(self._model.register_forward_pre_hook(self._before, with_kwargs=True))
        for mlp in self._architecture.mlps:
            self._handles.append(mlp.act_module.register_forward_hook(self._tap(mlp.layer)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        decoded = past + torch.arange(ids.shape[1], device=ids.device) >= self._prompt_length
        ended = torch.isin(ids, self._eos.to(ids.device)) & decoded
        before = self._ended if self._ended is not None else ended.new_zeros(ids.shape[0])
        ended = (ended.int().cumsum(1) > 0) | before[:, None]
        self._ended = ended[:, -1]
        self._mask = (decoded & ~ended).flatten()

    def _tap(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            assert self._mask is not None
            if bool(self._mask.any()):
                self._counter.update(layer, output.flatten(0, -2)[self._mask])

        return hook


def run_pole(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    descriptions: Sequence[str],
    settings: SearchSettings,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> PoleRun:
    """Generate one pole's persona-prompted answers and count activations.

    Args:
        model: a supported Hugging Face causal LM, bare.
        tokenizer: its tokenizer, with a chat template.
        questions: asked once each.
        descriptions: persona paragraphs of the pole; one is drawn for each question.
        settings: generation settings.
        seed: of the draw.
        progress: called with the number of questions answered by each batch.

    Raises:
        ValueError: there are no questions or no descriptions.
    """
    if not questions or not descriptions:
        raise ValueError("a search needs at least one question and one description")
    architecture = find_architecture(model)
    counter = ActivationCounter(architecture.num_layers, architecture.intermediate)
    draw = random.Random(seed)
    personas = [PERSONA_PROMPT.format(description=draw.choice(list(descriptions))) for _ in questions]
    prompts = [
        chat_prompt(tokenizer, [{"role": "user", "content": question}], system=persona)
        for question, persona in zip(questions, personas, strict=True)
    ]
    eos = _end_tokens(model, tokenizer)
    answers: list[str] = []
    for start in range(0, len(prompts), settings.batch_size):
        batch = encode_prompts(tokenizer, prompts[start : start + settings.batch_size], model.device)
        length = batch["input_ids"].shape[1]
        with DecodeTap(model, architecture, counter, length, eos), torch.inference_mode():
            output = model.generate(
                **batch,
                do_sample=False,
                max_new_tokens=settings.max_new_tokens,
                repetition_penalty=settings.repetition_penalty,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos),
            )
        answers += tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
        if progress is not None:
            progress(len(batch["input_ids"]))
    return PoleRun(counter.finish(), [answer.strip() for answer in answers])


def search_neurons(
    model: Any,
    tokenizer: Any,
    questions: Mapping[Trait, Sequence[str]],
    descriptions: Mapping[Pole, Sequence[str]],
    settings: SearchSettings | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[Pole, int], None] | None = None,
) -> SteeringTable:
    """Search the neurons of every trait in ``questions`` and build the steering table.

    Args:
        model: a supported Hugging Face causal LM, bare.
        tokenizer: its tokenizer, with a chat template.
        questions: for each trait, asked under both poles.
        descriptions: persona paragraphs for both poles of each of these traits.
        settings: generation and selection settings.
        checkpoint: a directory for each finished pole's statistics; a run that finds them there continues after them. Made
            for one model, one set of texts and settings: a different search there is refused.
        progress: called with the pole and the number of questions answered by each batch.

    Raises:
        ValueError: descriptions of a pole are missing, or the checkpoint belongs to another search.
    """
    settings = settings or SearchSettings()
    missing = [str(p) for t in questions for p in (Pole(t, True), Pole(t, False)) if not descriptions.get(p)]
    if missing:
        raise ValueError(f"descriptions are missing for {', '.join(missing)}")
    architecture = find_architecture(model)
    if checkpoint is not None:
        _claim(checkpoint, _identity(model, questions, descriptions, settings))
    neurons: dict[Pole, PoleNeurons] = {}
    for trait in questions:
        statistics: dict[bool, PoleStatistics] = {}
        for high in (True, False):
            pole = Pole(trait, high)
            file = None if checkpoint is None else checkpoint / f"{trait.value}_{'high' if high else 'low'}.safetensors"
            if file is not None and file.exists():
                statistics[high] = PoleStatistics.load(file)
                continue
            run = run_pole(
                model,
                tokenizer,
                questions[trait],
                descriptions[pole],
                settings,
                seed=settings.seed * 10 + pole.index,
                progress=None if progress is None else functools.partial(progress, pole),
            )
            statistics[high] = run.statistics
            if file is not None:
                run.statistics.save(file)
        for high in (True, False):
            neurons[Pole(trait, high)] = select_neurons(
                statistics[high], statistics[not high], minimum=settings.minimum, threshold=settings.threshold
            )
    return SteeringTable(neurons, architecture.num_layers, architecture.intermediate)


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    configured = model.generation_config.eos_token_id
    tokens = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return {token for token in tokens if token is not None}


def _identity(model: Any, questions: Any, descriptions: Any, settings: SearchSettings) -> str:
    texts = json.dumps([{str(k): list(v) for k, v in m.items()} for m in (questions, descriptions)], sort_keys=True)
    weights = [float(p.detach().float().abs().mean()) for p in list(model.parameters())[:4]]
    return hashlib.sha256(f"{texts}{settings}{weights}".encode()).hexdigest()


def _claim(checkpoint: Path, identity: str) -> None:
    marker = checkpoint / "search.sha256"
    if marker.exists():
        if marker.read_text().strip() != identity:
            raise ValueError(
                f"{checkpoint} holds another search (other model, texts or settings); use an empty directory"
            )
    else:
        write_text(marker, identity)
