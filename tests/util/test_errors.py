"""What ends a program with one line, and what keeps its traceback."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

import dpg_fast
from dpg_fast.architecture.layers import UnsupportedArchitectureError
from dpg_fast.cli.errors import group, refusal
from dpg_fast.llm import LLMError
from dpg_fast.model.layers.changes import NoEffectError
from dpg_fast.util.errors import DPGError, WrongTypeError


def program(error: Exception) -> typer.Typer:
    outer, inner = group("Everything.", name="outer"), group("A part.")

    @inner.command("fail")
    def fail() -> None:
        raise error

    @inner.command("other")
    def other() -> None: ...

    outer.add_typer(inner, name="inner")
    return outer


def test_refusals_are_value_errors_of_one_kind() -> None:
    assert dpg_fast.DPGError is DPGError and issubclass(DPGError, ValueError)
    assert all(issubclass(kind, DPGError) for kind in (UnsupportedArchitectureError, NoEffectError, WrongTypeError))
    assert issubclass(NoEffectError, RuntimeError) and issubclass(WrongTypeError, TypeError)
    with pytest.raises(DPGError, match=r"-5\.\.5"):
        dpg_fast.Personality("E+7")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DPGError("no such trait"), "no such trait"),
        (LLMError("wrong key"), "wrong key"),
        (FileNotFoundError("no such file: x"), "no such file: x"),
        (ImportError("pictures need matplotlib"), "pictures need matplotlib"),
        (ModuleNotFoundError("No module named 'trl.x'", name="trl.x"), "pip install 'dpg-fast[train]'"),
    ],
)
def test_a_refusal_is_one_line_with_status_2(error: Exception, message: str) -> None:
    result = CliRunner().invoke(program(error), ["inner", "fail"])
    assert result.exit_code == 2 and result.output.startswith("outer inner fail: ") and message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a shape is wrong"),
        TypeError("unexpected keyword"),
        KeyError("x"),
        RuntimeError("x"),
        ImportError("cannot import name 'y' from 'trl'", name="trl"),
        ModuleNotFoundError("No module named 'dpg_fast.y'", name="dpg_fast.y"),
    ],
)
def test_a_fault_keeps_its_traceback(error: Exception) -> None:
    assert refusal(error) is None
    assert CliRunner().invoke(program(error), ["inner", "fail"]).exception is error
