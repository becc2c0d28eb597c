"""A whole PersonalityModel on the CUDA kernels: right numbers, captured steps that follow a change, generate()."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, StaticCache

from benchmarks import model_gpu
from benchmarks.gpu_run.place import Place
from benchmarks.gpu_run.record import Item, Values
from benchmarks.model_gpu import Settings, base_model, personalities, token_ids, wrap
from dpg_fast import PersonalityModel
from dpg_fast.compat.transformers import cache_argument
from dpg_fast.kernels import use_backend
from dpg_fast.kernels.testing import relative_error

ROWS, PROMPT, NEW = 4, 12, 32
#: relative, of logits in float32 and in the other dtypes; over the emulator float32 is 3e-7
LIMITS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def settings_of(place: Place, *, large: bool) -> Settings:
    """A tiny float32 model, or two layers of the place's own shape and dtype."""
    return replace(place.settings, layers=2) if large else Settings.tiny()


def models(place: Place, settings: Settings) -> tuple[Any, PersonalityModel]:
    """The bare model, and one with bank and neurons on the same weights."""
    base = base_model(place.device, settings)
    return base, wrap(copy.deepcopy(base), settings, lora=True, steer=True)


@torch.no_grad()
def agrees(place: Place, settings: Settings) -> Values:
    """Logits of a mixed batch against the reference backend; a row without a personality against the bare model.

    Raises:
        AssertionError: further apart than `LIMITS`, or the row's bits are not the bare model's.
    """
    base, model = models(place, settings)
    people = [*personalities(ROWS - 1), None]
    ids = token_ids(ROWS, PROMPT, settings, place.device)
    found = model(input_ids=ids, personality=people).logits
    with use_backend("reference"):
        expected = model(input_ids=ids, personality=people).logits
    bare = base(input_ids=ids).logits
    with use_backend("reference"):
        nobody = model(input_ids=ids).logits
    error, limit = relative_error(found, expected), LIMITS[settings.dtype]
    assert error <= limit, f"logits differ from the reference's by {error:.1e} (limit {limit:.0e})"
    assert relative_error(found[:-1], bare[:-1]) > 1e-3, "the personalities have no effect"
    # One stacked product gives the base's outputs and the bank's: a wider product may be summed in another order.
    apart = relative_error(found[-1], bare[-1])
    assert apart <= limit, f"a row without a personality differs from the bare model by {apart:.1e}"
    return {
        "error": error,
        "row without personality": apart,
        "its bits are the bare model's": torch.equal(found[-1], bare[-1]),
        "model without personality": relative_error(nobody, bare),
    }


@torch.no_grad()
def follows_a_change(place: Place, settings: Settings) -> Values:
    """One decode step, captured; after `change` a replay gives what a fresh eager step with the new personalities gives,
    to 1e-3 (a personality changes far more).

    Raises:
        AssertionError: it gives something else, or the buffers moved.
    """
    _, model = models(place, settings)
    everyone = personalities(2 * ROWS)
    first, second = everyone[:ROWS], everyone[ROWS:]
    expected = [_fresh(model, people, settings, place) for people in (first, second)]
    with _at_step(model, first, settings, place.device) as (speaking, step):
        replay, out = place.captured(step)
        replay()
        before = out.clone()
        kept = speaking.change(second)
        replay()
        after = out.clone()
        speaking.change([*second[:-1], None])
        replay()
        mixed = out.clone()
    pairs = list(zip((before, after), expected, strict=True))
    assert max(relative_error(*pair) for pair in pairs) < 1e-3, "a replay is not what an eager step gives"
    assert kept, "change() moved the buffers: captured graphs are stale"
    assert torch.equal(mixed[:-1], after[:-1]) and not torch.equal(mixed[-1], after[-1])
    assert relative_error(after, before) > 1e-3, "the change has no effect"
    bits = all(torch.equal(*pair) for pair in pairs)
    return {
        "changed by": relative_error(after, before),
        "bits of eager steps": bits,
        "captured": place.device == "cuda",
    }


def _fresh(model: PersonalityModel, people: Any, settings: Settings, place: Place) -> Tensor:
    with _at_step(model, people, settings, place.device) as (_, step):
        return step().clone()  # type: ignore[no-any-return]


@contextmanager
def _at_step(model: PersonalityModel, people: Any, settings: Settings, device: str) -> Iterator[tuple[Any, Any]]:
    """(speaking, step): after a prompt in a static cache; each step computes the same position again."""
    base: Any = model.base
    cache = StaticCache(config=base.config, max_cache_len=PROMPT + 4)
    kwargs = cache_argument(base, cache)
    ids = token_ids(len(people), PROMPT + 1, settings, device)
    mask = torch.ones(len(people), 1, 1, PROMPT + 4, dtype=torch.bool, device=device)
    mask[..., PROMPT + 1 :] = False
    last = ids[:, -1:].clone()
    layers: list[Any] = list(cache.layers)
    # without a personality in the prompt: its keys and values are the same for all
    base(input_ids=ids[:, :-1], use_cache=True, **kwargs)
    with model.speaking(people, len(people), steer_from=PROMPT) as speaking:

        def step() -> Tensor:
            for layer in layers:
                layer.cumulative_length.fill_(PROMPT)
            logits: Tensor = base(input_ids=last, attention_mask=mask, use_cache=True, **kwargs).logits
            return logits

        yield speaking, step


@torch.no_grad()
def generates(place: Place, settings: Settings) -> Values:
    """generate() with a static cache, compiled as transformers does it: eager's tokens, and how many graphs were recorded.

    Two requests of `NEW` tokens; after the first step of the first one nothing should be recorded again.
    """
    _, model = models(place, settings)
    everyone = personalities(2 * ROWS)
    ids = token_ids(ROWS, PROMPT, settings, place.device)
    model.base.generation_config.pad_token_id = 0
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "cache_implementation": "static"}
    options["attention_mask"] = torch.ones_like(ids)
    config = CompileConfig()
    if place.device != "cuda":
        config = CompileConfig(fullgraph=False, backend="aot_eager", mode=None)
        config._compile_all_devices = True
    torch._dynamo.reset()
    counts, alike = [], []
    with recordings() as recorded:
        for people in (everyone[:ROWS], everyone[ROWS:]):
            before = len(recorded)
            found = model.generate(ids, personality=people, compile_config=config, **options)
            counts.append(len(recorded) - before)
            expected = model.generate(ids, personality=people, disable_compile=True, **options)
            alike.append(float((found == expected).float().mean()))
    torch._dynamo.reset()
    if settings.dtype == torch.float32:
        assert min(alike) == 1.0, f"{min(alike):.1%} of the tokens are those of eager generation"
    return {"tokens as in eager generation": alike, "CUDA graphs recorded for each request": counts}


@contextmanager
def recordings() -> Iterator[list[str]]:
    """Within the block each CUDA graph that Inductor records is added to the list."""
    from torch._inductor import cudagraph_trees

    manager: Any = cudagraph_trees.CUDAGraphTreeManager
    original, found = manager.record_function, []

    def record_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        found.append("recorded")
        return original(self, *args, **kwargs)

    manager.record_function = record_function
    try:
        yield found
    finally:
        manager.record_function = original


def items(place: Place) -> Iterator[Item]:
    """Small before large, and what compiles last."""
    for large in (False, True):
        settings = settings_of(place, large=large)
        name = f"{'two layers' if large else 'tiny'} {settings.hidden} {str(settings.dtype).removeprefix('torch.')}"
        yield Item(f"agrees with the reference, {name}", lambda s=settings: agrees(place, s))  # type: ignore[misc]
        yield Item(f"captured step follows change(), {name}", lambda s=settings: follows_a_change(place, s))  # type: ignore[misc]
    yield Item("two layers against merged weights", lambda: model_gpu.check(place.device, place.settings) or {})
    for large in (False, True):
        settings = settings_of(place, large=large)
        name = f"{'two layers' if large else 'tiny'} {settings.hidden} {str(settings.dtype).removeprefix('torch.')}"
        yield Item(f"generate, static cache, {name}", lambda s=settings: generates(place, s))  # type: ignore[misc]
