"""A deprecation that a library warns of or logs fails the test during which it happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = """
import logging, warnings
import pytest
from transformers.utils import logging as theirs
from tests.deprecations import pytest_runtest_call, pytest_runtest_setup

logger = theirs.get_logger("transformers.models.llama")

def warn(module, kind):
    warnings.warn_explicit("going away", kind, "file.py", 1, module=module)

@pytest.fixture
def old_fixture():
    logger.warning_once("`past_key_values` are deprecated. Use `cache` instead.")

def test_bad_logged(): logger.warning_once("`past_key_values` are deprecated. Use `cache` instead.")
def test_bad_logged_again(): logger.warning_once("`past_key_values` are deprecated. Use `cache` instead.")
def test_bad_fixture(old_fixture): pass
def test_bad_logged_plainly(): logging.getLogger("peft.tuners").warning("This argument will be removed in 1.0")
def test_bad_warned(): warn("dpg_fast.train.run", DeprecationWarning)
def test_bad_warned_future(): warn("transformers.training_args", FutureWarning)
def test_good_other_log(): logger.warning("the tokenizer has new tokens")
def test_good_other_warning(): warn("somebody.else", DeprecationWarning)
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
    assert len(lines) == 8, ran.stdout + ran.stderr
    assert all(("test_good" in line) == line.startswith("PASSED") for line in lines), ran.stdout
