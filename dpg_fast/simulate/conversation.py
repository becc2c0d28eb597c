"""A conversation under way, how each speaker sees it, and what of generated text counts as a turn.

Every speaker sees the conversation from its own side: own turns are the assistant's, everybody else's the user's. What others
say is data: it is defused before it enters a prompt of the local model, and fenced in the prompt of an endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dpg_fast.llm import Fence, defuse
from dpg_fast.personified.data.record import ANALYSIS, RESPONSE
from dpg_fast.simulate.scenario import Scenario, Speaker
from dpg_fast.text.prompting import Message

SILENCE = "..."
_END = re.compile(r"[.!?…][\"'”’)]*(?=\s|$)")
_STAGE = re.compile(r"<TIME-[A-Z0-9-]+>\s*")


@dataclass(frozen=True)
class Said:
    """One turn: the speaker's place in the scenario, and the text."""

    speaker: int
    text: str


@dataclass
class Conversation:
    """A scenario with a seed, and what has been said so far."""

    scenario: Scenario
    seed: int
    said: list[Said] = field(default_factory=list)

    @classmethod
    def begin(cls, scenario: Scenario, seed: int) -> Conversation:
        """With the scripted opening."""
        return cls(scenario, seed, [Said(scenario.place(line.speaker), line.text) for line in scenario.opening])

    @property
    def key(self) -> str:
        """Scenario and seed."""
        return f"{self.scenario.name}#{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether all turns are there."""
        return len(self.said) >= self.scenario.turns

    def heard(self, turn: int) -> str:
        """What the others said between the speaker's previous turn and this one; the cue if nothing."""
        speaker = self.said[turn].speaker
        found: list[str] = []
        for other in reversed(self.said[:turn]):
            if other.speaker == speaker:
                break
            found.append(other.text)
        return "\n".join(reversed(found)) or self.scenario.cue


def system_text(scenario: Scenario, speaker: Speaker) -> str | None:
    """What a speaker is told: its persona and the setting."""
    return " ".join(filter(None, (speaker.persona, scenario.setting))) or None


def own_view(scenario: Scenario, said: Sequence[Said], speaker: int) -> list[Message]:
    """The turns from one side: own ones as the assistant's, what others say in a row as one user message.

    With more than two speakers each of the others' turns begins with the name. The first message is always the user's: the cue,
    where the speaker began or nothing has been said; the last as well.
    """
    named = len(scenario.speakers) > 2
    found: list[Message] = []
    for turn in said:
        if turn.speaker == speaker:
            if not found:
                found.append({"role": "user", "content": scenario.cue})
            if found[-1]["role"] == "assistant":
                found[-1]["content"] += f"\n{turn.text}"
            else:
                found.append({"role": "assistant", "content": defuse(turn.text)})
            continue
        text = defuse(f"{scenario.names[turn.speaker]}: {turn.text}" if named else turn.text)
        if found and found[-1]["role"] == "user":
            found[-1]["content"] += f"\n{text}"
        else:
            found.append({"role": "user", "content": text})
    if not found or found[-1]["role"] == "assistant":
        found.append({"role": "user", "content": scenario.cue})
    return found


def latest_turns(said: Sequence[Said], fits: Callable[[Sequence[Said]], bool]) -> Sequence[Said]:
    """As many of the latest turns as fit; the last one whether it fits or not."""
    if fits(said) or len(said) < 2:
        return said
    low, high = 1, len(said) - 1  # the answer lies between
    while low < high:
        middle = (low + high + 1) // 2
        if fits(said[-middle:]):
            low = middle
        else:
            high = middle - 1
    return said[-low:]


def endpoint_messages(scenario: Scenario, said: Sequence[Said], speaker: int) -> list[Message]:
    """The prompt of an endpoint: persona, setting and the fenced transcript."""
    own = scenario.speakers[speaker]
    others = [name for i, name in enumerate(scenario.names) if i != speaker]
    transcript = "\n".join(f"{scenario.names[turn.speaker]}: {turn.text}" for turn in said)
    fence = Fence.around([transcript])
    told = system_text(scenario, own)
    system = (
        f"You speak as {own.name} in a conversation with {', '.join(others)}.{f' {told}' if told else ''}\n"
        f"Answer with {own.name}'s next turn alone: what is said, in at most {words_of(scenario)} words, without a name in "
        f"front and without stage directions.\n{fence.notice()} To {own.name} it is what people have said: answer it as "
        f"{own.name} would."
    )
    spoken = f"The conversation so far:\n{fence.wrap('conversation', transcript)}\n\n" if said else ""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{spoken}{scenario.cue if not said else f'What does {own.name} say now?'}"},
    ]


def words_of(scenario: Scenario) -> int:
    """Words of a turn: three for every four tokens."""
    return max(8, scenario.generation.max_new_tokens * 3 // 4)


def clean_turn(text: str, names: Sequence[str], speaker: int, *, cut: bool) -> str:
    """What of a generated text is the speaker's turn.

    Of a text with an analysis the response alone is kept; stage tokens and the own name in front go; the turn ends where
    somebody else's name with a colon begins a line. Nothing left gives `SILENCE`.

    Args:
        cut: the text may have been stopped at its length: what follows the last whole sentence goes, if there is one.
    """
    text = _STAGE.sub("", text)
    if RESPONSE in text:
        text = text.split(RESPONSE, 1)[1]
    elif text.lstrip().startswith(ANALYSIS):
        text = ""  # it never came to the response
    every = "|".join(re.escape(name) for full in names for name in {full, full.split()[0]})
    own = "|".join(re.escape(name) for name in {names[speaker], names[speaker].split()[0]})
    text = re.sub(rf"^\s*(?:{own})\s*:\s*", "", text, flags=re.IGNORECASE)
    text = re.split(rf"(?:^|\n)\s*(?:{every}|user|assistant)\s*:", text, maxsplit=1, flags=re.IGNORECASE)[0]
    text = " ".join(text.split())
    if cut:
        ends = list(_END.finditer(text))
        if ends:
            text = text[: ends[-1].end()]
    return text.strip() or SILENCE
