"""Token usage and what it costs. Prices come from the user; there are none in this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_json


class Usage(BaseModel):
    """Tokens of one or several calls, as the server counted them.

    Attributes:
        calls: replies received.
        prompt_tokens: tokens sent, of which the provider had `cached_prompt_tokens` in its own prompt cache.
        completion_tokens: tokens generated.
        uncounted: replies whose server reported no usage; their tokens are missing from the sums.
    """

    model_config = ConfigDict(frozen=True)

    calls: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class Price(BaseModel):
    """What a model costs, per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached_input: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    def cost(self, usage: Usage) -> float:
        """In the table's currency. Uncounted replies add nothing, so with any of them this is a lower bound."""
        cached = usage.cached_prompt_tokens if self.cached_input is not None else 0
        total = (usage.prompt_tokens - cached) * self.input + usage.completion_tokens * self.output
        return (total + cached * (self.cached_input or 0.0)) / 1e6


class PriceTable(BaseModel):
    """Prices by model name. Read with `load`: ``{"currency": "USD", "models": {"name": {"input": 1, "output": 2}}}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = "USD"
    models: dict[str, Price] = Field(default_factory=dict)

    @classmethod
    def load(cls, source: Path | str | Mapping[str, Any]) -> PriceTable:
        """From a JSON file, or a mapping of the same form.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not of that form.
        """
        name = "the price table"
        try:
            if isinstance(source, Mapping):
                return cls.model_validate(dict(source))
            name = str(source)
            return cls.model_validate(read_json(source))
        except (ValidationError, DPGError) as error:
            raise DPGError(
                f'{name}: not a price table ({error}); wanted: {{"currency": "USD", "models": '
                '{"name": {"input": 1.0, "output": 2.0, "cached_input": 0.5}}} per million tokens'
            ) from error

    def cost(self, model: str, usage: Usage) -> float | None:
        """What ``usage`` costs; None if the table has no such model: unknown is not free."""
        price = self.models.get(model)
        return None if price is None else price.cost(usage)
