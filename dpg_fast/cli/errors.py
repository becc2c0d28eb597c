"""A deliberate refusal ends a program with one line and status 2, Ctrl-C with one and 130; other errors keep their traceback."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from dpg_fast.util.errors import DPGError

STATUS = 2
INTERRUPTED = 130  # as shells have it: 128 and the number of the signal
EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "docx": "documents",
    "fastapi": "serve",
    "gguf": "demo",
    "jinja2": "assess",
    "lm_eval": "eval",
    "matplotlib": "plots",
    "openai": "llm",
    "peft": "peft",
    "prometheus_client": "serve",
    "pypdf": "documents",
    "rank_bm25": "data",
    "scipy": "eval",
    "sklearn": "data",
    "trl": "train",
    "uvicorn": "serve",
    "vaderSentiment": "lexical",
    "yaml": "train",
}  # module: the extra of this package that brings it


class Group(TyperGroup):
    """Commands whose refusals end with ``COMMAND: MESSAGE`` on one line and with `STATUS`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = refusal(error)
            if message is None:
                raise
            command = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
            typer.secho(f"{command}: {message}", fg="red", err=True)
            raise typer.Exit(STATUS) from None
        except KeyboardInterrupt:
            typer.secho(
                "Stopped. What was stored is kept; commands that resume go on from there when started again.", err=True
            )
            raise typer.Exit(INTERRUPTED) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with the whole first sentence of each."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(200)) for name, command in commands if command])


def group(text: str, **more: Any) -> typer.Typer:
    """A group of commands with its help text."""
    return typer.Typer(cls=Group, help=text, no_args_is_help=True, rich_markup_mode=None, **more)


def refusal(error: Exception) -> str | None:
    """What to tell the user, or None when the error is a fault of this package or of a library.

    Refusals are what the package refuses itself, what files, the network and servers refuse, and a package that is not
    installed. `ImportError` counts where this package raised it (it then names no module) and for modules of an extra.
    """
    from dpg_fast.llm import LLMError

    if isinstance(error, (DPGError, LLMError, OSError)) and not isinstance(error, BrokenPipeError):
        return str(error)
    if isinstance(error, ImportError):
        module = (error.name or "").partition(".")[0]
        if not module:
            return str(error)
        if isinstance(error, ModuleNotFoundError) and module in EXTRAS:
            return f"this needs the package {module}: pip install 'dpg-fast[{EXTRAS[module]}]'"
    return None
