"""``python -m benchmarks.run --suite kernels --device cpu``: measure beside the rivals, print and save the tables."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import kernels
from benchmarks.kernels.shapes import DTYPES, MODELS, PEOPLE, SITES, TOKENS
from benchmarks.kernels.suite import OPS, ceiling_lines
from benchmarks.machine import machine
from benchmarks.report import Absent, Line, markdown, write

KERNEL_DEFAULTS: dict[str, dict[str, list[str]]] = {
    "cpu": {
        "models": ["smollm2-135m", "llama3-8b"],
        "sites": ["down"],
        "tokens": ["1", "8", "64"],
        "dtype": ["bfloat16"],
    },
    "cuda": {
        "models": ["llama3-8b", "qwen3-4b", "smollm2-135m"],
        "sites": list(SITES),
        "tokens": [str(t) for t in TOKENS],
        "dtype": ["bfloat16"],
    },
    "quick": {"models": ["tiny"], "sites": ["down"], "tokens": ["1", "8"], "dtype": ["bfloat16"]},
}


class Job(NamedTuple):
    """A suite with its options: where its lines come from, and what the head of its report adds."""

    lines: Iterator[Line]
    notes: Sequence[str]
    head: dict[str, str]


def _model(options: argparse.Namespace) -> Job:
    rounds = options.rounds or 9
    if options.device == "cuda" or options.quick:
        from benchmarks import model_gpu

        settings = model_gpu.Settings.tiny() if options.quick else model_gpu.Settings()
        return Job(model_gpu.run(options.device, rounds, settings), model_gpu.notes(settings), {})
    from benchmarks import model

    return Job(model.run(options.device, rounds), model.NOTES, {})


def _kernels(options: argparse.Namespace) -> Job:
    defaults = KERNEL_DEFAULTS["quick" if options.quick else options.device]
    chosen = {name: getattr(options, name) or values for name, values in defaults.items()}
    settings = kernels.Options(
        device=options.device,
        models=chosen["models"],
        ops=options.ops or list(OPS),
        sites=chosen["sites"],
        tokens=[int(count) for count in chosen["tokens"]],
        people=options.people,
        dtypes=chosen["dtype"],
        budget=options.budget,
        rounds=options.rounds or (3 if options.quick else 11),
        min_time=1e-4 if options.quick else 2e-3,
        quick=options.quick,
    )
    return Job(kernels.run(settings), kernels.NOTES, ceiling_lines(settings))


SUITES: dict[str, Callable[[argparse.Namespace], Job]] = {"kernels": _kernels, "model": _model}


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run the suite; 1 when something computed a wrong result."""
    options = _parse(arguments)
    found = machine(options.device)
    job = SUITES[options.suite](options)
    lines: list[Line] = []

    def save() -> str:
        text = markdown(f"Suite {options.suite}", found | job.head, lines, job.notes)
        if options.out is not None:
            write(options.out, f"{options.suite}_{options.device}", text, found | job.head, lines)
        return text

    try:
        for line in _until(job.lines, options.time_limit):
            if lines and line.group != lines[-1].group:
                save()  # what is killed keeps its groups
            lines.append(line)
            _show(line)
    finally:  # a run that breaks keeps what it has
        print(f"\n{save()}")
        if options.out is not None:
            print(f"Saved to {options.out}")
    wrong = [line for line in lines if isinstance(line, Absent) and line.wrong]
    for line in wrong:
        print(f"WRONG: {line.group}: {line.name}: {line.reason}", file=sys.stderr)
    return 1 if wrong else 0


def _until(lines: Iterator[Line], limit: float | None) -> Iterator[Line]:
    """The lines, cut off after the group during which the time runs out."""
    end = None if limit is None else time.monotonic() + limit
    group = None
    for line in lines:
        if end is not None and line.group != group and time.monotonic() > end:
            yield Absent("everything else", "all ways", f"left out: the time limit of {limit:g} s is reached")
            return
        group = line.group
        yield line


def _show(line: Line) -> None:
    if isinstance(line, Absent):
        print(f"{line.group:32} {line.name:48} {'WRONG: ' if line.wrong else '- '}{line.reason}", flush=True)
    else:
        print(f"{line.group:32} {line.name:48} {line.milliseconds:9.3f} ms  {line.ratio:6.2f} x", flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default="model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--rounds", type=int, default=None, help="counted rounds (default: 9 for model, 11 for kernels)"
    )
    parser.add_argument("--out", type=Path, default=None, help="directory for the JSON and Markdown tables")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few rounds: shows that the suite works")
    parser.add_argument("--time-limit", type=float, default=None, help="seconds after which no new group is begun")
    group = parser.add_argument_group("suite kernels")
    group.add_argument("--models", nargs="+", choices=list(MODELS))
    group.add_argument("--ops", nargs="+", choices=list(OPS))
    group.add_argument(
        "--sites", nargs="+", choices=list(SITES), help="linear layers that the LoRA ops are measured on"
    )
    group.add_argument("--tokens", nargs="+", choices=[str(t) for t in TOKENS])
    group.add_argument(
        "--people", nargs="+", type=int, default=list(PEOPLE), help="distinct personalities in the batch"
    )
    group.add_argument("--dtype", nargs="+", choices=list(DTYPES))
    group.add_argument(
        "--budget", type=float, default=4.0, help="seconds for each group of ways; what would take longer is left out"
    )
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if min(options.people) < 1:
        parser.error(f"--people must be at least 1, got {min(options.people)}")
    if not options.budget > 0:
        parser.error(f"--budget must be above 0, got {options.budget}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    return options


if __name__ == "__main__":
    sys.exit(main())
