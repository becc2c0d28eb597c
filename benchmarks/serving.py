"""Load on OpenAI-compatible servers, side by side: ``python -m benchmarks.serving --target NAME=URL[#MODEL] ...``.

Each target takes its turn in every round, so that whatever else the machine does falls on all of them. Closed loop: so many
requests are under way at any time. Open loop: requests arrive at random times of a rate, and wait where a server cannot keep up.

    python -m benchmarks.serving --target plain=http://127.0.0.1:8000/v1 \\
        --target "16 people=http://127.0.0.1:8001/v1" --people 0 16 --requests 64 --concurrency 16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

PROMPT = "A stranger sits down beside me on the train. I"


@dataclass(frozen=True)
class Target:
    """What is asked.

    Attributes:
        name: in the table.
        url: of the API, with /v1.
        model: name that it is served under; the server's first where it is None.
        people: distinct personalities over the requests; 0 asks the base model.
    """

    name: str
    url: str
    model: str | None = None
    people: int = 0


@dataclass
class Measured:
    """What one target gave, over all rounds.

    Attributes:
        first: seconds to the first token of each request; between: seconds between tokens; rates: tokens/s of each round.
        failed: requests without an answer, and why.
    """

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def person(number: int, people: int) -> str:
    """The personality of a request: one of ``people`` that all differ."""
    which = number % people
    return f"E{(which % 101 - 50) / 10:+} N{(which // 101 - 49) / 10:+}"


async def run_round(
    client: Any,
    target: Target,
    model: str,
    requests: int,
    concurrency: int,
    rate: float | None,
    tokens: int,
    found: Measured,
) -> None:
    """One round of one target; adds to ``found``."""
    gate = asyncio.Semaphore(concurrency if rate is None else requests)
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        body: dict[str, Any] = {"ignore_eos": True}
        if target.people:
            body["vllm_xargs"] = {"personality": person(number, target.people)}
        async with gate:
            begin = last = time.perf_counter()
            first = True
            try:
                stream = await client.completions.create(
                    model=model, prompt=PROMPT, max_tokens=tokens, temperature=0, stream=True, extra_body=body
                )
                async for _ in stream:
                    now = time.perf_counter()
                    (found.first if first else found.between).append(now - last)
                    first, last = False, now
                    done += 1
            except Exception as error:  # a server may fail in any way; the table says how often
                found.failed.append(f"{type(error).__name__}: {error} after {last - begin:.1f} s")

    begin = time.perf_counter()
    tasks = []
    for number in range(requests):
        tasks.append(asyncio.create_task(one(number)))
        if rate is not None:
            await asyncio.sleep(random.expovariate(rate))
    await asyncio.gather(*tasks)
    found.rates.append(done / (time.perf_counter() - begin))


async def run(
    targets: Sequence[Target], rounds: int, requests: int, concurrency: int, rate: float | None, tokens: int
) -> dict[str, Measured]:
    """All targets in turn, ``rounds`` times, after one short round each that is not counted."""
    from openai import AsyncOpenAI

    found = {target.name: Measured() for target in targets}
    clients = {target.name: AsyncOpenAI(base_url=target.url, api_key="none", max_retries=0) for target in targets}
    models = {target.name: target.model or (await clients[target.name].models.list()).data[0].id for target in targets}
    for number in range(rounds + 1):
        order = targets if number % 2 else tuple(reversed(targets))
        for target in order:
            name = target.name
            count, into = (requests, found[name]) if number else (min(requests, concurrency), Measured())
            await run_round(clients[name], target, models[name], count, concurrency, rate, tokens, into)
    return found


def table(found: dict[str, Measured]) -> str:
    """Markdown, the first target as the measure."""
    names = list(found)
    base = statistics.median(found[names[0]].rates)
    lines = [
        "| target | tokens/s | beside the first | first token, ms (p50, p95) | between tokens, ms (p50, p95) | failed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        one = found[name]
        rate = statistics.median(one.rates)
        times = [
            "{:.0f}, {:.0f}".format(*(1000 * _at(values, part) for part in (0.5, 0.95)))
            for values in (one.first, one.between)
        ]
        lines.append(f"| {name} | {rate:.1f} | {rate / base:.3f} | {times[0]} | {times[1]} | {len(one.failed)} |")
    return "\n".join(lines)


def _at(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def read_targets(texts: Sequence[str], people: Sequence[int]) -> list[Target]:
    """Targets of ``NAME=URL[#MODEL]``; ``people`` has a number for each, or is empty.

    Raises:
        SystemExit: one cannot be read.
    """
    if people and len(people) != len(texts):
        raise SystemExit(f"--people needs one number for each of the {len(texts)} targets, got {len(people)}")
    targets = []
    for text, count in zip(texts, people or [0] * len(texts), strict=True):
        name, mark, rest = text.partition("=")
        url, _, model = rest.partition("#")
        if not (mark and name and url.startswith("http")):
            raise SystemExit(f"--target is NAME=URL[#MODEL], not {text!r}")
        targets.append(Target(name, url, model or None, count))
    return targets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", required=True, help="NAME=URL[#MODEL]; again for each")
    parser.add_argument(
        "--people", type=int, nargs="+", default=[], help="distinct personalities, one number for each target"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=64, help="of each target in each round")
    parser.add_argument("--concurrency", type=int, default=16, help="closed loop: requests under way")
    parser.add_argument("--rate", type=float, help="open loop: requests per second, at random times")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    targets = read_targets(options.target, options.people)
    settings = (options.rounds, options.requests, options.concurrency, options.rate, options.tokens)
    found = asyncio.run(run(targets, *settings))
    print(table(found))
    for name, one in found.items():
        for text in one.failed[:3]:
            print(f"{name}: {text}")
    if options.out is not None:
        kept = {name: vars(one) for name, one in found.items()}
        options.out.write_text(json.dumps({"machine": machine("cpu"), "settings": settings, "found": kept}, indent=1))
    return int(any(one.failed for one in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
