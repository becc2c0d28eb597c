"""``python -m benchmarks.run --suite model --device cpu``: measure beside the rivals, print and save the tables."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import model
from benchmarks.machine import machine
from benchmarks.report import markdown, write

SUITES = {"model": model}


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and run the suite."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default="model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds of each comparison")
    parser.add_argument("--out", type=Path, default=None, help="directory for the JSON and Markdown tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    suite = SUITES[options.suite]
    found = machine(options.device)
    results = []
    for result in suite.run(options.device, options.rounds):
        results.append(result)
        print(f"{result.group:32} {result.name:48} {result.milliseconds:8.2f} ms  {result.ratio:5.2f} x", flush=True)
    text = markdown(f"Suite {options.suite}", found, results, suite.NOTES)
    print()
    print(text)
    if options.out is not None:
        write(options.out, f"{options.suite}_{options.device}", text, found, results)
        print(f"Saved to {options.out}")


if __name__ == "__main__":
    main()
