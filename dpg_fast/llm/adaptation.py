"""What a run has learnt about its server: once, from the first call that is refused for it, and for all calls after that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpg_fast.llm.refusals import Kind, Refusal
from dpg_fast.llm.structured import MODES, Mode

_LONG_PROMPT, _CUT_BELOW = 1000, 0.4  # estimated tokens; a share that no tokenizer of ordinary text comes down to
LIMITS = ("max_completion_tokens", "max_tokens")


@dataclass
class Adaptation:
    """How calls are sent now, and what has been found out.

    Attributes:
        mode: how structure is asked for.
        fixed: whether the mode must stay as it is.
        replied: whether any reply has come. Until then calls go one at a time.
        notes: what differs from what was asked for, in words for the user.
    """

    mode: Mode = MODES[0]
    fixed: bool = False
    replied: bool = False
    notes: list[str] = field(default_factory=list)
    _enforced: bool = False  # a reply in this mode had the form
    _limit: str | None = None  # the name that the server knows, where it refused the other
    _cut: bool = False
    _without: set[str] = field(default_factory=set)

    def parameters(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Those to send instead of those that were asked for."""
        kept = {name: value for name, value in asked.items() if name not in self._without}
        return kept if self._limit is None else {self._limit if name in LIMITS else name: kept[name] for name in kept}

    def learn(self, refusal: Refusal, mode: Mode, sent: Mapping[str, Any]) -> bool:
        """Whether the refused call, sent in ``mode`` with these parameters, can be sent again in another way."""
        if refusal.kind is Kind.FORMAT:
            return self._step_down(mode, MODES[min(MODES.index(mode) + 1, len(MODES) - 1)], "refuses")
        if refusal.kind is Kind.LIMIT_NAME:
            name = next((name for name in LIMITS if name in sent), None)
            if name is None or self._limit is not None:
                return name is not None and name != self._limit  # sent before another call found it out
            self._limit = LIMITS[1 - LIMITS.index(name)]
            self.note(f"the server does not know {name}: the limit is sent as {self._limit}")
            return True
        if refusal.kind is Kind.TEMPERATURE and "temperature" in sent:
            self._without.add("temperature")
            self.note(f"the server refuses temperature {sent['temperature']}: it is left to the server")
            return True
        return False

    def formless(self, mode: Mode) -> None:
        """A reply that holds no object at all: a server that enforces the form cannot give one."""
        if not self._enforced:
            self._step_down(mode, "text", "ignores")

    def formed(self, mode: Mode) -> None:
        """A reply of the form."""
        self._enforced = self._enforced or mode == self.mode

    def counted(self, tokens: int | None, expected: int, item: str) -> None:
        """Note it where a server counted so few tokens of a long prompt that it must have cut it."""
        if not self._cut and expected >= _LONG_PROMPT and tokens and tokens < _CUT_BELOW * expected:
            self._cut = True
            self.note(
                f"the server seems to cut long prompts: it counted {tokens:,} tokens of about {expected:,} ({item}); raise its "
                "context, or lower --context-tokens"
            )

    def _step_down(self, tried: Mode, to: Mode, what: str) -> bool:
        if self.mode != tried:  # another call has found it out meanwhile
            return True
        if self.fixed or to == tried:
            return False
        self.mode, self._enforced = to, False
        self.note(
            f"the server {what} response_format {tried}: "
            + ("the prompt says the form" if to == "text" else f"{to} is sent")
        )
        return True

    def note(self, text: str) -> None:
        """Keep something to tell the user, once."""
        if text not in self.notes:
            self.notes.append(text)
