"""Every option of every command has a help text, in whole sentences; what commands share is called and explained the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import dpg_fast
from dpg_fast.cli import options
from dpg_fast.cli.app import app

Command = tuple[str, Any]


def commands(command: Any, name: str = "dpg-fast") -> Iterator[Command]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for verb, below in inner.items():
        yield from commands(below, f"{name} {verb}")


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_help_is_whole_sentences(name: str, command: Any) -> None:
    assert not command.hidden and command.help and command.help.strip().endswith(".")
    for parameter in command.params:
        assert re.match(r'[A-Z"].*\.$', parameter.help or "", re.DOTALL), (parameter.name, parameter.help)


def test_shared_options_are_declared_once() -> None:
    declared = set()
    for alias in vars(options).values():
        for info in getattr(alias, "__metadata__", ()):
            declared.add(info.help.removesuffix(options.AGAIN))
    texts: dict[str, set[str]] = defaultdict(set)
    users: dict[str, list[str]] = defaultdict(list)
    for name, command in ALL:
        for parameter in command.params:
            if parameter.param_type_name == "option":
                texts[parameter.opts[0]].add(parameter.help.removesuffix(options.AGAIN))
                users[parameter.opts[0]].append(name)
    assert texts.pop("--out") == {options.FOLDER_HELP, options.FILE_HELP}
    several = {flag: found for flag, found in texts.items() if len(found & declared) and len(found) > 1}
    assert not several
    for flag in ("--base-model", "--judge", "--judge-model", "--judge-url", "--judge-key-env", "--dtype", "--seed"):
        assert len(users[flag]) > 1 and texts[flag] <= declared


def test_version_and_completion() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.output == f"dpg-fast {dpg_fast.__version__}\n"
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
