"""What a comparison of hypernetworks measures: the bare model, the baselines, and the hypernetworks themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.api_prompt import APIPrompt
from dpg_fast.evaluation.methods import (
    LORA,
    BareModel,
    DescriptionPrompt,
    LoraAdapter,
    Method,
    SimplePrompt,
    WrappedModel,
)
from dpg_fast.llm import LLMClient
from dpg_fast.model import artifact
from dpg_fast.model.artifact import AdapterParts
from dpg_fast.model.identity import adapter_identity
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET

HYPERNETWORK, NEURONS, BOTH = "hypernetwork", "neurons", "neurons + hypernetwork"
PROMPTS = ("prompt", "description")


@dataclass(frozen=True)
class Contenders:
    """Who takes part, beside the bare model.

    Args:
        hypernets: name -> directory or Hub id of an adapter with a hypernetwork; the first is what the others are compared with.
        prompts: of :data:`PROMPTS`.
        loras: name -> PEFT directory of a plain LoRA with the scores in the prompt.
        neurons: directory or Hub id of an adapter with personality neurons.
        both: also the first hypernetwork and the neurons together.
        api: a model behind an API that is only prompted.

    Raises:
        ValueError: nobody to compare, a name twice, or a part that is not given.
    """

    hypernets: Mapping[str, str]
    prompts: Sequence[str] = PROMPTS
    loras: Mapping[str, Path] = field(default_factory=dict)
    neurons: str | None = None
    both: bool = False
    api: LLMClient | None = None

    def __post_init__(self) -> None:
        if not self.hypernets:
            raise DPGError("name at least one adapter with a hypernetwork")
        unknown = [name for name in self.prompts if name not in PROMPTS]
        if unknown:
            raise DPGError(f"unknown baselines {', '.join(unknown)}; accepted: {', '.join(PROMPTS)}")
        if self.both and self.neurons is None:
            raise DPGError("hypernetwork and neurons together need an adapter with neurons")
        taken = {BareModel.name, SimplePrompt.name, DescriptionPrompt.name, NEURONS, BOTH, APIPrompt.name}
        again = [name for name in (*self.hypernets, *self.loras) if name in taken]
        if again or set(self.hypernets) & set(self.loras):
            raise DPGError(f"each method has a name of its own; already taken: {', '.join(again or self.loras)}")
        for directory in self.loras.values():
            if not (directory / "adapter_model.safetensors").is_file():
                raise DPGError(f"{directory} is not a PEFT adapter (it has no adapter_model.safetensors)")

    @property
    def compared(self) -> str:
        """The method that the others are set against."""
        return next(iter(self.hypernets))

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
        allow_mismatch: bool = False,
    ) -> list[Method]:
        """All methods, the bare model first.

        Args:
            base, tokenizer: the bare model.
            settings: of the answers.
            directories: of :meth:`locate`.
            allow_mismatch: accept adapters of another base model.

        Raises:
            ValueError: an adapter lacks the part that it is named for, or belongs to another base model.
        """
        parts = {
            name: artifact.load(directory, base, allow_mismatch=allow_mismatch)
            for name, directory in directories.items()
        }
        made: list[Method] = [BareModel(base, tokenizer, settings)]
        if "prompt" in self.prompts:
            made.append(SimplePrompt(base, tokenizer, settings))
        if "description" in self.prompts:
            made.append(DescriptionPrompt(base, tokenizer, settings))
        if self.api is not None:
            made.append(APIPrompt(self.api, tokenizer, settings))
        made += [LoraAdapter(base, tokenizer, settings, path, name) for name, path in self.loras.items()]

        def wrapped(name: str, hypernet: str | None, neurons: bool) -> WrappedModel:
            own = [n for n in (hypernet, NEURONS if neurons else None) if n is not None]
            identity = adapter_identity(directories[own[0]])
            if len(own) == 2:
                identity = {"adapter": {n: adapter_identity(directories[n])["adapter"] for n in own}, **_base(identity)}
            steering = parts[NEURONS].steering if neurons else None
            return WrappedModel(
                name,
                base,
                tokenizer,
                settings,
                steering=steering,
                calibration=parts[NEURONS].calibration if neurons else None,
                hypernet=None if hypernet is None else parts[hypernet].hypernet,
                identity=identity,
            )

        if self.neurons is not None:
            _needs(parts, NEURONS, "steering", "personality neurons", self.neurons)
            made.append(wrapped(NEURONS, None, True))
        for name, where in self.hypernets.items():
            _needs(parts, name, "hypernet", "a hypernetwork", where)
            made.append(wrapped(name, name, False))
        if self.both:
            made.append(wrapped(BOTH, self.compared, True))
        return made


def _base(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"base": identity["base"]}


def _needs(parts: Mapping[str, AdapterParts], name: str, part: str, what: str, where: str) -> None:
    if getattr(parts[name], part) is None:
        raise DPGError(f"{where} has no {what}")


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
