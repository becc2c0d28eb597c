"""Activation addition: a direction in the residual stream, added while decoding.

After the published idea of adding differences of activations between contrasting prompts (Turner et al., arXiv 2308.10248;
means over many prompts as in Rimsky et al., arXiv 2312.06681). Ours: the prompts, the position (last prompt token), adding to
generated tokens only, and the strengths, which are fitted like those of the neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpg_fast.compat.transformers import cache_of, cached_tokens
from dpg_fast.evaluation.calibration import Guard, fit_pole, run_sweep
from dpg_fast.evaluation.calibration.fit import dose_points
from dpg_fast.evaluation.calibration.sweep import grid
from dpg_fast.evaluation.harness import Examinee
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import Calibration
from dpg_fast.neurons.search import PERSONA_PROMPT
from dpg_fast.personality.row import PersonalityLike, read_rows
from dpg_fast.personality.scores import POLES, Personality, Pole, Trait
from dpg_fast.text.answers import AnswerSettings, greedy_answers
from dpg_fast.text.assets import load_descriptions, load_questions
from dpg_fast.text.prompting import chat_prompt, encode_prompts
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress

Fit = Callable[["ActivationAddition"], Calibration]


@dataclass(frozen=True)
class ActivationSettings:
    """Of activation addition as a baseline.

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


class ActivationAddition:
    """Adds ``strength * direction`` to the output of one decoder layer, on generated tokens.

    The direction of a trait is the mean hidden state at the last token of high-pole persona prompts minus that of low-pole ones.

    Args:
        base: a bare causal LM of transformers whose decoder has ``layers``.
        tokenizer: its tokenizer.
        settings: of the generation.
        layer: to whose output is added; default: the middle one.
        prompts: of each pole, from the questions and descriptions of split "search".
        fit: called once by :meth:`prepare`, gives level -> strength; without it level 5 has strength 1.
        fit_about: what the fit depends on, JSON-ready.
        traits: whose directions are needed.

    Raises:
        ValueError: there is no such layer.
    """

    name: str = "activation addition"
    neutral_is_bare: bool = True
    has_likelihoods: bool = True

    def __init__(
        self,
        base: Any,
        tokenizer: Any,
        settings: AnswerSettings,
        *,
        layer: int | None = None,
        prompts: int = 8,
        fit: Fit | None = None,
        fit_about: Mapping[str, Any] | None = None,
        traits: Sequence[Trait] = tuple(Trait),
    ) -> None:
        self._layers = base.get_decoder().layers
        self.layer = len(self._layers) // 2 if layer is None else layer
        if not 0 <= self.layer < len(self._layers):
            raise DPGError(f"the model has layers 0 to {len(self._layers) - 1}, not {layer}")
        if prompts < 1:
            raise DPGError(f"directions need at least one prompt of each pole, got {prompts}")
        self.base, self.tokenizer, self.settings = base, tokenizer, settings
        self.prompts, self.traits = prompts, tuple(traits)
        self.calibration = Calibration()
        self._fit, self._fit_about = fit, dict(fit_about or {})
        self._directions: Tensor | None = None

    def describe(self) -> str:
        how = "fitted on questions of split fit" if self._fit else "not fitted, 1 at level 5"
        return (
            f"The difference of mean hidden states between the poles' persona prompts ({self.prompts} each), added to the output "
            f"of layer {self.layer} on generated tokens; strengths {how}. Ours after the published idea."
        )

    def about(self) -> Mapping[str, Any]:
        return {"layer": self.layer, "prompts": self.prompts, "fit": self._fit_about}

    def prepare(self) -> None:
        self._directions = torch.stack(
            [
                self._mean_state(Pole(t, True)) - self._mean_state(Pole(t, False))
                if t in self.traits
                else torch.zeros(self.base.config.get_text_config().hidden_size)
                for t in Trait
            ]
        )
        if self._fit is not None:
            self.calibration = self._fit(self)

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        strengths = [self.calibration.strengths(p) if p else [0.0] * len(POLES) for p in personalities]
        return self._generate(questions, torch.tensor(strengths))

    def steer(self, questions: Sequence[str], poles: Sequence[Pole], strengths: Sequence[float]) -> list[str]:
        """As :class:`dpg_fast.evaluation.calibration.Steerer` says."""
        table = torch.zeros(len(questions), len(POLES))
        for row, (pole, strength) in enumerate(zip(poles, strengths, strict=True)):
            table[row, pole.index] = strength
        return self._generate(questions, table)

    def examinee(self, personality: Personality | None) -> Examinee:
        return Examinee(_AddingModel(self), personality)

    def close(self) -> None:
        pass

    def _generate(self, questions: Sequence[str], strengths: Tensor) -> list[str]:
        """Answers with strengths float32 [n, 10] of the poles."""
        with self.adding(self._vectors(strengths)):
            return greedy_answers(self.base, self.tokenizer, questions, self.settings)

    def vector(self, personality: Personality | None) -> Tensor:
        """float32 [1, hidden]: what is added for one person."""
        return self._vectors(
            torch.tensor([self.calibration.strengths(personality) if personality else [0.0] * len(POLES)])
        )

    def _vectors(self, strengths: Tensor) -> Tensor:
        if self._directions is None:
            raise RuntimeError("call prepare() of activation addition first")
        return (strengths[:, 0::2] - strengths[:, 1::2]) @ self._directions

    @contextmanager
    def adding(self, vectors: Tensor, steered: Tensor | None = None) -> Iterator[None]:
        """Adds to the layer's output inside the block.

        Args:
            vectors: [n, hidden], or [1, hidden] for all rows.
            steered: bool [L] or [n, L], the tokens of a forward that are added to; None: where a single token is decoded.
        """

        def add(module: Any, arguments: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if steered is None and hidden.shape[1] > 1:  # the prompt
                return output
            moved = hidden + vectors.to(hidden)[:, None] * (1 if steered is None else steered.to(hidden)[..., None])
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        handle = self._layers[self.layer].register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    @torch.inference_mode()
    def _mean_state(self, pole: Pole) -> Tensor:
        """float32 [hidden]: mean output of the layer at the last token of the pole's persona prompts."""
        people = [d.text for d in load_descriptions(pole, "search")]
        asked = [q.question for q in load_questions(pole.trait, "search")][: self.prompts]
        prompts = [
            chat_prompt(
                self.tokenizer,
                [{"role": "user", "content": question}],
                system=PERSONA_PROMPT.format(description=people[i % len(people)]),
            )
            for i, question in enumerate(asked)
        ]
        found: list[Tensor] = []

        def keep(module: Any, arguments: Any, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output)[:, -1].float().cpu())

        handle = self._layers[self.layer].register_forward_hook(keep)
        try:
            for prompt in prompts:  # one by one, so that there is no padding
                self.base.get_decoder()(**encode_prompts(self.tokenizer, [prompt], self.base.device), use_cache=False)
        finally:
            handle.remove()
        return torch.cat(found).mean(0)


def fitted_addition(
    base: Any,
    tokenizer: Any,
    settings: AnswerSettings,
    options: ActivationSettings,
    scorer: Scorer,
    directory: Path,
    traits: Sequence[Trait],
    identity: Mapping[str, Any],
    progress: Progress | None = None,
) -> ActivationAddition:
    """Activation addition whose strengths are fitted, when it is prepared, like those of the neurons.

    Args:
        base, tokenizer, settings: as of `ActivationAddition`.
        options: of the baseline.
        scorer: of the answers that strengths are fitted on.
        directory: of the evaluation; the fit keeps its answers there.
        traits: that are measured.
        identity: of the base model.
        progress: of the fit.
    """
    strengths = grid(options.most, options.steps)

    def fit(method: ActivationAddition) -> Calibration:
        asked = {t: [q.question for q in load_questions(t, "fit")][: options.questions] for t in traits}
        poles = [pole for pole in POLES if pole.trait in traits]

        def report(what: str, done: int, total: int) -> None:
            if progress is not None:
                progress(f"{method.name}: fit, {what}", done, total)

        # not method.about(): that depends on the fit that is being made
        about = {**identity, "answers": settings.about(), "layer": method.layer, "prompts": method.prompts}
        folder = directory / "activation_fit"
        steerer = _Steering(method, about)
        sweep = run_sweep(
            steerer, scorer, asked, poles, strengths, folder, batch_size=settings.batch_size, progress=report
        )
        return Calibration({}, {pole: fit_pole(dose_points(sweep, pole), pole, Guard()).curve for pole in poles})

    fitted = options.questions > 0
    return ActivationAddition(
        base,
        tokenizer,
        settings,
        layer=options.layer,
        prompts=options.prompts,
        fit=fit if fitted else None,
        fit_about={"questions": options.questions, "strengths": list(strengths)} if fitted else None,
        traits=traits,
    )


class _Steering:
    """Activation addition as a sweep wants it."""

    def __init__(self, method: ActivationAddition, about: Mapping[str, Any]) -> None:
        self.steer = method.steer
        self._about = about

    def about(self) -> Mapping[str, Any]:
        return self._about


class _AddingModel:
    """The base model with a vector added for each person, called as a `PersonalityModel` is."""

    def __init__(self, method: ActivationAddition) -> None:
        self.method, self.base = method, method.base
        self.config, self.device, self.generation_config = (
            self.base.config,
            self.base.device,
            self.base.generation_config,
        )

    def __call__(
        self, input_ids: Tensor, *, personality: PersonalityLike = None, steer_from: int | Tensor = 0, **options: Any
    ) -> Any:
        past = cached_tokens(cache_of((), options))
        places = past + torch.arange(input_ids.shape[1], device=input_ids.device)
        steered = places >= (steer_from[:, None] if isinstance(steer_from, Tensor) else steer_from)
        with self.method.adding(self._vectors(personality, len(input_ids)), steered):
            return self.base(input_ids, **options)

    def generate(self, *, personality: PersonalityLike = None, **options: Any) -> Any:
        with self.method.adding(self._vectors(personality, len(options["input_ids"]))):
            return self.base.generate(**options)

    def _vectors(self, personality: PersonalityLike, rows: int) -> Tensor:
        people = [None if row is None else row.scores for row in read_rows(personality, rows)]
        return torch.cat([self.method.vector(person) for person in people])
