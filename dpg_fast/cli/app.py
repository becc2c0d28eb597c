"""The ``dpg-fast`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg_fast.cli.data import data
from dpg_fast.cli.errors import one_line_errors
from dpg_fast.cli.judge import judge
from dpg_fast.cli.neurons.app import neurons
from dpg_fast.cli.personified import personified
from dpg_fast.cli.questionnaire import assess
from dpg_fast.cli.questions import questions
from dpg_fast.cli.simulate import simulate
from dpg_fast.cli.verify import verify

app = typer.Typer(
    name="dpg-fast",
    help="Language models with a controllable Big Five personality.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def env() -> None:
    """Show versions, the compiled module, and which backend each kernel would use here and why."""
    from dpg_fast.cli.environment import print_environment

    print_environment()


@app.command()
def demo(
    question: Annotated[str | None, typer.Option(help="Asked of everybody.")] = None,
    personality: Annotated[
        list[str] | None, typer.Option(help='Repeatable: "E+5", "E-5 N+4", a preset such as "leader", or "base".')
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=1024, help="Length of each answer.")] = 48,
    output: Annotated[Path, typer.Option(help="Picture of the scores.")] = Path("dpg_fast_demo.png"),
    speed: Annotated[bool, typer.Option(help="Measure the time per step against the bare model and PEFT.")] = True,
    way: Annotated[str, typer.Option(help="neurons, hypernetwork, both (at once), or all three in turn.")] = "all",
) -> None:
    """Let SmolLM2-135M answer one question as several people in one batch; judge, time and plot the answers."""
    from dpg_fast.cli.demo import run_demo

    with one_line_errors("dpg-fast demo"):
        run_demo(question, personality, max_new_tokens, output, speed, way)


app.command("verify")(verify)
assess.command("judge")(judge)
app.add_typer(assess, name="assess")
data.add_typer(personified, name="personified")
app.add_typer(data, name="data")
app.add_typer(neurons, name="neurons")
app.add_typer(questions, name="questions")
app.add_typer(simulate, name="simulate")


def main() -> None:
    """Entry point of the console script."""
    app()
