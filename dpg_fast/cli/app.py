"""The ``dpg-fast`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg_fast import __version__
from dpg_fast.cli.assess import assess
from dpg_fast.cli.chat import chat
from dpg_fast.cli.data import data
from dpg_fast.cli.errors import group
from dpg_fast.cli.evaluate import evaluate
from dpg_fast.cli.judge import fit_judge, judge
from dpg_fast.cli.neurons.app import neurons
from dpg_fast.cli.options import MaxNewTokens, OutFile, People, option
from dpg_fast.cli.personified import personified
from dpg_fast.cli.questions import questions
from dpg_fast.cli.serve import serve
from dpg_fast.cli.simulate.app import simulate
from dpg_fast.cli.train import train
from dpg_fast.cli.verify import verify
from dpg_fast.cli.witnesses.pairs import pairs, score_pairs
from dpg_fast.cli.witnesses.statements import statements

app = group(
    "Language models with a controllable Big Five personality.", name="dpg-fast", pretty_exceptions_enable=False
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpg-fast {__version__}")
        raise typer.Exit


@app.callback()
def shared(
    version: Annotated[
        bool, option("Show the version and exit.", "--version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Language models with a controllable Big Five personality."""


@app.command()
def env() -> None:
    """Show versions, the compiled module, and which backend each kernel would use here and why."""
    from dpg_fast.cli.environment import print_environment

    print_environment()


@app.command()
def demo(
    question: Annotated[str | None, option("Question that everybody is asked.")] = None,
    personality: People = None,
    max_new_tokens: MaxNewTokens = 48,
    out: OutFile = Path("dpg_fast_demo.png"),
    speed: Annotated[bool, option("Measure the time of a step beside the bare model and PEFT.")] = True,
    way: Annotated[
        str, option("What gives the personality: neurons, hypernetwork, both at once, or all three in turn.")
    ] = "all",
) -> None:
    """Let SmolLM2-135M answer one question as several people in one batch; judge, time and plot the answers."""
    from dpg_fast.cli.demo import run_demo

    run_demo(question, personality, max_new_tokens, out, speed, way)


app.command("chat")(chat)
app.command("serve")(serve)
app.command("verify")(verify)
app.add_typer(neurons, name="neurons")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")
assess.command("judge")(judge)
assess.command("fit-judge")(fit_judge)
assess.command("statements")(statements)
assess.command("pairs")(pairs)
assess.command("score-pairs")(score_pairs)
app.add_typer(assess, name="assess")
data.add_typer(personified, name="personified")
app.add_typer(data, name="data")
app.add_typer(questions, name="questions")
app.add_typer(simulate, name="simulate")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script, and of scripts that name a command by ``arguments``."""
    app(arguments, prog_name="dpg-fast")
