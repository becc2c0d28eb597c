"""The load: requests in a closed or an open loop, to each target in turn, so that whatever else the machine does falls on all."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Load", "Measured", "Target", "people", "run", "table"]

PROMPT = "A stranger sits down beside me on the train. I"


@dataclass(frozen=True)
class Target:
    """What is asked.

    Attributes:
        name: in the table.
        url: of the API, with /v1.
        models: names that the requests give in turn; empty for the server's first.
        extra: further fields of each request.
        cpu: seconds of processor time that the server has taken so far; None where that cannot be known.
    """

    name: str
    url: str
    models: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    cpu: Callable[[], float] | None = None


@dataclass(frozen=True)
class Load:
    """What each target gets in each round.

    Attributes:
        requests: how many.
        concurrency: closed loop: requests under way at any time.
        rate: open loop: requests per second, at random times; None for the closed loop.
        tokens: of each answer.
        seed: of the times and of the order of the targets.
    """

    requests: int = 64
    concurrency: int = 16
    rate: float | None = None
    tokens: int = 32
    seed: int = 0


@dataclass
class Measured:
    """What one target gave, over all rounds.

    Attributes:
        first: seconds to the first token of each request; between: seconds between pieces of its stream.
        rates: tokens/s of each round; cpu: seconds of processor time for each 1,000 tokens, of each round.
        failed: requests without a whole answer, and why.
    """

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def people(model: str, count: int) -> tuple[str, ...]:
    """``model`` with ``count`` personalities that all differ; the model itself for 0.

    Raises:
        ValueError: more than there are to the tenth in two traits.
    """
    if not 0 <= count <= 101**2:
        raise ValueError(f"personalities must be 0 to {101**2}, got {count}")
    return tuple(f"{model}@E{(n % 101 - 50) / 10:+},N{(n // 101 - 50) / 10:+}" for n in range(count)) or (model,)


async def run(targets: Sequence[Target], rounds: int, load: Load) -> dict[str, Measured]:
    """All targets in turn, in an order that changes, after one short round each that is not counted."""
    from openai import AsyncOpenAI

    chance = random.Random(load.seed)
    found = {target.name: Measured() for target in targets}
    clients = {target.name: AsyncOpenAI(base_url=target.url, api_key="none", max_retries=0) for target in targets}
    models = {t.name: t.models or ((await clients[t.name].models.list()).data[0].id,) for t in targets}
    for number in range(rounds + 1):
        for target in chance.sample(list(targets), len(targets)):
            name = target.name
            into = found[name] if number else Measured()
            count = load.requests if number else min(load.requests, load.concurrency)
            await _round(clients[name], target, models[name], count, load, chance, into)
            if not number and into.failed:
                found[name].failed += into.failed
    return found


async def _round(
    client: Any, target: Target, models: Sequence[str], count: int, load: Load, chance: random.Random, found: Measured
) -> None:
    gate = asyncio.Semaphore(load.concurrency if load.rate is None else count)
    tokens = 0

    async def one(number: int) -> None:
        nonlocal tokens
        async with gate:
            begin = last = time.perf_counter()
            first, done = True, 0
            try:
                stream = await client.completions.create(
                    model=models[number % len(models)],
                    prompt=PROMPT,
                    max_tokens=load.tokens,
                    temperature=0,
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_body=target.extra,
                )
                async for piece in stream:
                    if piece.usage is not None:
                        done = piece.usage.completion_tokens
                    if not piece.choices:
                        continue
                    now = time.perf_counter()
                    (found.first if first else found.between).append(now - last)
                    first, last = False, now
                if not done:
                    raise RuntimeError("the stream ended without an answer")
            except Exception as error:  # a server may fail in any way; the table says how often
                found.failed.append(f"{type(error).__name__}: {error} after {last - begin:.1f} s")
            tokens += done

    begin, before = time.perf_counter(), target.cpu() if target.cpu is not None else 0.0
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(one(number)))
        if load.rate is not None:
            await asyncio.sleep(chance.expovariate(load.rate))
    await asyncio.gather(*tasks)
    found.rates.append(tokens / (time.perf_counter() - begin))
    if target.cpu is not None and tokens:
        found.cpu.append(1000 * (target.cpu() - before) / tokens)


def table(found: dict[str, Measured]) -> str:
    """Markdown. A round of a target is compared with the same round of the first target."""
    base = next(iter(found.values()))
    lines = [
        "| target | tokens/s | beside the first | CPU s per 1,000 tokens | beside the first | first token, ms (p50, p95) | "
        "between tokens, ms (p50, p95) | failed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        cells = [f"{_middle(one.rates):.1f}", _beside(one.rates, base.rates)]
        cells += [f"{_middle(one.cpu):.2f}", _beside(base.cpu, one.cpu)] if one.cpu else ["", ""]
        for values in (one.first, one.between):
            cells.append("{:.0f}, {:.0f}".format(*(1000 * _at(values, part) for part in (0.5, 0.95))))
        lines.append(f"| {name} | {' | '.join(cells)} | {len(one.failed)} |")
    return "\n".join(lines)


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def _beside(values: Sequence[float], others: Sequence[float]) -> str:
    """Median and range of the ratios, round by round; above 1 is better."""
    ratios = sorted(one / other for one, other in zip(values, others, strict=False) if other)
    return f"{_middle(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else ""


def _at(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else float("nan")
