"""The interpreters on this machine that pyproject.toml admits: on PATH, or kept by pyenv."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent


def admitted(python: str | Path) -> str | None:
    """Its version as "3.11" if the package may be installed for it, else None; None for a shim that leads nowhere."""
    code = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.python_version())"
    try:
        said = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    short, full = said.split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return short if SpecifierSet(project["requires-python"]).contains(full, prereleases=True) else None


def found() -> dict[str, str]:
    """Version and path of one interpreter for each minor version, oldest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python3.{minor}") for minor in range(11, 30)]
    candidates += sorted(map(str, pyenv.glob("3.*/bin/python")))
    versions: dict[str, str] = {}
    for python in filter(None, candidates):
        if (version := admitted(python)) is not None:
            versions.setdefault(version, str(python))
    return dict(sorted(versions.items(), key=lambda pair: int(pair[0].partition(".")[2])))


def ends() -> dict[str, str]:
    """The oldest and the newest of `found()`.

    Raises:
        SystemExit: there is none.
    """
    all_of_them = found()
    if not all_of_them:
        raise SystemExit("no interpreter that pyproject.toml admits is on PATH or among pyenv's")
    return {version: all_of_them[version] for version in (next(iter(all_of_them)), list(all_of_them)[-1])}
