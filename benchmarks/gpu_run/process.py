"""Run one command within its seconds: a request to stop first, SIGKILL last, and no process left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu_run.carried import ROOT

STOPPED = 124
#: seconds after SIGINT, and after SIGTERM, until the next signal
GRACE = ((signal.SIGINT, 5.0), (signal.SIGTERM, 3.0))


def run(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str]) -> int:
    """Run it in the project's root, with its output on the screen and at the end of a log.

    A command that outlasts its seconds gets SIGINT (Python programs and pytest then end in good order), SIGTERM and SIGKILL; so
    does one that runs when this process is told to stop. When this process is killed the command dies with it.

    Returns:
        Its exit status, negative for a signal; `STOPPED` when its seconds were up.
    """
    print(f"$ {' '.join(command)}  (at most {seconds:.0f} s)", flush=True)
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, process_group=0, preexec_fn=_die_with_parent,
        )  # fmt: skip

        def copy() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                file.flush()
                sys.stdout.buffer.write(line)
                sys.stdout.flush()

        reader = threading.Thread(target=copy, daemon=True)
        reader.start()
        try:
            status = process.wait(max(seconds, 0.01))
        except subprocess.TimeoutExpired:
            _stop(process)
            print(f"stopped after {seconds:.0f} s", flush=True)
            status = STOPPED
        except BaseException:
            _stop(process)
            raise
        finally:
            _signal_group(process.pid, signal.SIGKILL)  # what it may have left running holds the GPU's memory
            reader.join(5)
    return status


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in GRACE:
        # SIGINT to the command alone: pytest stops its own workers
        process.send_signal(number) if number == signal.SIGINT else _signal_group(process.pid, number)
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
