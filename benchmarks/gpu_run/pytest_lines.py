"""A pytest plugin: each test's outcome is a record the moment it is known, and tests that have one are not run again.

For ``-p benchmarks.gpu_run.pytest_lines``; the environment says where to write (`OUT`) and as which stage (`STAGE`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_run.place import REHEARSAL
from benchmarks.gpu_run.record import FINISHED, opened, put, status_of
from dpg_fast.util.store import Store

OUT, STAGE_NAME = "DPG_FAST_GPU_OUT", "DPG_FAST_GPU_STAGE"
OUTCOMES = {"passed": "ok", "failed": "failed", "skipped": "skipped"}


def _place() -> tuple[Path, str, bool]:
    return Path(os.environ[OUT]), os.environ[STAGE_NAME], os.environ.get(REHEARSAL) == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has a record (in every worker: all must collect the same)."""
    out, stage, rehearsal = _place()
    store = opened(out, rehearsal, read_only=True)
    done = [item for item in items if status_of(store, stage, item.nodeid) in FINISHED]
    config.hook.pytest_deselected(items=done)
    items[:] = [item for item in items if item not in set(done)]


class Lines:
    """Writes in the process that hears of every test: the only one, or the workers' controller."""

    def __init__(self, store: Store, stage: str) -> None:
        self.store, self.stage = store, stage

    def pytest_runtest_logreport(self, report: Any) -> None:
        """The call, or what went wrong before or after it."""
        if report.when != "call" and report.passed:
            return
        values = {} if report.passed else {"reason" if report.skipped else "error": _why(report)}
        put(self.store, self.stage, report.nodeid, OUTCOMES[report.outcome], report.duration, values)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be collected is a failure, and the others still run."""
        if report.failed:
            put(self.store, self.stage, report.nodeid, "failed", 0.0, {"error": str(report.longrepr)[-2000:]})

    def pytest_unconfigure(self) -> None:
        """Let others write."""
        self.store.close()


def _why(report: Any) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return str(report.longrepr)[-2000:]


def pytest_configure(config: pytest.Config) -> None:
    """Only the controller writes."""
    if not hasattr(config, "workerinput"):
        out, stage, rehearsal = _place()
        config.pluginmanager.register(Lines(opened(out, rehearsal), stage), "gpu-run-lines")
