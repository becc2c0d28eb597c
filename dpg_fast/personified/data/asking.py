"""Calls in steps, where a server that fails in the middle does not take what is finished with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dpg_fast.llm import Call, Failure, LLMClient, LLMError, Result, Usage
from dpg_fast.llm.results import Run

Runner = Callable[[Sequence[Call[Any]], str], Run]


class Asker:
    """Runs calls; after the server has failed for good, answers from stored replies alone.

    Attributes:
        broken: why the server is not asked any more, None while it is.
        usage, paid: tokens behind all results, and those that this run caused.
        served_by: names the server gave.
        replied: how many results there were, with or without an answer.
    """

    def __init__(self, client: LLMClient, run: Runner | None = None) -> None:
        self.client = client
        self._run: Runner = run or (lambda calls, title: client.run(calls))
        self.broken: str | None = None
        self.usage, self.paid = Usage(), Usage()
        self.served_by: set[str] = set()
        self.replied = 0

    def __call__(self, calls: Sequence[Call[Any]], title: str) -> list[Result[Any]]:
        """One result for each call, in order."""
        results: list[Result[Any]] | None = None
        if calls and self.broken is None:
            try:
                results = self._run(calls, title).results
            except LLMError as error:
                self.broken = str(error)
        if results is None:
            results = [self._stored(call) for call in calls]
        for result in results:
            self.usage, self.paid = self.usage + result.usage, self.paid + result.paid
            if result.served_by:
                self.served_by.add(result.served_by)
        self.replied += len(results)
        return results

    def _stored(self, call: Call[Any]) -> Result[Any]:
        known = self.client.stored(call)
        return known or Result(call.item, None, Failure("unreachable", self.broken or "not asked"))
