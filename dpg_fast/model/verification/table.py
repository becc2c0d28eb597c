"""What :meth:`PersonalityModel.verify` found, one row for each check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dpg_fast.model.layers.changes import NoEffectError

Outcome = Literal["ok", "failed", "cannot tell"]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what has to hold.
        compared: with what, in words.
        difference: the largest found (or the smallest, where ends have to differ); None where there was an error.
        bound: the largest accepted (or the smallest); None as above.
        outcome: "cannot tell" where the bare model's own rounding is larger than what a personality does.
        note: why it failed, or what else is to be said.
        apart: whether ``difference`` has to exceed ``bound``.
    """

    name: str
    compared: str
    difference: float | None
    bound: float | None
    outcome: Outcome
    note: str = ""
    apart: bool = False

    @property
    def ok(self) -> bool:
        """Whether it did not fail."""
        return self.outcome != "failed"


@dataclass(frozen=True)
class Verification:
    """The checks of one model; ``str()`` and `table` print them.

    Attributes:
        title: which model, dtype and device.
        checks: in the order in which they were made.
        rounding: relative difference of the bare model's logits when its embeddings are moved by one rounding.
    """

    title: str
    checks: tuple[Check, ...]
    rounding: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)

    def require(self) -> Verification:
        """This object.

        Raises:
            NoEffectError: a check failed; the message has them all.
        """
        if not self.ok:
            raise NoEffectError(f"{self.title}: " + "; ".join(_sentence(check) for check in self.failures))
        return self

    def table(self) -> Any:
        """A `rich.table.Table` with a line for each check."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, title_justify="left")
        for column, where in (("check", "left"), ("compared", "left"), ("difference", "right"), ("bound", "right")):
            table.add_column(column, justify=where)  # type: ignore[arg-type]
        table.add_column("")
        for check in self.checks:
            style = {"ok": "green", "failed": "bold red", "cannot tell": "yellow"}[check.outcome]
            name = f"{check.name}\n  {check.note}" if check.note else check.name
            numbers = (Text(text) for text in _numbers(check))
            table.add_row(Text(name), Text(check.compared), *numbers, Text(check.outcome, style=style))
        return table

    def __str__(self) -> str:
        lines = [self.title]
        for check in self.checks:
            difference, bound = _numbers(check)
            note = f"  ({check.note})" if check.note else ""
            lines.append(f"{check.outcome:11}  {check.name}: {check.compared}, {difference} {bound}{note}")
        return "\n".join(lines)


def _numbers(check: Check) -> tuple[str, str]:
    if check.difference is None or check.bound is None:
        return "-", "-"
    return f"{check.difference:.2g}", f"{'>' if check.apart else '<='} {check.bound:.2g}"


def _sentence(check: Check) -> str:
    return f"{check.name} ({check.note or ' '.join(_numbers(check))})"
