"""What a user can put right ends a program with one line instead of a traceback. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_errors(script: str) -> Iterator[None]:
    """For scripts: the line is the message of `SystemExit`."""
    try:
        yield
    except Exception as error:
        if not _can_be_put_right(error):
            raise
        raise SystemExit(f"{script}: {error}") from None


@contextmanager
def command_errors(command: str, *more: type[Exception]) -> Iterator[None]:
    """For commands of ``dpg-fast``: the line in red, and exit status 2. ``more`` are further errors that end so."""
    try:
        yield
    except Exception as error:
        if not _can_be_put_right(error, *more):
            raise
        import typer

        typer.secho(f"dpg-fast {command}: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


def _can_be_put_right(error: Exception, *more: type[Exception]) -> bool:
    from dpg_fast.llm import LLMError

    return isinstance(error, (ValueError, ImportError, OSError, LLMError, *more))
