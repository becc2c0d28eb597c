"""Code blocks of README and docs: found here, checked here, run here."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.main
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from tests.support import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "recipes/README.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
KINDS = {"bash", "python", "json", "yaml", "text"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: `kind` is the word behind the fence, `section` the nearest heading above it."""

    page: str
    section: str
    kind: str
    code: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.code.splitlines() if shlex.split(line, comments=True)]


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text[: match.start()]), re.M)
        found.append(Block(page, headings[-1] if headings else "", match[1], match[2]))
    return found


def commands() -> list[tuple[str, str]]:
    """Every line of a shell block, with its page; a line that stands on several pages comes once."""
    lines: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "bash":
                lines |= {line: page for line in block.lines if line not in lines}
    return [(page, line) for line, page in lines.items()]


def load_script(name: str) -> ModuleType:
    """The module of a file below python/."""
    path = ROOT / "python" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_command(line: str) -> None:
    """Resolve a command without doing its work: programs, verbs, options, values and files of settings must exist."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["accelerate", "launch"]:
        words = ["python", *words[words.index(next(w for w in words if w.endswith(".py"))) :]]
    match words:
        case ["dpg-fast", *rest]:
            _resolve(typer.main.get_command(app), rest)
        case ["make", *rest]:
            _succeeds(["make", "--dry-run", "-C", str(ROOT), *rest])
        case ["pip", "install", *rest]:
            pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-build-isolation", "--quiet"]
            _succeeds([*pip, *rest], cwd=ROOT)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), module
        case ["python", script, *rest]:
            _check_script(Path(script).name, rest)
        case ["trl", "sft", "--config", file]:
            assert (ROOT / file).is_file()
        case ["lm_eval", "run", *rest]:
            assert "--tasks" in rest
        case _:
            raise AssertionError(f"no way to check {line!r}")


def _resolve(command: Any, words: list[str]) -> None:
    verbs: list[str] = []
    while hasattr(command, "resolve_command"):
        context = command.make_context("dpg-fast", words[:1], resilient_parsing=True)
        _, command, words = command.resolve_command(context, words)
        verbs.append(command.name)
    options = command.make_context(command.name, words).params
    if verbs[0] == "train":
        from dpg_fast.personified.train import DpoSettings, SftSettings
        from dpg_fast.train import TrainSettings, read_settings

        kinds = {"hypernet": TrainSettings, "characters": SftSettings, "dpo": DpoSettings}
        read_settings(kinds[verbs[1]], options["config"] and ROOT / options["config"], options["overrides"] or ())


def _check_script(name: str, words: list[str]) -> None:
    script = load_script(name)
    if hasattr(script, "COMMAND"):  # a thin script: the command of dpg-fast that it stands for
        _resolve(typer.main.get_command(app), [*script.COMMAND, *words])


def _succeeds(words: Sequence[str], cwd: Path | None = None) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Run:
    """Runs the blocks of one page one after the other in `folder`.

    Attributes:
        replace: texts of the page that stand for something else here (the address of a server, the name of a model).
        more: words added to each command that begins with the key; None leaves the command out.
        without: sections that are left out.
        namespace: the names that Python blocks share.
    """

    page: str
    folder: Path
    replace: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    without: Sequence[str] = ()
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "docs"})

    def blocks(self, *kinds: str) -> list[Block]:
        return [block for block in blocks(self.page) if block.kind in kinds and block.section not in self.without]

    def text(self, code: str) -> str:
        for old, new in self.replace.items():
            code = code.replace(old, new)
        return code

    def __call__(self, block: Block) -> None:
        if block.kind == "python":
            exec(compile(self.text(block.code), self.page, "exec"), self.namespace)
        elif block.kind == "bash":
            for line in block.lines:
                self.command(line)

    def command(self, line: str) -> None:
        """Run `line` in this process; a script or command that is not of this project is only checked."""
        more: list[str] = []
        for begin, words in self.more.items():
            if line.startswith(begin):
                if words is None:
                    return
                more = list(words)
        words = [*shlex.split(self.text(line), comments=True), *more]
        if words[0] != "dpg-fast":
            check_command(shlex.join(words))
            return
        result = CliRunner().invoke(app, words[1:], env={"COLUMNS": "200"})
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
