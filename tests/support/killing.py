"""Kill a command at random moments and run it again until it ends; what it leaves has to be what an uninterrupted run leaves.

Commands run in processes forked from one that has imported what they need, so that a kill costs no start of Python and falls
into the work itself.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = """
import importlib, json, os, select, signal, sys, time
for name in sys.argv[1].split(","):
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(log, 1), os.dup2(log, 2)
        os.chdir(order["folder"])
        os.environ.update(order["environment"])
        sys.argv = ["dpg-fast", *order["arguments"]]
        code = 1
        try:
            from dpg_fast.cli.app import main
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    pidfd = os.pidfd_open(child)
    if not select.select([pidfd], [], [], order["seconds"])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(pidfd)
    print(json.dumps([code, time.monotonic() - started]), flush=True)
"""
#: what most commands import before they work
IMPORTED = "dpg_fast.cli.app,torch,transformers,safetensors.torch,rich.console,numpy,pydantic"


@dataclass
class Commands:
    """Runs commands of `dpg-fast`, one at a time."""

    server: subprocess.Popen[str]
    environment: Mapping[str, str]

    def run(self, arguments: Sequence[str], folder: Path, seconds: float = 300.0) -> tuple[int, float]:
        """Exit status and duration of a command that is killed after ``seconds``; -9 where it was."""
        log = folder / "log.txt"
        order = {"arguments": list(arguments), "folder": str(folder), "seconds": seconds, "log": str(log)}
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(order | {"environment": dict(self.environment)}) + "\n")
        self.server.stdin.flush()
        code, duration = json.loads(self.server.stdout.readline())
        assert code in (0, -9), f"{' '.join(arguments)} ended with {code}:\n{log.read_text()[-4000:]}"
        return code, duration


@contextmanager
def commands(modules: str = "", **environment: str) -> Iterator[Commands]:
    """A process that has imported ``modules`` beside `IMPORTED`, and forks the commands."""
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, ",".join(filter(None, (IMPORTED, modules)))],
        **{"env": own, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},  # type: ignore[call-overload]
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        yield Commands(server, environment)
    finally:
        server.kill()
        server.wait()


@dataclass
class Killed:
    """What a job went through.

    Attributes:
        kills: that hit it while it ran.
        ends: runs that ended, each equal to the uninterrupted one.
        seconds: of the uninterrupted run.
    """

    kills: int = 0
    ends: int = 0
    seconds: float = 0.0


def kill_and_compare(
    started: Commands,
    arguments: Callable[[Path], Sequence[str]],
    result: Callable[[Path], Any],
    work: Path,
    *,
    kills: int,
    seed: int = 0,
    between: Callable[[Path], object] = lambda folder: None,
) -> Killed:
    """Run a job whole, then in fresh folders with kills at random moments until ``kills`` have hit it.

    Args:
        started: see `commands`.
        arguments: of the command that writes into a folder.
        result: of a finished folder; compared by ``==``.
        work: for the folders.
        kills: to make.
        seed: of the moments.
        between: called with the folder after every kill.
    """
    whole = work / "whole"
    whole.mkdir(parents=True)
    found = Killed(seconds=started.run(arguments(whole), whole)[1])
    wanted = result(whole)
    draw = random.Random(seed)
    while found.kills < kills:
        folder = work / f"killed{found.ends}"
        folder.mkdir()
        for attempt in range(200):
            # the first kills fall anywhere; a job that is never let through has to end all the same
            last = found.kills >= kills or attempt >= 12
            seconds = 300.0 if last else draw.uniform(0.02, 1.0) * found.seconds
            code, _ = started.run(arguments(folder), folder, seconds)
            if code == 0:
                break
            found.kills += 1
            between(folder)
        found.ends += 1
        assert result(folder) == wanted, f"after {found.kills} kills {folder.name} differs"
    return found


def contents(folder: Path, left_out: Sequence[str] = ("log.txt",)) -> dict[str, bytes]:
    """Every file below a folder but those ``left_out``, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in left_out}
