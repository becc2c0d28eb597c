"""``dpg-fast neurons calibrate``: sweep, fit, and write the adapter's calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from dpg_fast.evaluation.calibration import DosePoint, Guard, NeuronSteerer, PoleFit, fit_pole, run_sweep
from dpg_fast.evaluation.calibration.fit import END, NO_EFFECT, dose_points
from dpg_fast.evaluation.calibration.sweep import grid
from dpg_fast.judges.choice import JudgeChoice, fast_dtype
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import Calibration, PersonalityModel
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.identity import adapter_identity, base_identity
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.scores import MAX_SCORE, Pole
from dpg_fast.personality.traits import parse_traits
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.assets import load_questions
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import load_base
from dpg_fast.util.progress import progress_bars
from dpg_fast.util.words import counted

SPLIT: Literal["fit"] = "fit"  # neurons are searched on "search", evaluations ask "holdout"


@dataclass(frozen=True)
class CalibrateOptions:
    """What to sweep and how to fit it; see the command's help.

    Args:
        traits: letters.
        questions: of each trait, from the split "fit".
        most: largest strength.
        steps: strengths above 0.
        answers: how answers are generated.
        guard: bounds of fluency.
        judge: which one.
        sweep: directory of the raw results; None puts them beside the adapter.
        output: calibration file; None is the adapter's own.
        plot: PNG file.
        allow_mismatch: accept another base model than the adapter's.
    """

    traits: str = "OCEAN"
    questions: int = 6
    most: float = 2.4
    steps: int = 6
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    guard: Guard = field(default_factory=Guard)
    judge: JudgeChoice = field(default_factory=JudgeChoice)
    sweep: Path | None = None
    output: Path | None = None
    plot: Path | None = None
    allow_mismatch: bool = False


def run_calibrate(
    adapter: Path, model_name: str, options: CalibrateOptions, console: Console | None = None
) -> dict[Pole, PoleFit]:
    """Sweep, fit every pole, write the calibration and print what it reaches. A killed run continues.

    Raises:
        ValueError: no such adapter, one without neurons, or options that make no sweep.
        ImportError: scipy, or matplotlib for a picture, is missing.
    """
    console = console or Console()
    traits, strengths = parse_traits(options.traits), grid(options.most, options.steps)
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise DPGError(f"the picture is written as PNG; {options.plot} does not end in .png")
    if not (adapter / artifact.CONFIG).is_file():
        raise DPGError(f"{adapter} is not a directory with an adapter; copy or download it first")
    neurons, stored = artifact.part_file(adapter, "neurons"), artifact.part_file(adapter, "calibration")
    if neurons is None or stored is None:
        raise DPGError(f"{adapter} has no personality neurons to calibrate")
    table = SteeringTable.load(neurons)
    poles = [pole for pole in table.poles if pole.trait in traits]
    asked = {t: [q.question for q in load_questions(t, SPLIT)][: options.questions] for t in traits}
    if not all(asked.values()):
        raise DPGError("calibrate on at least one question for each trait")
    base, tokenizer = load_base(model_name)
    parts = artifact.load(adapter, base, allow_mismatch=options.allow_mismatch)
    model = PersonalityModel.from_model(base, steering=parts.steering)
    identity = adapter_identity(adapter) | {"weights": base_identity(base)}
    steerer = NeuronSteerer(model, tokenizer, options.answers, identity)
    folder = options.sweep or adapter.with_name(adapter.name + ".calibration")
    judge = options.judge.make(base, tokenizer, folder / "replies.sqlite")
    scorer = Scorer(judge, base, tokenizer, options.answers.system, fast_dtype())
    questions = sum(len(asked[pole.trait]) for pole in poles)
    count = questions * len(strengths) + sum(map(len, asked.values()))
    console.print(
        f"{counted(count, 'answer')}, strengths {', '.join(f'{s:g}' for s in strengths)}; raw results in {folder}"
    )
    with progress_bars(console) as report:
        sweep = run_sweep(
            steerer, scorer, asked, poles, strengths, folder, batch_size=options.answers.batch_size, progress=report
        )
    about = {
        "judge": judge.describe(),
        "questions": {"split": SPLIT, "each trait": options.questions},
        "answers": options.answers.about(),
    }
    before = parts.calibration
    fits = {
        pole: fit_pole(
            dose_points(sweep, pole), pole, options.guard, about, without_effect=before.strength(pole, MAX_SCORE)
        )
        for pole in poles
    }
    output = options.output or stored
    Calibration(before.strength_at_5, {**before.curves, **{p: fit.curve for p, fit in fits.items()}}).save(output)
    console.print(calibration_table(fits))
    for line in warnings(fits):
        console.print(line, highlight=False)
    console.print(judge.describe(), style="dim")
    if options.plot is not None:
        from dpg_fast.evaluation.calibration.plot import draw_calibration

        draw_calibration(fits, options.plot, f"Calibration on {counted(options.questions, 'question')} for each trait")
        console.print(f"Drawn in {options.plot}")
    console.print(f"Saved to {output}")
    return fits


def calibration_table(fits: Mapping[Pole, PoleFit]) -> Table:
    """What level 5 of each pole gets and reaches."""
    table = Table(
        title="Level 5 gets the strength of the largest usable shift",
        caption="bare, judged: mean scores of the bare model and, fitted, at level 5. Interval and perplexity (of the bare "
        "model's answers -> there) are those of the nearest strength that was measured",
    )
    for name in ("pole", "strength", "limited by", "bare", "judged", "shift", "95% interval", "perplexity"):
        table.add_column(name, justify="left" if name in ("pole", "limited by") else "right")
    for pole, fit in fits.items():
        end = _measured_end(fit)
        table.add_row(
            str(pole),
            f"{fit.curve.max_strength:.2f}",
            fit.limited_by,
            f"{fit.points[0].score:+.2f}",
            f"{fit.reached:+.2f}",
            f"{fit.largest_shift:.2f}",
            f"[{end.low:+.1f}, {end.high:+.1f}]",
            f"{fit.points[0].perplexity:.1f} -> {end.perplexity:.1f}",
        )
    return table


def warnings(fits: Mapping[Pole, PoleFit]) -> list[str]:
    """What a user should know before trusting the levels, in plain sentences."""
    lines = []
    for pole, fit in fits.items():
        end = _measured_end(fit)
        if fit.limited_by == NO_EFFECT:
            lines.append(
                f"{pole}: no effect was found up to strength {fit.usable:.2f} (bare score {fit.points[0].score:+.2f}); its "
                f"levels are a straight line to {fit.curve.max_strength:.2f}, as before, and the judge sees nothing of them."
            )
            continue
        if end.low <= 0:
            lines.append(
                f"{pole}: the shift at strength {end.strength:g} may be chance (95% interval [{end.low:+.2f}, "
                f"{end.high:+.2f}]); calibrate on more questions."
            )
        if fit.beyond_reach:
            levels = ", ".join(f"{level:+d}" for level in fit.beyond_reach)
            lines.append(
                f"{pole}: answers are judged {fit.reached:+.2f} at the end; judged levels {levels} are beyond reach "
                f"(limited by: {fit.limited_by}). Requested levels are shares of what is reached."
            )
        if fit.limited_by == END:
            lines.append(f"{pole}: the effect still grew at the end of the sweep; try a larger --max-strength.")
    return lines


def _measured_end(fit: PoleFit) -> DosePoint:
    """The judged point of the sweep nearest to level 5, but not the bare model."""
    judged = [point for point in fit.points if point.answers and point.strength]
    return min(judged, key=lambda point: abs(point.strength - fit.curve.max_strength))
