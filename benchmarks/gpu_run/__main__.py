"""``python -m benchmarks.gpu_run``: build, check and measure on a bare GPU machine, within counted minutes (docs/gpu.md).

python -m benchmarks.gpu_run headers             # with a network: fill third_party/ with what such a machine lacks
python -m benchmarks.gpu_run run --out OUT       # there: the stages in order of worth; again with the same OUT goes on
python -m benchmarks.gpu_run run --stages rest   # there: what a second run is for
python -m benchmarks.gpu_run rehearse            # anywhere: the same over the emulator, in a Python like that machine's
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu_run import build, rehearsal
from benchmarks.gpu_run.carried import ROOT, SITE, Stop, fill, unpack_missing
from benchmarks.gpu_run.process import STOPPED, run
from benchmarks.gpu_run.stages import ALL, FIRST, REST, Stage, command

if TYPE_CHECKING:
    from dpg_fast.util.store import Store

LIMIT = 465.0  # with the seconds that a stage takes to stop it stays below 480
SLOWER = 4.0  # a rehearsal: two cores, and an emulator in place of a GPU
SETS = {"first": FIRST, "rest": REST, "all": (*FIRST, *REST)}
BROKEN = 3
LOG = "run.log"


class Run:
    """The stages of one command.

    Args:
        out: folder of results; those that are there are kept.
        limit: seconds for everything.
        rehearsed: over the emulator, with small sizes.
    """

    def __init__(self, out: Path, limit: float, rehearsed: bool) -> None:
        self.out, self.rehearsed = out, rehearsed
        self.end = time.monotonic() + limit
        out.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT), *([str(SITE)] if SITE.exists() else []), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "DPG_FAST_GPU_OUT": str(out),
            "DPG_FAST_GPU_REHEARSAL": "1" if rehearsed else "0",
        }
        self.environment.pop("TRITON_INTERPRET", None)
        if rehearsed:
            self.environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

    def stage(self, stage: Stage, seconds: float) -> str:
        """Do one stage within its seconds; how it ended."""
        from benchmarks.gpu_run.record import close_unfinished, put, report, status_of

        with self.store() as store:
            ended = status_of(store, stage.name)
            broke = ended == "failed" and store[stage.name, ""]["exit status"] != 0  # what has no record is tried again
        if ended in ("ok", "failed") and not broke and stage.name != "build":
            return ended
        start = time.monotonic()
        with self.store() as store:
            put(store, stage.name, "", "begun", 0.0, {})
        if seconds < 1:
            status = STOPPED
        elif stage.name == "build":
            status = self.build(start + seconds)
        else:
            status = self.items(stage, start + seconds)
        with self.store() as store:
            if status not in (0, STOPPED):
                close_unfinished(store, stage.name, status)
            failed = status != 0 or any(row["status"] == "failed" for row in self.rows(store, stage))
            ended = "stopped" if status == STOPPED else "failed" if failed else "ok"
            put(store, stage.name, "", ended, time.monotonic() - start, {"budget": seconds, "exit status": status})
            report(self.out, store, self.rehearsed)
        return ended

    def items(self, stage: Stage, end: float) -> int:
        """The stage's process; started again for what is left when CUDA, or the process itself, broke in an item."""
        from benchmarks.gpu_run.record import close_unfinished

        words = command(stage, self.out, self.rehearsed)
        environment = self.environment | {"DPG_FAST_GPU_STAGE": stage.name}
        while True:
            with self.store() as store:
                before = len(store)
            status = run(words, end - time.monotonic(), self.out / LOG, environment)
            if stage.tests or status == STOPPED or 0 <= status != BROKEN:
                # pytest: 1 is failed tests, which are records; 5 is that all have one
                return 0 if stage.tests and status in (0, 1, 5) else status
            with self.store() as store:
                close_unfinished(store, stage.name, status)
                if len(store) == before:
                    return status
            print(f"{stage.name}: another process for what is left", flush=True)

    def build(self, end: float) -> int:
        """CMake's commands one after the other."""
        for words in build.commands(self.environment):
            if status := run(words, end - time.monotonic(), self.out / LOG, self.environment):
                return status
        return 0

    def rows(self, store: Store, stage: Stage) -> list[dict[str, object]]:
        """The records of a stage's items."""
        return [row for (name, item), row in store.rows.items() if name == stage.name and item]

    def store(self) -> Store:
        """The records, for as long as no stage is writing them."""
        from benchmarks.gpu_run.record import opened

        return opened(self.out, self.rehearsed)

    def all(self, stages: Sequence[Stage]) -> int:
        """0 when all is well, `STOPPED` when something is left, 1 when something failed."""
        ended = []
        for number, stage in enumerate(stages):
            left = self.end - time.monotonic()
            budget = stage.budget * (SLOWER if self.rehearsed else 1)
            seconds = left if number == len(stages) - 1 else min(budget, left)
            ended.append(self.stage(stage, seconds))
            print(f"== {stage.name}: {ended[-1]}; {self.end - time.monotonic():.0f} s are left", flush=True)
            if stage.name == "build" and ended[-1] != "ok":
                break
        print(f"results in {self.out}")
        return 1 if "failed" in ended else STOPPED if "stopped" in ended or len(ended) < len(stages) else 0


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and do what they say; 2 when something that is needed is missing."""
    options = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stopped)
    try:
        if options.command == "headers":
            fill(options.python)
            return 0
        if options.command == "rehearse":
            return rehearsal.rehearse(options.out, options.stages)
        absent = unpack_missing()
        if absent:
            print(
                f"absent: {', '.join(absent)} (neither installed nor in third_party/wheels); those rivals are left out"
            )
        return Run(options.out.resolve(), options.limit, options.rehearsal).all(options.stages)
    except Stop as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _stopped(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("headers", "run", "rehearse"))
    parser.add_argument("--out", type=Path, default=None, help="folder for results (default: build/gpu)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    parser.add_argument(
        "--stages", nargs="+", default=["first"], metavar="STAGE",
        help=f"stages in this order, or a set of them: {', '.join([*SETS, *ALL])}",
    )  # fmt: skip
    parser.add_argument("--no-build", action="store_true", help="use dpg_fast/_C as it is")
    parser.add_argument("--rehearsal", action="store_true", help="over the emulator, in this Python")
    parser.add_argument(
        "--python", default=None, help="for headers: whose headers are copied (default: any 3.12 found)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.stages if name not in SETS and name not in ALL]
    if unknown:
        parser.error(f"--stages: unknown {', '.join(unknown)}; known: {', '.join([*SETS, *ALL])}")
    chosen = [stage for name in options.stages for stage in SETS.get(name, [ALL[name]] if name in ALL else [])]
    if options.no_build:
        chosen = [stage for stage in chosen if stage.name != "build"]
    elif chosen[0].name != "build":
        chosen.insert(0, ALL["build"])
    options.stages = chosen
    rehearses = options.rehearsal or options.command == "rehearse"
    options.out = options.out or ROOT / "build" / ("gpu-rehearsal" if rehearses else "gpu")
    return options


if __name__ == "__main__":
    sys.exit(main())
