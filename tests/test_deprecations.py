"""A deprecation that a library warns of or logs fails the test during which it happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

TESTS = """
import logging, types, warnings
import pytest
from transformers.utils import logging as theirs

logger = theirs.get_logger("transformers.models.llama")

def library(name, code):
    module = types.ModuleType(name)
    module.__dict__.update(logger=logger, warnings=warnings)
    exec(code, module.__dict__)
    return module.call

logs = library("transformers.models.x", "def call(): logger.warning_once('`past_key_values` are deprecated.')")
warns = library("transformers.models.y", "def call(): warnings.warn('old', FutureWarning)")
passes = library("peft.z", "def call(f): f()")
hands_on = library("dpg_fast.model.wrapper", "def call(f): f()")
drafts = library("transformers.generation", "def call(pass_on): pass_on(logs)")
drafts.__globals__["logs"] = logs
chatters = library("transformers.models.w", "def call(): logger.warning('the tokenizer has new tokens')")

@pytest.fixture
def old_fixture():
    logs()

def test_bad_logged(): logs()
def test_bad_logged_again(): logs()
def test_bad_fixture(old_fixture): pass
def test_bad_warned(): warns()
def test_bad_attributed_to_us():
    warnings.warn_explicit("going away", DeprecationWarning, "file.py", 1, module="dpg_fast.train.run")
def test_good_by_another_library(): passes(logs), passes(warns)
def test_bad_passed_on(): hands_on(logs)
def test_good_passed_on_between_libraries(): hands_on(lambda: 0), drafts(hands_on)
def test_good_other_log(): chatters()
def test_good_other_warning(): warnings.warn("slow")
"""


def test_announcements_fail_the_test_that_causes_them(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.deprecations import pytest_runtest_call, pytest_runtest_setup\n")
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--rootdir",
        str(tmp_path),
    ]
    command += ["--confcutdir", str(tmp_path), "-c", str(ROOT / "pyproject.toml"), str(tmp_path / "test_it.py")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = [
        line
        for line in ran.stdout.splitlines()
        if "::test_" in line and line.split()[0] in ("PASSED", "FAILED", "ERROR")
    ]
    assert len(lines) == 10, ran.stdout + ran.stderr
    assert all(("test_good" in line) == line.startswith("PASSED") for line in lines), ran.stdout
