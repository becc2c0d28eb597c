"""Who speaks next."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from dpg_fast.llm import defuse
from dpg_fast.simulate.conversation import Conversation
from dpg_fast.text.continuation import continuation_logp
from dpg_fast.util.errors import DPGError

NameScorer = Callable[[Sequence[Conversation]], list[int]]


def next_speakers(conversations: Sequence[Conversation], scorer: NameScorer | None) -> list[int]:
    """The place of the next speaker of each conversation, by its scenario's rule.

    Args:
        scorer: for those whose rule is "model".

    Raises:
        ValueError: a scenario asks for the model, and there is none.
    """
    found = {i: _by_rule(c) for i, c in enumerate(conversations) if c.scenario.order != "model" or _only(c) is not None}
    rest = [i for i in range(len(conversations)) if i not in found]
    if rest and scorer is None:
        raise DPGError("the order 'model' needs a local model")
    if rest and scorer is not None:
        found |= dict(zip(rest, scorer([conversations[i] for i in rest]), strict=True))
    return [found[i] for i in range(len(conversations))]


def _only(conversation: Conversation) -> int | None:
    """Who speaks if there is no choice: the first at the beginning, the other one of two."""
    if not conversation.said:
        return 0
    return 1 - conversation.said[-1].speaker if len(conversation.scenario.speakers) == 2 else None


def _by_rule(conversation: Conversation) -> int:
    only = _only(conversation)
    if only is not None:
        return only
    scenario, said = conversation.scenario, conversation.said
    last, count = said[-1].speaker, len(scenario.speakers)
    if scenario.order == "alternate":
        return (last + 1) % count
    if scenario.order == "random":
        digest = hashlib.sha256(f"{conversation.key} {len(said)}".encode()).digest()
        return random.Random(digest).choice([i for i in range(count) if i != last])
    named = addressed(conversation)
    return longest_silent(conversation) if named is None else named


def addressed(conversation: Conversation) -> int | None:
    """Whom the last turn names (full name or its first word, case ignored), the last one if several; None if nobody."""
    names, last = conversation.scenario.names, conversation.said[-1]
    best: tuple[int, int] | None = None
    for place, name in enumerate(names):
        if place == last.speaker:
            continue
        for form in {name, name.split()[0]}:
            for found in re.finditer(rf"(?<!\w){re.escape(form)}(?!\w)", last.text, re.IGNORECASE):
                if best is None or found.start() > best[0]:
                    best = (found.start(), place)
    return None if best is None else best[1]


def longest_silent(conversation: Conversation) -> int:
    """Who has not spoken for longest; of those who have not spoken at all, the first in the list."""
    count = len(conversation.scenario.speakers)
    spoke = {turn.speaker: number for number, turn in enumerate(conversation.said)}
    return min((i for i in range(count) if i != conversation.said[-1].speaker), key=lambda i: (spoke.get(i, -1), i))


class LikelyName:
    """Picks the speaker whose name the bare model finds most probable after the transcript, less how probable it finds the name
    after a transcript in which nothing was said (so that a common name has no advantage). Ties go to the longest silent.

    Args:
        model: a causal LM of transformers.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(self, conversations: Sequence[Conversation]) -> list[int]:
        """The next speaker of each."""
        rows: list[tuple[int, int, bool, str, str]] = []
        for number, conversation in enumerate(conversations):
            names = conversation.scenario.names
            head = f"A conversation between {', '.join(names)}.\n\n"
            for place, name in enumerate(names):
                if place != conversation.said[-1].speaker:
                    rows.append((number, place, True, head + self._lines(conversation), f"{name}:"))
                    rows.append((number, place, False, head, f"{name}:"))
        found = continuation_logp(
            self.model, [self._ids(before) for *_, before, _ in rows], [self._ids(name) for *_, name in rows]
        )
        gains: dict[int, dict[int, float]] = {}
        for (number, place, told, *_), value in zip(rows, found, strict=True):
            own = gains.setdefault(number, {})
            own[place] = own.get(place, 0.0) + (value.total if told else -value.total)
        return [
            max(gains[number], key=lambda place: (gains[number][place], place == longest_silent(conversation)))
            for number, conversation in enumerate(conversations)
        ]

    def _lines(self, conversation: Conversation) -> str:
        """The latest turns, half the scenario's context at most."""
        names, used = conversation.scenario.names, 0
        lines: list[str] = []
        for turn in reversed(conversation.said):
            line = f"{names[turn.speaker]}: {defuse(turn.text)}\n"
            used += len(self._ids(line))
            if lines and used > conversation.scenario.context_tokens // 2:
                break
            lines.append(line)
        return "".join(reversed(lines))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
