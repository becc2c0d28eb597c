"""``dpg-fast verify --engine vllm``: does the plugin act on this machine, and leave alone what it should?"""

from __future__ import annotations

import gc
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from dpg_fast.model.loading import load_wrapped
from dpg_fast.model.verification.table import Check, Verification
from dpg_fast.util.models import BUNDLED, load_base
from dpg_fast.vllm.front import KEY
from dpg_fast.vllm.options import LOAD_FORMAT

__all__ = ["PROMPTS", "verify_vllm"]

PROMPTS = ("Hello, my name is", "The weather today", "A stranger sits down beside me on the train. I")
PEOPLE = (None, "E+5", "E-5 N+4", "leader", "O+2.5 C-3 A+1", "neutral", "N+5")
MALFORMED: tuple[Any, ...] = ("", "E+9", "E+4 E-2", "warm", "E+1 " * 1000, [1, 2, 3], 4, "@nobody", {"E": "high"})
TOKENS = 16
RECYCLED = 1000
#: growth of the engine's memory over the recycled personalities, in MiB; caches of the allocator move it by a few
MEMORY = 64.0

Answers = list[list[int]]
LONG = PROMPTS[2] * 20  # more than a block of the prefix cache, and more than a step takes: its prefill is cut


def verify_vllm(base_model: str, adapter: str, dtype: torch.dtype, quick: bool) -> Verification:
    """Check the plugin with a base model and an adapter.

    Args:
        base_model: directory or Hub id, or "smollm2".
        adapter: as the option of the plugin.
        dtype: of the engine.
        quick: eager, fewer people, and a tenth of the recycled personalities.

    Raises:
        ValueError: the engine or the adapter is refused.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, whose memory is the engine's
    people = PEOPLE[:4] if quick else PEOPLE
    pairs = [(prompt, person) for prompt in PROMPTS for person in people]
    found: list[Check] = []
    with _directory(base_model, dtype) as directory:
        settings = {"dtype": str(dtype).removeprefix("torch."), "enforce_eager": quick}
        with _engine(directory, **settings) as engine:
            bare = _answers(engine, [(prompt, None) for prompt in PROMPTS])
            bare_speed = _speed(engine, None)
        with _engine(directory, **settings, **_plugin(adapter)) as engine:
            plain = _answers(engine, [(prompt, None) for prompt in PROMPTS])
            found.append(_same("plain requests", "the engine without the plugin", plain, bare))
            mixed = _answers(engine, pairs)
            alone = [answer for pair in pairs for answer in _answers(engine, [pair])]
            found.append(_same("a mixed batch", "each request alone", mixed, alone))
            if dtype is torch.float32:
                found.append(
                    _same("personalities", "generate() of transformers", mixed, _generated(directory, adapter, pairs))
                )
            found.append(_apart("personalities act", mixed, pairs))
            found += _cached(engine, people[1], people[2])
            found += _recycled(engine, RECYCLED // 10 if quick else RECYCLED)
            found.append(_refused(engine))
            found.append(_same("after all of it", "the same batch before", _answers(engine, pairs), mixed))
            idle, busy = _speed(engine, None), _speed(engine, people[1])
    title = f"{base_model} with {adapter} in vLLM, {settings['dtype']}, {'eager' if quick else 'compiled'}"
    note = f"{bare_speed:.0f} tokens/s without the plugin, {idle:.0f} with it idle, {busy:.0f} with it busy"
    found.append(Check("cost", "not judged here", 1 - busy / bare_speed, 1.0, "ok", note))
    return Verification(title, tuple(found))


def _plugin(adapter: str) -> dict[str, Any]:
    return {"load_format": LOAD_FORMAT, "additional_config": {LOAD_FORMAT: {"adapter": adapter}}}


@contextmanager
def _directory(base_model: str, dtype: torch.dtype) -> Iterator[str]:
    if base_model != BUNDLED:
        yield base_model
        return
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_base(base_model, dtype)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield folder


@contextmanager
def _engine(directory: str, **settings: Any) -> Iterator[Any]:
    from vllm import LLM

    engine = LLM(directory, max_model_len=512, max_num_seqs=16, max_num_batched_tokens=64, **settings)
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


def _params(person: Any, tokens: int = TOKENS, **more: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0, max_tokens=tokens, extra_args=None if person is None else {KEY: person}, **more
    )


def _answers(engine: Any, pairs: Sequence[tuple[str, Any]], tokens: int = TOKENS) -> Answers:
    return [list(output.outputs[0].token_ids) for output in _outputs(engine, pairs, tokens)]


def _outputs(engine: Any, pairs: Sequence[tuple[str, Any]], tokens: int = TOKENS) -> list[Any]:
    prompts, params = [prompt for prompt, _ in pairs], [_params(person, tokens) for _, person in pairs]
    outputs: list[Any] = engine.generate(prompts, params, use_tqdm=False)
    return outputs


def _generated(directory: str, adapter: str, pairs: Sequence[tuple[str, Any]]) -> Answers:
    """What the wrapped transformers model answers, greedily."""
    model, tokenizer = load_wrapped(directory, adapter, torch.float32)
    found = []
    for prompt, person in pairs:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(input_ids=ids, personality=person, max_new_tokens=TOKENS, do_sample=False)
        found.append(out[0, ids.shape[1] :].tolist())
    return found


def _same(name: str, compared: str, found: Answers, wanted: Answers) -> Check:
    """Of two lists of answers, the part that is not equal token for token."""
    differ = sum(one != other for one, other in zip(found, wanted, strict=True))
    return _check(name, f"{compared}, {len(wanted)} answers", float(differ), 0.0)


def _apart(name: str, found: Answers, pairs: Sequence[tuple[str, Any]]) -> Check:
    bare = {prompt: answer for (prompt, person), answer in zip(pairs, found, strict=True) if person is None}
    asked = [
        (answer, bare[prompt]) for (prompt, person), answer in zip(pairs, found, strict=True) if person is not None
    ]
    differ = sum(answer != plain for answer, plain in asked)
    good = differ > len(asked) / 2
    return Check(
        name,
        f"the base model, {len(asked)} answers",
        float(differ),
        len(asked) / 2,
        "ok" if good else "failed",
        apart=True,
    )


def _cached(engine: Any, one: Any, other: Any) -> list[Check]:
    first, second, again = (_outputs(engine, [(LONG, person)])[0] for person in (one, other, one))
    answers = [[list(output.outputs[0].token_ids)] for output in (first, again)]
    foreign, own = float(second.num_cached_tokens), float(again.num_cached_tokens)
    return [
        _same("A, B, A with prefix caching", "A the first time", answers[1], answers[0]),
        _check("tokens that B takes from A's cache", "none", foreign, 0.0),
        Check("tokens that A takes from its own", "none", own, 0.0, "ok" if own > 0 else "failed", apart=True),
    ]


def _recycled(engine: Any, count: int) -> list[Check]:
    people = [f"E{(number % 200 - 100) / 20:+} N{(number // 200 - 2) / 2:+}" for number in range(count)]
    _answers(engine, [("One", person) for person in people[:64]], 2)
    before, slots = _memory(), _slots(engine)
    _answers(engine, [("One", person) for person in people], 2)
    return [
        _check(f"{count} personalities: MiB of memory", "the peak before them", _memory() - before, MEMORY),
        _check(f"{count} personalities: slots", "the engine's requests", float(_slots(engine)), float(slots)),
    ]


def _refused(engine: Any) -> Check:
    from vllm.exceptions import VLLMValidationError

    taken = []
    for value in MALFORMED:
        try:
            _answers(engine, [("One", value)], 1)
        except VLLMValidationError:
            continue
        taken.append(value)
    note = f"taken: {taken}" if taken else ""
    check = _check("malformed requests are refused", f"{len(MALFORMED)} of them", float(len(taken)), 0.0)
    return replace(check, note=note)


def _check(name: str, compared: str, difference: float, bound: float) -> Check:
    return Check(name, compared, difference, bound, "ok" if difference <= bound else "failed")


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _slots(engine: Any) -> int:
    from dpg_fast.vllm.runner import state_of

    found: list[int] = engine.apply_model(lambda model: state_of(model).pool.values.strengths.shape[0])  # type: ignore[union-attr]
    return found[0]


def _speed(engine: Any, person: Any) -> float:
    """Tokens per second of 16 requests, the best of two runs; with a person, each has another personality."""
    best = 0.0
    for _ in range(2):
        people = [None if person is None else f"E{number / 4 - 2:+}" for number in range(16)]
        params = [_params(one, 32, ignore_eos=True) for one in people]
        begin = time.perf_counter()
        engine.generate(["The weather today"] * 16, params, use_tqdm=False)
        best = max(best, 16 * 32 / (time.perf_counter() - begin))
    return best
