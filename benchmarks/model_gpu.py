"""Whole-model steps of an 8B-shaped Llama with random weights on a GPU: decode, prefill and training, against PEFT.

Weights are random, so nothing is downloaded; times do not depend on their values. ``Settings.tiny()`` runs the same code on a
CPU, to test it.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from benchmarks.report import Absent, Line, Result
from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.architecture.sites import Site
from dpg_fast.compat.transformers import cache_argument
from dpg_fast.model.speed import peft_rival, twin
from dpg_fast.neurons import PoleNeurons, SteeringTable
from dpg_fast.personality.scores import POLES

NEURONS = 0.05  # share of all neurons in each pole's list; the released lists for Llama-3-8B hold 2 to 7%
SEED = 0
PEFT_ADAPTERS = 8  # in a mixed batch: 64 of them take 90 s of Python to build


@dataclass(frozen=True)
class Settings:
    """Shapes; Llama-3-8B's by default.

    Attributes:
        rank, codes: of the bank.
        rows: of the decode steps; each row has a personality of its own.
        context: tokens in the cache before a decode step.
        steps: decode steps in one measurement.
        prompt: tokens of the prefill.
        train_rows, train_tokens: of a training batch.
        dtype: of the weights.
    """

    hidden: int = 4096
    mlp: int = 14336
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    vocabulary: int = 128256
    rank: int = 16
    codes: int = 6
    rows: tuple[int, ...] = (64, 1)
    context: int = 256
    steps: int = 16
    prompt: int = 8192
    train_rows: int = 64
    train_tokens: int = 64
    dtype: torch.dtype = torch.bfloat16

    @classmethod
    def tiny(cls) -> Settings:
        """Two small layers in float32, for tests."""
        return cls(64, 96, 2, 4, 2, 300, 4, 6, (4, 1), 8, 2, 16, 4, 6, torch.float32)


def notes(settings: Settings) -> tuple[str, ...]:
    """What the figures mean."""
    s = settings
    return (
        f"random Llama: hidden {s.hidden}, MLP {s.mlp}, {s.layers} layers, {s.heads} heads ({s.kv_heads} for keys and values), "
        f"vocabulary {s.vocabulary}, {s.dtype}",
        f"decode: one step of every row, greedy, after {s.context} tokens, static cache, in a CUDA graph; ways that cannot be "
        "captured say eager. All share one attention mask that is made beforehand",
        f"dpg_fast: bank of {s.codes} rank-{s.rank} entries on all seven linears of a layer; neurons: five traits, a pole's "
        f"list has {NEURONS:.0%} of all neurons",
        f"PEFT: rank {s.rank} on the same linears; adapters in the model's dtype for inference, float32 as is usual for training",
        "training: forward, backward and an AdamW step of what is trained; PEFT trains one adapter, dpg_fast the whole bank and "
        f"its trunk with {s.train_rows} personalities in {s.train_rows} rows of {s.train_tokens} tokens",
        "ratios are to the first way in the same round; ways run in alternating order; those with a bank have a copy of the "
        "weights for inference (it keeps them in stacks with the bank's A side), all others share one",
    )


def run(device: str, rounds: int, settings: Settings) -> Iterator[Line]:
    """Check correctness in float32 on two layers, then time decode, prefill and training."""
    check(device, settings)
    bare = base_model(device, settings)
    name = f"Llama {settings.hidden} x {settings.layers}"
    for rows in settings.rows:
        people = f"{rows} rows, {rows} personalities" if rows > 1 else "1 row"
        yield from compare(f"{name}, decode step, {people}", decode_ways(bare, rows, settings), device, rounds)
    label = f"{name}, prefill of {settings.prompt} tokens, 1 row"
    yield from compare(label, prefill_ways(bare, settings), device, rounds)
    label = f"{name}, training step, {settings.train_rows} x {settings.train_tokens} tokens"
    yield from compare(label, training_ways(bare, settings), device, rounds)


# ---------------------------------------------------------------- models


def base_model(device: str, settings: Settings, layers: int | None = None) -> Any:
    """A random Llama made on the device."""
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.mlp,
        num_hidden_layers=layers or settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=max(settings.prompt, 2048),
        tie_word_embeddings=False,
    )
    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(settings.dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def wrap(model: Any, settings: Settings, *, lora: bool, steer: bool) -> PersonalityModel:
    """A random bank, random lists of neurons, or both, on ``model``."""
    hypernet = random_hypernet(settings, find_architecture(model).sites) if lora else None
    table = steering_table(len(find_architecture(model).mlps), settings.mlp) if steer else None
    return PersonalityModel.from_model(model, hypernet=hypernet, steering=table)


@cache
def random_hypernet(settings: Settings, sites: tuple[Site, ...]) -> HyperNetwork:
    """Made once: an 8B model's bank is a gigabyte. Ways that train it take a copy."""
    torch.manual_seed(SEED)
    hypernet = HyperNetwork(HypernetConfig(rank=settings.rank, codes=settings.codes), sites)
    hypernet.randomize_(torch.Generator().manual_seed(SEED))
    return hypernet


@cache
def steering_table(layers: int, width: int) -> SteeringTable:
    """Random lists for all ten poles."""
    g = torch.Generator().manual_seed(SEED)
    count = max(1, round(NEURONS * layers * width))
    lists = {}
    for pole in POLES:
        drawn = torch.randperm(layers * width, generator=g)[:count]
        diff, prob, p95 = (torch.rand(count, generator=g) for _ in range(3))
        lists[pole] = PoleNeurons((drawn // width).int(), (drawn % width).int(), 0.1 + 0.2 * diff, prob, p95)
    return SteeringTable(lists, layers, width)


def personalities(rows: int) -> list[Personality]:
    """As many different people, every trait away from 0."""
    g = torch.Generator().manual_seed(SEED)
    sizes = 0.5 + 4.5 * torch.rand(rows, 5, generator=g)
    signs = torch.randint(0, 2, (rows, 5), generator=g) * 2 - 1
    return [Personality.from_scores(row) for row in (sizes * signs).tolist()]


def check(device: str, settings: Settings) -> None:
    """Compare two layers with a bank with merged weights, and a row without a personality with the bare model, in float32.

    Raises:
        RuntimeError: they differ by more than float32 rounding; nothing is timed then.
    """
    small = replace(settings, dtype=torch.float32)
    base = base_model(device, small, layers=2)
    people = [*personalities(2), None]
    ids = token_ids(3, 16, settings, device)
    model = wrap(copy.deepcopy(base), small, lora=True, steer=False)
    assert model.hypernet is not None
    with torch.no_grad():
        found = model(input_ids=ids, personality=people).logits
        for row, person in enumerate(people):
            merged = copy.deepcopy(base)
            if isinstance(person, Personality):
                for name, (A, B) in model.hypernet.materialise(person).items():
                    merged.get_submodule(name).weight += model.hypernet.config.scale * (B @ A)
            expected = merged(input_ids=ids[row : row + 1]).logits[0]
            error = float((found[row] - expected).norm() / expected.norm())
            if not error < 1e-4:
                raise RuntimeError(f"row {row} ({person}) differs from merged weights by {error:.1e} (relative)")


def token_ids(rows: int, length: int, settings: Settings, device: str) -> Tensor:
    """Random tokens."""
    return torch.randint(3, settings.vocabulary, (rows, length), generator=torch.Generator().manual_seed(1)).to(device)


def speaking(model: nn.Module, people: list[Personality] | None, steer_from: int) -> AbstractContextManager[None]:
    """Forwards of the base model inside the block are given the personalities, as in ``PersonalityModel.generate``.

    The request is made outside the step, so that the step itself copies nothing from the host and can be captured.
    """
    if people is None or not isinstance(model, PersonalityModel):
        return nullcontext()
    return model.speaking(people, len(people), steer_from=steer_from)


# ---------------------------------------------------------------- ways


@dataclass
class Way:
    """One way to do the work of a group.

    Attributes:
        step: the timed call.
        context: held while it is captured or run.
        reset: called before each measurement.
        repeats: steps in one measurement.
        graph: it can be captured.
        grad: it needs gradients.
    """

    step: Callable[[], object]
    context: Callable[[], AbstractContextManager[None]] = nullcontext
    reset: Callable[[], object] = lambda: None
    repeats: int = 1
    graph: bool = False
    grad: bool = False


Build = Callable[[], Way]


def base_for(bare: Any, lora: bool) -> Any:
    """The bare model's weights in modules of their own; copied for a bank, which moves weights into stacks with its A side."""
    return copy.deepcopy(bare) if lora else twin(bare)


def peft_linears(bare: Any) -> list[str]:
    """Names of the linear layers that the bank adapts too."""
    return sorted({site.kind for site in find_architecture(bare).sites})


def decode_ways(bare: Any, rows: int, settings: Settings) -> dict[str, Build]:
    """The bare model first; PEFT's adapters in the dtype of the weights."""
    people = personalities(rows)
    who = f"{rows} personalities" if rows > 1 else "1 personality"

    def ours(lora: bool, steer: bool, given: list[Personality] | None) -> Build:
        return lambda: decode(wrap(base_for(bare, lora), settings, lora=lora, steer=steer), rows, settings, given)

    def peft(names: list[str], **kwargs: Any) -> Build:
        def build() -> Way:
            rival = peft_rival(twin(bare), names, settings.rank, peft_linears(bare))
            return decode(rival, rows, settings, None, graph=not kwargs, **kwargs)

        return build

    ways = {
        "bare model": lambda: decode(bare, rows, settings, None),
        f"dpg_fast, {who}: bank + neurons": ours(True, True, people),
        f"dpg_fast, {who}: bank": ours(True, False, people),
        f"dpg_fast, {who}: neurons": ours(False, True, people),
        "dpg_fast, no personality": ours(True, True, None),
        f"PEFT rank {settings.rank}, one adapter": peft(["one"]),
    }
    if rows > 1:
        names = [f"adapter{i}" for i in range(min(rows, PEFT_ADAPTERS))]
        of_rows = [names[i % len(names)] for i in range(rows)]
        ways[f"PEFT rank {settings.rank}, {len(names)} adapters in one batch (eager)"] = peft(
            names, adapter_names=of_rows
        )
    return ways


@torch.no_grad()
def decode(
    model: Any, rows: int, settings: Settings, people: list[Personality] | None, graph: bool = True, **kwargs: Any
) -> Way:
    """One token for every row, after a prefill of the static cache."""
    base: Any = model.base if isinstance(model, PersonalityModel) else model
    device = str(base.device)
    length = settings.context + settings.steps * 2
    cache = StaticCache(config=base.config, max_cache_len=length)
    kwargs |= cache_argument(base, cache)
    ids = token_ids(rows, settings.context, settings, device)
    with speaking(model, people, settings.context):
        base(input_ids=ids, use_cache=True, logits_to_keep=1, **kwargs)
    mask = torch.ones(rows, 1, 1, length, dtype=torch.bool, device=device)
    token = ids[:, -1:].clone()

    def step() -> object:
        logits = base(input_ids=token, attention_mask=mask, use_cache=True, logits_to_keep=1, **kwargs).logits
        return token.copy_(logits[:, -1:].argmax(-1))

    def reset() -> None:
        layers: list[Any] = list(cache.layers)
        for layer in layers:
            layer.cumulative_length.fill_(settings.context)

    return Way(step, lambda: speaking(model, people, settings.context), reset, settings.steps if graph else 2, graph)


def prefill_ways(bare: Any, settings: Settings) -> dict[str, Build]:
    """One long prompt; steering of prompt tokens is off, as in ``generate``, except where a way says otherwise."""
    device = str(bare.device)
    people = personalities(1)
    ids = token_ids(1, settings.prompt, settings, device)

    def forward(model: Any, steer_from: int | None = None) -> Way:
        base = model.base if isinstance(model, PersonalityModel) else model
        given = None if steer_from is None else people
        step = lambda: base(input_ids=ids, use_cache=False, logits_to_keep=1).logits  # noqa: E731
        return Way(step, lambda: speaking(model, given, steer_from or 0))

    def ours(lora: bool, steer: bool, steer_from: int) -> Build:
        return lambda: forward(wrap(base_for(bare, lora), settings, lora=lora, steer=steer), steer_from)

    def merged() -> Way:
        hypernet = random_hypernet(settings, find_architecture(bare).sites).to(device)
        own = copy.deepcopy(bare)
        with torch.no_grad():
            for name, (A, B) in hypernet.materialise(people[0]).items():
                weight = own.get_submodule(name).weight
                weight.copy_(weight.float() + hypernet.config.scale * (B @ A))
        return forward(own)

    return {
        "bare model": lambda: forward(bare),
        "dpg_fast, bank": ours(True, False, settings.prompt),
        "dpg_fast, bank + neurons, prompt steered": ours(True, True, 0),
        "merged weights": merged,
        f"PEFT rank {settings.rank}, one adapter": lambda: forward(
            peft_rival(twin(bare), ["one"], settings.rank, peft_linears(bare))
        ),
    }


def training_ways(bare: Any, settings: Settings) -> dict[str, Build]:
    """PEFT training one adapter is the baseline."""
    device = str(bare.device)
    ids = token_ids(settings.train_rows, settings.train_tokens, settings, device)
    people = personalities(settings.train_rows)

    def training(model: nn.Module, **kwargs: Any) -> Way:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=ids.is_cuda)

        def step() -> None:
            model(input_ids=ids, labels=ids, use_cache=False, **kwargs).loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return Way(step, grad=True)

    def peft() -> Way:
        model = peft_rival(twin(bare), ["one"], settings.rank, peft_linears(bare)).train()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return training(model)

    def ours(given: Any) -> Build:
        def build() -> Way:
            hypernet = copy.deepcopy(random_hypernet(settings, find_architecture(bare).sites))
            return training(PersonalityModel.from_model(twin(bare), hypernet=hypernet), personality=given)

        return build

    return {
        f"PEFT rank {settings.rank}, one adapter": peft,
        f"dpg_fast, {settings.train_rows} personalities": ours(people),
        "dpg_fast, one personality": ours(people[0]),
    }


# ---------------------------------------------------------------- timing


def compare(group: str, builds: Mapping[str, Build], device: str, rounds: int) -> Iterator[Line]:
    """Build all ways, then time them in alternating order; what cannot be built is listed with the reason."""
    built: dict[str, Way] = {}
    ways: dict[str, Way] = {}
    runs: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for name, build in builds.items():
            try:
                built[name] = build()
            except (ImportError, torch.OutOfMemoryError) as error:
                yield Absent(group, name, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        for name, way in built.items():  # only now: wrapping one model may still move weights that another one uses
            stack.enter_context(way.context())
            run, mode = prepared(way, device)
            ways[name + mode], runs[name + mode] = way, run
        times: dict[str, list[float]] = {name: [] for name in ways}
        names = list(ways)
        for turn in range(rounds + 1):
            for name in names if turn % 2 == 0 else reversed(names):
                seconds = timed(ways[name], runs[name], device)
                if turn:
                    times[name].append(seconds)
    for name in names:
        ratios = [own / first for own, first in zip(times[name], times[names[0]], strict=True)]
        middle = statistics.median(ratios)
        yield Result(group, name, statistics.median(times[name]) * 1e3, middle, min(ratios), max(ratios))
    for held in (built, ways, runs):
        held.clear()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def prepared(way: Way, device: str) -> tuple[Callable[[], object], str]:
    """The step as a CUDA graph if it can be one, and what to add to its name if it should have been one and is not."""
    if device != "cuda" or not way.graph:
        return way.step, ""
    way.reset()
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                way.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                way.step()
        except RuntimeError as error:
            torch.cuda.synchronize()
            return way.step, f" (eager, no graph: {str(error).splitlines()[0][:60]})"
    return graph.replay, ""


def timed(way: Way, run: Callable[[], object], device: str) -> float:
    """Seconds of one step."""
    way.reset()
    if device == "cuda":
        torch.cuda.synchronize()
    with nullcontext() if way.grad else torch.no_grad():
        start = time.perf_counter()
        for _ in range(way.repeats):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / way.repeats
