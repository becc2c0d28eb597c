"""Options of commands that ask a language model behind an API. Imports nothing heavy, for every command's help needs them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from dpg_fast.llm import LLMClient

ModelName = Annotated[str, typer.Option(help="The language model, as its server names it.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible API, such as http://localhost:8000/v1. Default: OpenAI's.")
]
KeyVariable = Annotated[
    str, typer.Option(help="Environment variable that holds the API key; servers without keys need none.")
]
Temperature = Annotated[float | None, typer.Option(help="Default: the server's.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")]
LegacyMaxTokens = Annotated[
    bool, typer.Option(help="Send the limit as max_tokens, for servers that do not know max_completion_tokens.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Calls under way at once.")]
Timeout = Annotated[
    float, typer.Option(min=1, help="Seconds for one try of a call; a slow server needs more, or less concurrency.")
]
Prices = Annotated[
    Path | None, typer.Option(help='JSON, per million tokens: {"models": {"NAME": {"input": 1, "output": 2}}}.')
]
Cache = Annotated[Path | None, typer.Option(help="Where replies are kept. Default: in the folder.")]
RetryFailed = Annotated[bool, typer.Option(help="Pay again for refused, cut or unreadable replies.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print calls, tokens and price; send and write nothing.")]


@dataclass(frozen=True)
class ServerOptions:
    """The language model and how to reach it, as the command line names it."""

    model: str
    base_url: str | None = None
    api_key_variable: str = "OPENAI_API_KEY"
    temperature: float | None = None
    max_tokens: int = 2000
    legacy_max_tokens: bool = False
    concurrency: int = 8
    timeout: float = 120.0
    prices: Path | None = None
    cache: Path | None = None
    retry_failed: bool = False
    dry_run: bool = False

    def client(self, out: Path) -> LLMClient:
        """A client whose replies are kept in the folder ``out``; a dry run writes nothing."""
        from dpg_fast.llm import LLMClient, LLMSettings, PriceTable

        limit = "max_tokens" if self.legacy_max_tokens else "max_completion_tokens"
        parameters: dict[str, Any] = {limit: self.max_tokens}
        if self.temperature is not None:
            parameters["temperature"] = self.temperature
        settings = LLMSettings(
            self.model,
            self.base_url,
            api_key_variable=self.api_key_variable,
            parameters=parameters,
            concurrency=self.concurrency,
            timeout=self.timeout,
        )
        prices = PriceTable() if self.prices is None else PriceTable.load(self.prices)
        kept = self.cache or out / "replies.sqlite"
        kept = Path(":memory:") if self.dry_run and not kept.exists() else kept
        return LLMClient(settings, kept, prices=prices, retry_failed=self.retry_failed)


def asks_a_server(max_tokens: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of `ServerOptions`, which it gets as ``server``."""

    def options(
        *,
        model: ModelName,
        base_url: BaseUrl = None,
        api_key_variable: KeyVariable = "OPENAI_API_KEY",
        temperature: Temperature = None,
        max_tokens: MaxTokens = max_tokens,
        legacy_max_tokens: LegacyMaxTokens = False,
        concurrency: Concurrency = 8,
        timeout: Timeout = 120,
        prices: Prices = None,
        cache: Cache = None,
        retry_failed: RetryFailed = False,
        dry_run: DryRun = False,
    ) -> None: ...

    shared = dict(inspect.signature(options, eval_str=True).parameters)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "server"]
        hints = get_type_hints(command, include_extras=True)

        @functools.wraps(command)
        def run(**given: Any) -> None:
            server = ServerOptions(**{name: given.pop(name) for name in shared})
            command(**given, server=server)

        named = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in own] + list(shared.values())
        del run.__wrapped__  # type: ignore[attr-defined]  # typer would read the inner function's options
        run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in named}
        return run

    return decorate
