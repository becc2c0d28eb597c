"""What a run of calls would cost, and what it gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpg_fast.llm.calls import Result
from dpg_fast.llm.prices import PriceTable, Usage


@dataclass(frozen=True)
class Plan:
    """What running some calls would mean, found without a call.

    Attributes:
        calls: how many were asked about.
        cached: answered (or known to fail) from stored replies.
        to_pay: requests to send now; a repair may follow any of them.
        prompt_tokens: estimated, of the requests to send.
        completion_tokens: estimated, likewise; None without an estimate or limit of a reply's length.
        price: of these, None without a price for the model or an estimate of the replies.
        currency: of `price`.
    """

    calls: int
    cached: int
    to_pay: int
    prompt_tokens: int
    completion_tokens: int | None
    price: float | None
    currency: str


@dataclass
class Run:
    """The results of `LLMClient.run`, in the order of the calls, failures included."""

    results: list[Result[Any]]
    model: str
    prices: PriceTable

    @property
    def failed(self) -> list[Result[Any]]:
        """The items without an answer."""
        return [result for result in self.results if result.failure is not None]

    @property
    def paid(self) -> Usage:
        """Tokens this run caused."""
        return sum((result.paid for result in self.results), Usage())

    @property
    def usage(self) -> Usage:
        """Tokens behind the results, stored replies included."""
        return sum((result.usage for result in self.results), Usage())

    @property
    def cost(self) -> float | None:
        """What this run cost in `prices.currency`; None if the model has no price."""
        return self.prices.cost(self.model, self.paid)

    @property
    def total_cost(self) -> float | None:
        """What the results cost in all, earlier runs included."""
        return self.prices.cost(self.model, self.usage)
