"""A run of calls on the terminal: the price beforehand, a bar meanwhile, what failed afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from dpg_fast.llm.calls import Call, Result
from dpg_fast.llm.client import LLMClient
from dpg_fast.llm.prices import Usage
from dpg_fast.llm.results import Plan, Run
from dpg_fast.util.progress import progress_bars
from dpg_fast.util.words import counted

_SHOWN_FAILURES = 10


def money(amount: float | None, currency: str) -> str:
    """ "0.0123 USD", or that no price is known."""
    return "unknown (no price given for this model)" if amount is None else f"{amount:.4f} {currency}"


def plan_table(plan: Plan, title: str = "Dry run: nothing was sent") -> Table:
    """The figures of a dry run."""
    table = Table(title=title, show_header=False)
    replies = "unknown (no limit set)" if plan.completion_tokens is None else f"{plan.completion_tokens:,}"
    price = money(plan.price, plan.currency)
    if plan.to_pay and plan.completion_tokens is None:
        price = "unknown (no estimate of the replies' length)"
    for name, value in (
        ("calls", f"{plan.calls:,}"),
        ("already answered, free", f"{plan.cached:,}"),
        ("to send", f"{plan.to_pay:,}"),
        ("prompt tokens, estimated", f"{plan.prompt_tokens:,}"),
        ("reply tokens, estimated", replies),
        ("price, estimated", price),
    ):
        table.add_row(name, value)
    return table


def run_with_progress(client: LLMClient, calls: Sequence[Call[Any]], console: Console, title: str) -> Run:
    """`LLMClient.run` under a progress bar that also counts failures and money."""
    with progress_bars(console) as bars:
        done, failed, paid = 0, 0, Usage()

        def step(result: Result[Any]) -> None:
            nonlocal done, failed, paid
            done, failed, paid = done + 1, failed + (result.failure is not None), paid + result.paid
            cost = client.prices.cost(client.settings.model, paid)
            notes = [
                "" if cost is None else f"{cost:.4f} {client.prices.currency}",
                f"{failed} failed" if failed else "",
            ]
            bars(title, done, len(calls), ", ".join(filter(None, notes)))

        bars(title, 0, len(calls))
        return client.run(calls, progress=step)


def told_usage(usage: Usage, what: str, client: LLMClient) -> str:
    """Replies, tokens and cost in a line."""
    cost = money(client.prices.cost(client.settings.model, usage), client.prices.currency)
    tokens = f"{usage.prompt_tokens:,} prompt and {counted(usage.completion_tokens, 'reply token')}"
    missing = (
        f"; the server did not count the tokens of {usage.uncounted:,}: the figures are too low"
        if usage.uncounted
        else ""
    )
    return f"{counted(usage.calls, 'reply', 'replies')} {what}: {tokens}, {cost}{missing}"


def print_spent(client: LLMClient, console: Console) -> None:
    """What this run paid for, failures included, and what was found out about the server."""
    console.print(told_usage(client.paid, "paid for in this run, failures included", client), highlight=False)
    for note in client.learnt.notes:
        console.print(f"Note: {note}.", markup=False, highlight=False)


def print_run(run: Run, console: Console) -> None:
    """Tokens, cost and failures of a finished run."""
    paid = run.paid
    console.print(
        f"{counted(len(run.results), 'call')}, {counted(paid.calls, 'reply', 'replies')} paid for in this run: "
        f"{paid.prompt_tokens:,} prompt and "
        f"{counted(paid.completion_tokens, 'reply token')}, {money(run.cost, run.prices.currency)}"
    )
    if paid.uncounted:
        console.print(
            f"The server did not count the tokens of {counted(paid.uncounted, 'reply', 'replies')}: the figures are too low."
        )
    if run.failed:
        kinds = Counter(result.failure.kind for result in run.failed if result.failure)
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        console.print(f"[red]{len(run.failed):,} failed:[/red] {listed}")
        for result in run.failed[:_SHOWN_FAILURES]:
            assert result.failure is not None
            console.print(f"  {result.item}: {result.failure.kind}: {result.failure.detail}", markup=False)
