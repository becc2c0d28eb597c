"""The one list of methods that an evaluation can measure, and how each is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.activation_addition import ActivationAddition, ActivationSettings, fitted_addition
from dpg_fast.evaluation.api_prompt import APIPrompt
from dpg_fast.evaluation.contrast import ContrastPrompt
from dpg_fast.evaluation.methods import (
    LORA,
    AdjectivePrompt,
    BareModel,
    DescriptionPrompt,
    LoraAdapter,
    Method,
    PersonaPrompt,
    SimplePrompt,
    WrappedModel,
)
from dpg_fast.judges.scoring import Scorer
from dpg_fast.llm import LLMClient
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.identity import adapter_identity, base_identity
from dpg_fast.personality.scores import Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET
from dpg_fast.util.progress import Progress

HYPERNETWORK, NEURONS, BOTH = "hypernetwork", "neurons", "neurons + hypernetwork"
PROMPTS: dict[str, type[BareModel]] = {
    "prompt": SimplePrompt,
    "description": DescriptionPrompt,
    "persona": PersonaPrompt,
    "adjectives": AdjectivePrompt,
    "contrast": ContrastPrompt,
}
"""Baselines of the base model alone."""
METHODS = (*PROMPTS, "activation", "neurons", "hypernet", "adapter")
"""What :func:`of_adapter` can be asked for; "adapter" is its neurons and its hypernetwork together."""


@dataclass(frozen=True)
class Lineup:
    """The methods that are measured beside the bare model, checked before anything is loaded.

    Args:
        hypernets: name -> directory or Hub id of an adapter with a hypernetwork; the first is what others are compared with.
        prompts: of :data:`PROMPTS`.
        activation: settings of activation addition; None leaves it out.
        loras: name -> PEFT directory of a plain LoRA with the scores in the prompt.
        neurons: directory or Hub id of an adapter with personality neurons.
        both: also the first hypernetwork and the neurons together.
        api: a model behind an API that is only prompted.
        left_out: names of :data:`NEURONS` and the hypernetworks that are only measured together.

    Raises:
        ValueError: an unknown name, a name twice, or a part that is not given.
    """

    hypernets: Mapping[str, str] = field(default_factory=dict)
    prompts: Sequence[str] = tuple(PROMPTS)
    loras: Mapping[str, Path] = field(default_factory=dict)
    neurons: str | None = None
    both: bool = False
    api: LLMClient | None = None
    activation: ActivationSettings | None = None
    left_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.prompts if name not in PROMPTS]
        if unknown:
            raise DPGError(f"unknown baselines {', '.join(unknown)}; accepted: {', '.join(PROMPTS)}")
        if self.both and (self.neurons is None or not self.hypernets):
            raise DPGError(
                "a hypernetwork and neurons together need an adapter with neurons and one with a hypernetwork"
            )
        taken = {BareModel.name, ActivationAddition.name, APIPrompt.name, NEURONS, BOTH}
        taken |= {method.name for method in PROMPTS.values()}
        again = [name for name in (*self.hypernets, *self.loras) if name in taken]
        if again or set(self.hypernets) & set(self.loras):
            raise DPGError(f"each method has a name of its own; already taken: {', '.join(again or self.loras)}")
        for directory in self.loras.values():
            if not (directory / "adapter_model.safetensors").is_file():
                raise DPGError(f"{directory} is not a PEFT adapter (it has no adapter_model.safetensors)")

    @property
    def compared(self) -> str:
        """The method that the others are set against: the first hypernetwork.

        Raises:
            ValueError: there is none.
        """
        if not self.hypernets:
            raise DPGError("name at least one adapter with a hypernetwork")
        return next(iter(self.hypernets))

    @property
    def names(self) -> list[str]:
        """Names of all methods, in the order of :meth:`build`: the bare model first."""
        baselines = [
            BareModel.name,
            *(method.name for name, method in PROMPTS.items() if name in self.prompts),
            *([ActivationAddition.name] if self.activation is not None else []),
            *([APIPrompt.name] if self.api is not None else []),
            *self.loras,
        ]
        alone = [*([NEURONS] if self.neurons is not None else []), *self.hypernets]
        return baselines + [name for name in alone if name not in self.left_out] + ([BOTH] if self.both else [])

    def locate(self) -> dict[str, Path]:
        """Directories of all adapters, those on the Hub fetched.

        Raises:
            ValueError, OSError: one is not an adapter.
        """
        named = dict(self.hypernets) | ({NEURONS: self.neurons} if self.neurons is not None else {})
        found = {name: artifact.locate(where) for name, where in named.items()}
        for directory in found.values():
            artifact.read_config(directory)
        return found

    def build(
        self,
        base: Any,
        tokenizer: Any,
        settings: AnswerSettings,
        directories: Mapping[str, Path],
        *,
        scorer: Scorer | None = None,
        output: Path | None = None,
        traits: Sequence[Trait] = tuple(Trait),
        allow_mismatch: bool = False,
        progress: Progress | None = None,
    ) -> list[Method]:
        """All methods, the bare model first.

        Args:
            base, tokenizer: the bare model.
            settings: of the answers.
            directories: of :meth:`locate`.
            scorer, output, traits, progress: for activation addition: what its strengths are fitted with, the evaluation's
                directory (the fit keeps its answers there), the traits that are measured, and who hears of the fit.
            allow_mismatch: accept adapters of another base model.

        Raises:
            ValueError: an adapter lacks the part that it is named for, or belongs to another base model.
        """
        loaded = {d: artifact.load(d, base, allow_mismatch=allow_mismatch) for d in dict.fromkeys(directories.values())}
        parts = {name: loaded[directory] for name, directory in directories.items()}
        for name, where in self.hypernets.items():
            if parts[name].hypernet is None:
                raise DPGError(f"{where} has no hypernetwork")
        if self.neurons is not None and parts[NEURONS].steering is None:
            raise DPGError(f"{self.neurons} has no personality neurons")

        def wrapped(name: str, hypernet: str | None, neurons: bool) -> WrappedModel:
            own = [n for n in (hypernet, NEURONS if neurons else None) if n is not None]
            identity = adapter_identity(directories[own[0]])
            if len(own) == 2:
                each = {n: adapter_identity(directories[n])["adapter"] for n in own}
                identity = {"adapter": each, "base": identity["base"]}
            return WrappedModel(
                name,
                base,
                tokenizer,
                settings,
                steering=parts[NEURONS].steering if neurons else None,
                calibration=parts[NEURONS].calibration if neurons else None,
                hypernet=None if hypernet is None else parts[hypernet].hypernet,
                identity=identity,
            )

        made: list[Method] = [BareModel(base, tokenizer, settings)]
        made += [make(base, tokenizer, settings) for name, make in PROMPTS.items() if name in self.prompts]
        if self.activation is not None:
            if scorer is None or output is None:
                raise DPGError("activation addition needs a scorer and a directory to fit its strengths with")
            identity = {"weights": base_identity(base)}
            made.append(
                fitted_addition(base, tokenizer, settings, self.activation, scorer, output, traits, identity, progress)
            )
        if self.api is not None:
            made.append(APIPrompt(self.api, tokenizer, settings))
        made += [LoraAdapter(base, tokenizer, settings, path, name) for name, path in self.loras.items()]
        if self.neurons is not None and NEURONS not in self.left_out:
            made.append(wrapped(NEURONS, None, True))
        made += [wrapped(name, name, False) for name in self.hypernets if name not in self.left_out]
        if self.both:
            made.append(wrapped(BOTH, self.compared, True))
        return made


def of_adapter(
    names: Sequence[str] | None,
    adapter: Path,
    hypernet: Path | None = None,
    activation: ActivationSettings | None = None,
) -> Lineup:
    """The named methods, with the parts of one adapter or of two.

    Args:
        names: of :data:`METHODS`; None: all that the adapters have parts for ("adapter" only where they are one).
        adapter: directory of the adapter.
        hypernet: directory of another adapter, whose hypernetwork is measured in place of the first one's.
        activation: settings of activation addition.

    Raises:
        ValueError: an unknown name, or a part that the adapter lacks.
    """
    there = parts_there(adapter, hypernet)
    if hypernet is not None and not there["hypernet"]:
        raise DPGError(f"{hypernet} has no hypernetwork")
    there["adapter"] = all(there.values()) and hypernet is None
    chosen = [name for name in METHODS if (there.get(name, True) if names is None else name in names)]
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        raise DPGError(f"unknown methods {', '.join(unknown)}; accepted: {', '.join(METHODS)}")
    if "adapter" in chosen and not there["adapter"]:
        raise DPGError("the method adapter is for adapters with both neurons and a hypernetwork")
    for name in chosen:
        if not there.get(name, True):
            raise DPGError(f"the adapter has no {name}; leave that method out")
    both = "adapter" in chosen
    alone = {NEURONS: "neurons" in chosen, HYPERNETWORK: "hypernet" in chosen}
    return Lineup(
        hypernets={HYPERNETWORK: str(hypernet or adapter)} if both or alone[HYPERNETWORK] else {},
        prompts=[name for name in PROMPTS if name in chosen],
        neurons=str(adapter) if both or alone[NEURONS] else None,
        both=both,
        activation=(activation or ActivationSettings()) if "activation" in chosen else None,
        left_out=[name for name, wanted in alone.items() if not wanted],
    )


def parts_there(adapter: Path, hypernet: Path | None = None) -> dict[str, bool]:
    """Whether an adapter, or two as for :func:`of_adapter`, have "neurons" and a "hypernet"."""
    return {
        "neurons": artifact.part_file(adapter, "neurons") is not None,
        "hypernet": artifact.part_file(hypernet or adapter, "hypernet") is not None,
    }


def named(texts: Sequence[str], default: str) -> dict[str, str]:
    """``NAME=DIR`` or ``DIR`` as name -> place; a place alone gets the default name, or its own folder's if there are several.

    Raises:
        ValueError: a name twice, or an empty part.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, where = text.partition("=")
        if not sign:
            name, where = (default if len(texts) == 1 else Path(text).name), text
        if not name.strip() or not where.strip():
            raise DPGError(f"an adapter is given as NAME=DIR or DIR, not {text!r}")
        if name in found:
            raise DPGError(f"the name {name!r} is given twice")
        found[name.strip()] = where.strip()
    return found


def shipped_or(base_model: str, hypernets: Sequence[str], neurons: str | None) -> tuple[dict[str, str], str | None]:
    """Hypernetworks by name, and the neurons: where no hypernetwork is named, those of the package for its own model."""
    shipped = not hypernets and base_model == BUNDLED
    found = named([BUNDLED_HYPERNET] if shipped else hypernets, HYPERNETWORK)
    return found, neurons or (BUNDLED if shipped else None)


def named_loras(texts: Sequence[str]) -> dict[str, Path]:
    """The same for plain LoRA adapters."""
    return {name: Path(where) for name, where in named(texts, LORA).items()}
