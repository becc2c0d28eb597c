"""The changelog and the tag of a release; what the workflows call exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT
from tests.support.docs import check_command, load_script

release = load_script("release.py")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GOOD = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n- b\n\n## [0.1.0] - 2026-11-30\n\n- a\n"


def test_the_changelog_is_in_order() -> None:
    assert release.main(["check"]) == 0


def test_a_release_that_agrees_is_let_through() -> None:
    assert release.faults(GOOD, "0.2.0", "v0.2.0") == []


@pytest.mark.parametrize(
    ("change", "version", "tag", "said"),
    [
        (("## [Unreleased]\n\n", ""), "0.2.0", None, "first part"),
        ((" - 2026-12-01", ""), "0.2.0", None, "0.2.0 has no date"),
        (("2026-12-01", "1.12.2026"), "0.2.0", None, "0.2.0 has no date"),
        (("[0.2.0]", "[0.0.9]"), "0.1.0", None, "newest first"),
        (("[0.2.0]", "[next]"), "0.1.0", None, "'next' is not a version"),
        (("- b\n", ""), "0.2.0", "v0.2.0", "part of 0.2.0 is empty"),
        (("", ""), "0.2.0", "0.2.0", "the tag must be v0.2.0"),
        (("", ""), "0.3.0", "v0.3.0", "no part ## [0.3.0]"),
        (("", ""), "0.1.0", "v0.1.0", "newest version is 0.2.0, not 0.1.0"),
    ],
)
def test_what_does_not_agree_is_named(change: tuple[str, str], version: str, tag: str | None, said: str) -> None:
    (fault,) = release.faults(GOOD.replace(*change, 1) if change[0] else GOOD, version, tag)
    assert said in fault


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_exists(path: Path) -> None:
    """Targets of make, scripts and files that lead to a release. actionlint checks the rest where it can be had."""
    text = path.read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    lines = [line for job in jobs.values() for step in job["steps"] for line in step.get("run", "").splitlines()]
    assert lines
    for line in lines:
        if line.startswith("make "):
            check_command(re.sub(r"\$\{\{ matrix\.end \}\}", "oldest", line))
        for script in re.findall(r"python/\w+\.py", line):
            assert (ROOT / script).is_file()
        for file in re.findall(r"requirements/\w+\.txt", line):
            assert (ROOT / file).is_file()
    for job in jobs.values():
        needs = job.get("needs", [])
        assert {needs} <= set(jobs) if isinstance(needs, str) else set(needs) <= set(jobs)
    for name in re.findall(r"^ {6}- (\S+)$", text, re.M):
        if "/" in name or "." in name:
            assert list(ROOT.glob(name)), f"{path.name} waits for changes of {name}, which is not there"
