"""benchmarks.gpu_run, which builds, checks and measures on machines without pip: what can be tried without a GPU."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_run import __main__ as program
from benchmarks.gpu_run import build, carried, process, rehearsal, stages
from benchmarks.gpu_run.record import Item, Skip, close_unfinished, opened, report, status_of, work
from tests.support import ROOT

RUN = [sys.executable, "-m", "benchmarks.gpu_run", "run", "--rehearsal", "--no-build"]


def lines(out: Path) -> list[dict[str, Any]]:
    """The whole records of a run, in the order in which they were written."""
    path = out / "results.jsonl"
    whole = [line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")] if path.exists() else []
    return [json.loads(line) for line in whole[1:]]


def finished(out: Path) -> Counter[tuple[str, str]]:
    """How often each stage and item was finished."""
    return Counter((row["stage"], row["name"]) for row in lines(out) if row["status"] in ("ok", "skipped"))


@pytest.mark.slow
def test_a_run_killed_five_times_loses_nothing_and_completes(tmp_path: Path) -> None:
    """Each time at a random moment after the first new record (imports take most of the seconds before it)."""
    command = [*RUN, "--out", str(tmp_path), "--stages", "op times", "smoke"]
    moments = random.Random(17)
    before: Counter[tuple[str, str]] = Counter()
    for _ in range(5):
        known = len(lines(tmp_path))
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(lines(tmp_path)) < known + 2 and running.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 1.5))
        running.kill()
        running.wait()
        now = finished(tmp_path)
        assert running.returncode == -signal.SIGKILL, "it ended before it was killed"
        assert all(now[key] >= count for key, count in before.items())
        before = now
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    after = finished(tmp_path)
    assert set(after.values()) == {1}, "something was done twice"
    assert {("smoke", ""), ("op times", ""), ("smoke", "machine"), ("op times", "ceilings")} <= set(after)
    assert 1 < len(before) < len(after)
    page = (tmp_path / "report.md").read_text()
    assert "its times are no results" in page and "## op times: ok" in page
    assert len(list(tmp_path.iterdir())) <= 8


@pytest.mark.slow
@pytest.mark.skipif(
    not (rehearsal.VENV / ".versions").exists() and "DPG_FAST_REHEARSE" not in os.environ,
    reason="no Python like the GPU machine's: `make gpu-rehearsal` makes it (5 GB), DPG_FAST_REHEARSE=1 has this test do so",
)
def test_the_rehearsal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_run", "rehearse", "--out", str(tmp_path), "--stages", "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    ended = {row["stage"]: row["status"] for row in lines(tmp_path) if row["name"] == "" and row["status"] != "begun"}
    assert ended == {name: "ok" for name in stages.ALL}
    machine = next(row for row in lines(tmp_path) if row["name"] == "machine" and row["status"] == "ok")
    assert machine["python"].startswith("3.12") and machine["torch"].startswith("2.11")
    assert machine["transformers"].startswith("5.17")


def test_what_fails_is_a_record_and_the_next_follows(tmp_path: Path) -> None:
    done: list[str] = []

    def item(name: str, error: Exception | None = None) -> Item:
        def call() -> dict[str, Any]:
            done.append(name)
            if error is not None:
                raise error
            return {"value": float("nan")}

        return Item(name, call)

    listed = [item("a"), item("b", RuntimeError("bad")), item("c", Skip("not here")), item("d")]
    with opened(tmp_path, False) as store:
        assert work(store, "s", listed)
        assert not work(store, "t", [item("e", RuntimeError("sticky")), item("f")], broken=lambda: True)
        store.append([{"stage": "t", "name": "g", "status": "begun", "seconds": 0}])
        close_unfinished(store, "t", -11)
    with opened(tmp_path, False) as store:
        assert work(store, "s", listed) and work(store, "t", [item("f"), item("g")])
        report(tmp_path, store, False)
    assert done == ["a", "b", "c", "d", "e", "f"]
    with opened(tmp_path, False, read_only=True) as store:
        assert [status_of(store, "s", name) for name in "abcd"] == ["ok", "failed", "skipped", "ok"]
        assert store["t", "g"]["error"] == "the process ended with status -11"
    text = (tmp_path / "report.md").read_text()
    assert "RuntimeError: bad" in text and "not here" in text and "rehearsal" not in text
    with pytest.raises(ValueError, match="another run"):
        opened(tmp_path, True)


def test_a_command_that_takes_too_long_is_asked_to_stop_first(tmp_path: Path) -> None:
    code = "import time\ntry:\n print('begun', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('in good order')"
    assert process.run([sys.executable, "-c", code], 3, tmp_path / "x.log", os.environ) == process.STOPPED
    log = (tmp_path / "x.log").read_text()
    assert "begun" in log and "in good order" in log


def test_a_deaf_command_and_its_children_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", ((signal.SIGINT, 0.3), (signal.SIGTERM, 0.3)))
    code = "import os, signal, subprocess, time; signal.signal(2, 1); signal.signal(15, 1); "
    code += "print(subprocess.Popen(['sleep', '77']).pid, flush=True); time.sleep(77)"
    assert process.run([sys.executable, "-c", code], 1.0, tmp_path / "x.log", os.environ) == process.STOPPED
    child = int((tmp_path / "x.log").read_text().split()[-1])
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("a child is left running")


def test_a_missing_module_comes_from_its_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(carried, "WHEELS", tmp_path)
    monkeypatch.setattr(carried, "SITE", tmp_path / "site")
    monkeypatch.setattr(sys, "path", list(sys.path))
    groups = {"no_such_module": ("no-such-module", "its-part"), "other_absent": ("other",), "json": ("json",)}
    monkeypatch.setattr(carried, "CARRIED", groups)
    for name in ("no_such_module", "its_part"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "here = True\n")
    assert carried.unpack_missing() == ["other_absent"]
    import no_such_module  # type: ignore[import-not-found]

    assert no_such_module.here and (tmp_path / "site" / "its_part").exists()
    monkeypatch.setattr(carried, "NEEDED", ("other_absent",))
    with pytest.raises(carried.Stop, match="make gpu-headers"):
        carried.unpack_missing()


def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DPG_FAST_CUDA", "OFF")
    assert program.main(["run", "--stages", "build", "--out", str(tmp_path / "out")]) == 2
    assert "cmake is not on PATH" in capsys.readouterr().err
    monkeypatch.setattr(rehearsal, "python_3_12", lambda: None)
    monkeypatch.setattr(rehearsal, "VENV", tmp_path / "venv")
    assert program.main(["rehearse"]) == 2
    assert "needs Python 3.12" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["run", "--stages", "nothing"])


def test_a_python_whose_shim_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shim, real = tmp_path / "python3.12", tmp_path / ".pyenv" / "versions" / "3.12.9" / "bin" / "python3.12"
    real.parent.mkdir(parents=True)
    for path, text in ((shim, "exit 127"), (real, "echo 3.12; echo /include")):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert carried.python_3_12() == str(real)


@pytest.mark.parametrize(
    ("said", "expected"), [("9.0", "90a-real"), ("8.0", "80-real"), ("10.3", "103a-real"), ("", "90a-real")]
)
def test_only_the_own_gpu_is_built_for(
    said: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.architecture() == expected


def test_budgets_fit() -> None:
    """Below 480 s with the seconds that it takes to stop a command."""
    assert sum(stage.budget for stage in stages.FIRST) <= program.LIMIT
    assert program.LIMIT + sum(seconds for _, seconds in process.GRACE) < 480
    assert sum(stage.budget for stage in stages.REST) <= program.LIMIT
    assert all(stage.expected < stage.budget for stage in stages.ALL.values())


def test_make_targets_take_another_folder() -> None:
    targets = ["gpu-run", "gpu-rest", "test-gpu", "bench-gpu"]
    command = ["make", "--dry-run", "-C", str(ROOT), *targets, "OUT=/elsewhere", "PYTHON=python9"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MAKEFLAGS": ""})
    assert done.stdout.count("python9 -m benchmarks.gpu_run run --out /elsewhere") == 4
