"""Load on OpenAI-compatible servers, side by side.

    python -m benchmarks.serving --engine vllm --people 1 16 1000 --lora     # starts them; make setup-vllm first
    python -m benchmarks.serving --engine transformers --people 16           # dpg-fast serve
    python -m benchmarks.serving --target plain=http://127.0.0.1:8000/v1#smollm2 --target "one=http://127.0.0.1:8001/v1#smollm2@E+4"

Each target takes its turn in every round. The table has medians over the rounds, ratios round by round, and the processor
time of servers that were started here, which other work on the machine disturbs less than it does the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.serving.load import Load, Target, run, table
from benchmarks.serving.servers import transformers_targets, vllm_targets


def read_targets(texts: Sequence[str]) -> list[Target]:
    """Targets of ``NAME=URL[#MODEL]``.

    Raises:
        SystemExit: one cannot be read.
    """
    targets = []
    for text in texts:
        name, mark, rest = text.partition("=")
        url, _, model = rest.partition("#")
        if not (mark and name and url.startswith("http")):
            raise SystemExit(f"--target is NAME=URL[#MODEL], not {text!r}")
        targets.append(Target(name, url, (model,) if model else ()))
    return targets


@contextmanager
def started(options: argparse.Namespace) -> Iterator[list[Target]]:
    """What the options name."""
    if options.engine == "vllm":
        with vllm_targets(options.people, options.lora, options.dtype, options.vllm.split()) as targets:
            yield targets
    elif options.engine == "transformers":
        with transformers_targets(options.people, options.dtype) as targets:
            yield targets
    else:
        yield read_targets(options.target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--engine", choices=("vllm", "transformers"), help="start these servers on SmolLM2")
    asked.add_argument("--target", action="append", help="NAME=URL[#MODEL] of a server that runs; again for each")
    parser.add_argument("--people", type=int, nargs="+", default=[16], help="with --engine: distinct personalities")
    parser.add_argument(
        "--lora", action="store_true", help="with --engine vllm: its own LoRA with 1 and 16 adapters, too"
    )
    parser.add_argument("--dtype", default="bfloat16", help="with --engine")
    parser.add_argument(
        "--vllm", default="", metavar="OPTIONS", help="with --engine vllm: further options, in one text"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=64, help="of each target in each round")
    parser.add_argument("--concurrency", type=int, default=16, help="closed loop: requests under way")
    parser.add_argument("--rate", type=float, help="open loop: requests per second, at random times")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    load = Load(options.requests, options.concurrency, options.rate, options.tokens)
    before = os.getloadavg()[0]
    with started(options) as targets:
        found = asyncio.run(run(targets, options.rounds, load))
    loop = "closed loop" if load.rate is None else f"open loop, {load.rate:g} requests/s"
    requests = f"{options.rounds} rounds of {load.requests} requests of {load.tokens} tokens"
    print(f"{requests}, {loop}; load of the machine before: {before:.1f}\n")
    print(table(found))
    for name, one in found.items():
        for text in one.failed[:3]:
            print(f"{name}: {text}")
    if options.out is not None:
        kept = {name: asdict(one) for name, one in found.items()}
        held = {"machine": machine("cpu"), "load": asdict(load), "rounds": options.rounds, "found": kept}
        options.out.write_text(json.dumps(held, indent=1))
    return int(any(one.failed for one in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
