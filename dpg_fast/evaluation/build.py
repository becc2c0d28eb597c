"""The methods that an evaluation compares, made of a base model and an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.activation_addition import ActivationAddition
from dpg_fast.evaluation.calibration import Guard, fit_pole, run_sweep
from dpg_fast.evaluation.calibration.fit import dose_points
from dpg_fast.evaluation.calibration.sweep import grid
from dpg_fast.evaluation.methods import BareModel, DescriptionPrompt, Method, SimplePrompt, WrappedModel
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import Calibration
from dpg_fast.model.artifact import AdapterParts
from dpg_fast.personality.scores import POLES, Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.assets import load_questions
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress

METHODS = ("prompt", "description", "activation", "neurons", "hypernet", "adapter")


@dataclass(frozen=True)
class ActivationSettings:
    """Settings of the activation-addition baseline.

    Args:
        layer: to whose output is added; None is the middle one.
        prompts: of each pole.
        questions: of each trait, split "fit", on which strengths are fitted; 0 leaves strength 1 at level 5.
        most: largest strength of that sweep, in units of the difference of means.
        steps: strengths above 0.
    """

    layer: int | None = None
    prompts: int = 8
    questions: int = 3
    most: float = 2.0
    steps: int = 4


def build_methods(
    names: Sequence[str],
    base: Any,
    tokenizer: Any,
    settings: AnswerSettings,
    parts: AdapterParts,
    scorer: Scorer,
    directory: Path,
    *,
    identity: Mapping[str, Any],
    hypernet_identity: Mapping[str, Any] | None = None,
    traits: Sequence[Trait] = tuple(Trait),
    activation: ActivationSettings | None = None,
    progress: Progress | None = None,
) -> list[Method]:
    """The bare model and the named methods.

    Args:
        names: of :data:`METHODS`; "hypernet" and "adapter" (hypernetwork and neurons together) need an adapter that has them.
        base, tokenizer: the bare model.
        settings: of the generation.
        parts: of the adapter.
        scorer: for the fit of activation addition.
        directory: of the evaluation; the fit keeps its raw results there.
        identity: of adapter and base.
        hypernet_identity: of the hypernetwork's adapter and base, where it is another adapter.
        traits: that are measured.
        activation: settings of that baseline.
        progress: of its fit.

    Raises:
        ValueError: an unknown name, or a part that the adapter lacks.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise DPGError(f"unknown methods {', '.join(unknown)}; accepted: {', '.join(METHODS)}")
    for name, needed in (("neurons", (parts.steering,)), ("hypernet", (parts.hypernet,))):
        if name in names and None in needed:
            raise DPGError(f"the adapter has no {name}; leave that method out")
    if "adapter" in names and (parts.steering is None or parts.hypernet is None or hypernet_identity is not None):
        raise DPGError("the method adapter is for adapters with both neurons and a hypernetwork")

    def wrapped(name: str, neurons: bool, hypernet: bool) -> WrappedModel:
        return WrappedModel(
            name,
            base,
            tokenizer,
            settings,
            steering=parts.steering if neurons else None,
            calibration=parts.calibration,
            hypernet=parts.hypernet if hypernet else None,
            identity=hypernet_identity or identity if hypernet else identity,
        )

    made: list[Method] = [BareModel(base, tokenizer, settings)]
    for name in METHODS:
        if name not in names:
            continue
        if name == "prompt":
            made.append(SimplePrompt(base, tokenizer, settings))
        elif name == "description":
            made.append(DescriptionPrompt(base, tokenizer, settings))
        elif name == "activation":
            made.append(
                _activation(
                    base,
                    tokenizer,
                    settings,
                    scorer,
                    directory,
                    traits,
                    activation or ActivationSettings(),
                    identity,
                    progress,
                )
            )
        elif name == "neurons":
            made.append(wrapped("neurons", True, False))
        elif name == "hypernet":
            made.append(wrapped("hypernetwork", False, True))
        else:
            made.append(wrapped("neurons + hypernetwork", True, True))
    return made


def default_names(parts: AdapterParts, one_adapter: bool = True) -> list[str]:
    """All methods that the parts allow; of two adapters their parts are not put together into one method."""
    there = {"neurons": parts.steering is not None, "hypernet": parts.hypernet is not None}
    there["adapter"] = all(there.values()) and one_adapter
    return [name for name in METHODS if there.get(name, True)]


def _activation(
    base: Any,
    tokenizer: Any,
    settings: AnswerSettings,
    scorer: Scorer,
    directory: Path,
    traits: Sequence[Trait],
    options: ActivationSettings,
    identity: Mapping[str, Any],
    progress: Progress | None,
) -> ActivationAddition:
    strengths = grid(options.most, options.steps)

    def fit(method: ActivationAddition) -> Calibration:
        asked = {t: [q.question for q in load_questions(t, "fit")][: options.questions] for t in traits}
        poles = [pole for pole in POLES if pole.trait in traits]

        def report(what: str, done: int, total: int) -> None:
            if progress is not None:
                progress(f"{method.name}: fit, {what}", done, total)

        sweep = run_sweep(
            _Steering(
                method, {**identity, "answers": settings.about(), "layer": method.layer, "prompts": method.prompts}
            ),
            scorer,
            asked,
            poles,
            strengths,
            directory / "activation_fit",
            batch_size=settings.batch_size,
            progress=report,
        )
        return Calibration({}, {pole: fit_pole(dose_points(sweep, pole), pole, Guard()).curve for pole in poles})

    return ActivationAddition(
        base,
        tokenizer,
        settings,
        layer=options.layer,
        prompts=options.prompts,
        fit=fit if options.questions else None,
        fit_about={"questions": options.questions, "strengths": list(strengths)} if options.questions else None,
        traits=traits,
    )


class _Steering:
    """Activation addition as the sweep wants it: with what its answers depend on, but not the fit that is being made."""

    def __init__(self, method: ActivationAddition, about: Mapping[str, Any]) -> None:
        self.steer = method.steer
        self._about = about

    def about(self) -> Mapping[str, Any]:
        return self._about
