"""A language model behind an API as a user names it, and the client that asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.llm.adaptation import LIMITS
from dpg_fast.llm.client import LLMClient
from dpg_fast.llm.prices import PriceTable
from dpg_fast.llm.settings import DEFAULT_KEY_VARIABLE, LLMSettings
from dpg_fast.util.errors import DPGError

__all__ = ["Server"]


@dataclass(frozen=True)
class Server:
    """Which model, where, and how it is asked.

    Attributes:
        model: name of the model, as its server knows it.
        url: of an OpenAI-compatible API; None is OpenAI's.
        key_env: environment variable that holds the API key.
        temperature: of the replies; None leaves it to the server.
        max_tokens: longest reply; None leaves it to the server.
        legacy_max_tokens: send the limit as ``max_tokens`` instead of ``max_completion_tokens``.
        structured: how a reply's form is asked for, as in `LLMSettings`.
        parameters: further parameters of each call; limits and temperature have fields of their own.
        headers: name of a header to send -> environment variable that holds its value.
        query: parameters of the address, such as Azure's "api-version".
        concurrency: calls under way at once.
        timeout: seconds for one attempt of a call.
        max_retries: after overload, server errors and broken connections.
        prices: JSON file of prices.
        cache: file that keeps the replies; None puts it where `client` is told.
        retry_failed: pay again for refused, cut or unreadable replies.
        dry_run: nothing will be sent, and no file is made for replies.
    """

    model: str
    url: str | None = None
    key_env: str = DEFAULT_KEY_VARIABLE
    temperature: float | None = None
    max_tokens: int | None = None
    legacy_max_tokens: bool = False
    structured: str = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 8
    timeout: float = 120.0
    max_retries: int = 6
    prices: Path | None = None
    cache: Path | None = None
    retry_failed: bool = False
    dry_run: bool = False

    def client(self, replies: Path) -> LLMClient:
        """A client that keeps its replies in the file ``replies`` unless `cache` names another.

        Raises:
            DPGError: settings that cannot be used, or an unreadable table of prices.
        """
        parameters = dict(self.parameters)
        if twice := sorted({*LIMITS, "temperature"} & set(parameters)):
            raise DPGError(
                f"{', '.join(twice)}: not among the parameters; the options --max-tokens and --temperature set them"
            )
        if self.max_tokens is not None:
            parameters["max_tokens" if self.legacy_max_tokens else "max_completion_tokens"] = self.max_tokens
        if self.temperature is not None:
            parameters["temperature"] = self.temperature
        settings = LLMSettings(
            self.model,
            self.url,
            api_key_variable=self.key_env,
            parameters=parameters,
            headers=self.headers,
            query=self.query,
            structured=self.structured,
            concurrency=self.concurrency,
            timeout=self.timeout,
            max_retries=self.max_retries,
        )
        if not self.dry_run:
            settings.sent_headers()  # a variable that is not set is found before anything is done
        prices = PriceTable() if self.prices is None else PriceTable.load(self.prices)
        kept = self.cache or replies
        kept = Path(":memory:") if self.dry_run and not kept.exists() else kept
        return LLMClient(settings, kept, prices=prices, retry_failed=self.retry_failed)
