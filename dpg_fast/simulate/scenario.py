"""A scenario file: who talks with whom, about what, in which order, and how turns are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from dpg_fast.personality.scores import Personality
from dpg_fast.text.records import Text
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_yaml

Order = Literal["alternate", "addressed", "random", "model"]
Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\s:<>\[\]|][^:<>\[\]|\n]{0,47}$")]
CUE = "Begin the conversation."


class Endpoint(BaseModel):
    """A model behind an OpenAI-compatible API.

    Attributes:
        model: its name there.
        base_url: None is OpenAI's.
        api_key_variable: environment variable with the key; the key itself is never written anywhere.
        parameters: sent with every call, over those of the scenario's generation; null leaves one out. A server without
            max_completion_tokens takes {max_completion_tokens: null, max_tokens: 200}.
    """

    model_config = ConfigDict(extra="forbid")

    model: Text
    base_url: Text | None = None
    api_key_variable: Text = "OPENAI_API_KEY"
    parameters: dict[str, Any] = Field(default_factory=dict)


class Speaker(BaseModel):
    """Somebody who takes part: the local model with a row of its own, or an endpoint.

    Attributes:
        name: unique, without colons and brackets; others may address the speaker by it or by its first word.
        personality: five scores in any form `Personality` reads; None gives no profile.
        character, stage: a tuned character that the local model holds, and the stage of its life.
        persona: told to the speaker alone, before the setting.
        endpoint: speaks in place of the local model.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: Name
    personality: Personality | None = None
    character: Text | None = None
    stage: Text | None = None
    persona: Text | None = None
    endpoint: Endpoint | None = None

    @model_validator(mode="after")
    def _check(self) -> Speaker:
        if self.stage is not None and self.character is None:
            raise DPGError(f"{self.name} has a stage but no character")
        if self.personality is not None and self.personality.character is not None:
            raise DPGError(f"{self.name}: name the character in character and stage, not in personality")
        if self.endpoint is not None and (self.personality is not None or self.character is not None):
            raise DPGError(
                f"{self.name} speaks through an endpoint, which takes no personality or character; describe the person in persona"
            )
        return self

    @property
    def row(self) -> Any:
        """What the local model is given as this speaker's ``personality``; None is the base model."""
        if self.character is None:
            return self.personality
        if self.personality is None:
            return Personality(character=self.character, stage=self.stage)
        return Personality(self.personality, character=self.character, stage=self.stage)


class ScenarioLine(BaseModel):
    """A scripted turn."""

    model_config = ConfigDict(extra="forbid")

    speaker: Name
    text: Text


class Generation(BaseModel):
    """How the local model writes a turn; endpoints get temperature, top_p and the length.

    Attributes:
        temperature: 0 is greedy, and then all conversations of a scenario are the same.
    """

    model_config = ConfigDict(extra="forbid")

    max_new_tokens: int = Field(default=60, ge=1, le=4096)
    temperature: float = Field(default=0.8, ge=0, le=10, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1, allow_inf_nan=False)
    repetition_penalty: float = Field(default=1.1, ge=1, le=3, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """For ``generate``."""
        found: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "do_sample": self.temperature > 0,
        }
        return found | ({"temperature": self.temperature, "top_p": self.top_p} if self.temperature else {})


class Scenario(BaseModel):
    """A conversation to be had.

    Attributes:
        name: letters, digits, "-" and "_"; unique in a run.
        about: for readers of the results; nobody in the conversation sees it.
        setting: told to everybody.
        cue: the user message that makes somebody speak to whom nobody has spoken yet.
        speakers: two or more.
        opening: scripted first turns.
        turns: of each conversation, the opening included.
        order: who speaks next. "alternate": in the order of `speakers`; "addressed": who is named in the last turn, else who has
            been silent longest; "random": anybody but the last speaker, drawn from the seed; "model": the one of the others whose
            name the local model finds likeliest as the next in the transcript, against how likely it finds the name anyway.
        terms: of the conversation's domain, for `compare`.
        context_tokens: longest prompt with the answer; the oldest turns are left out of what a speaker sees.
        generation: see there.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    about: str = ""
    setting: Text | None = None
    cue: Text = CUE
    speakers: list[Speaker] = Field(min_length=2, max_length=16)
    opening: list[ScenarioLine] = Field(default_factory=list)
    turns: int = Field(default=12, ge=1, le=1000)
    order: Order = "alternate"
    terms: list[Text] = Field(default_factory=list)
    context_tokens: int = Field(default=1024, ge=64)
    generation: Generation = Field(default_factory=Generation)

    @field_validator("order", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        names = [speaker.name.casefold() for speaker in self.speakers]
        if len(set(names)) < len(names):
            raise DPGError(f"two speakers have the same name: {', '.join(self.names)}")
        for line in self.opening:
            if line.speaker.casefold() not in names:
                raise DPGError(f"the opening is spoken by {line.speaker!r}, who is none of {', '.join(self.names)}")
        if len(self.opening) >= self.turns:
            raise DPGError(f"the opening has {len(self.opening)} of {self.turns} turns: nothing is left to be said")
        if self.context_tokens <= self.generation.max_new_tokens:
            raise DPGError(
                f"context_tokens ({self.context_tokens}) must exceed max_new_tokens ({self.generation.max_new_tokens})"
            )
        return self

    @property
    def names(self) -> list[str]:
        """Names of the speakers, in order."""
        return [speaker.name for speaker in self.speakers]

    def place(self, name: str) -> int:
        """The place of the speaker with that name, case ignored."""
        return [n.casefold() for n in self.names].index(name.casefold())

    @property
    def needs_local(self) -> bool:
        """Whether the local model speaks, or says who does."""
        return self.order == "model" or any(speaker.endpoint is None for speaker in self.speakers)


def load_scenario(path: Path) -> Scenario:
    """Read a YAML (or JSON) file.

    Raises:
        FileNotFoundError: no such file.
        ImportError: PyYAML is missing.
        ValueError: it is not a scenario; the message says which part is wrong.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such scenario file: {path}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DPGError(f"{path.name} is not a scenario: it must be a mapping with name, speakers and turns")
    try:
        return Scenario.model_validate({"name": path.stem} | content)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, fault['loc'])) or 'scenario'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False, include_context=False)
        ]
        raise DPGError(f"{path.name}: " + "; ".join(found)) from error


def load_scenarios(paths: list[Path]) -> list[Scenario]:
    """Several files; a folder stands for its ``*.yaml``.

    Raises:
        ValueError: no file, or two scenarios of the same name; and as `load_scenario`.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    if not files:
        raise DPGError("no scenario file was named")
    found = [load_scenario(file) for file in files]
    names = [scenario.name for scenario in found]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DPGError(f"two scenarios are named {', '.join(repeated)}")
    return found
