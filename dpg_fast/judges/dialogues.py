"""Dialogues as judges see them: who the target is, who else speaks, and pieces that fit a judge's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dpg_fast.text.records import DialogueRecord, Turn
from dpg_fast.util.errors import DPGError

TARGET = 0
_ENDS = ("\n\n", "\n", ". ", "! ", "? ", "。", "; ", ", ", " ")  # where a long turn is cut, the best first
_LETTERS = 8  # of a token on average, at most


@dataclass(frozen=True)
class Line:
    """What somebody says: the target (speaker 0) or another one (1, 2, ... in the order of their first words)."""

    speaker: int
    text: str


@dataclass(frozen=True)
class Dialogue:
    """The lines of a conversation. System texts and names are left out: a judge must not see what was asked for, or who it is."""

    lines: tuple[Line, ...]

    @property
    def target_texts(self) -> tuple[str, ...]:
        """What the target says."""
        return tuple(line.text for line in self.lines if line.speaker == TARGET)

    def answers(self) -> list[tuple[str, str]]:
        """(what the others said just before, what the target said) for each stretch of the target's lines."""
        found: list[tuple[str, str]] = []
        heard: list[str] = []
        said: list[str] = []
        for line in (*self.lines, None):
            if line is not None and line.speaker == TARGET:
                said.append(line.text)
                continue
            if said:
                found.append(("\n".join(heard), "\n".join(said)))
                heard, said = [], []
            if line is not None:
                heard.append(line.text)
        return found


def read_dialogue(record: DialogueRecord, target: str | None = None) -> Dialogue:
    """The record's dialogue with its target: the speaker named ``target``, else the record's character, else the assistant.

    Names are compared without regard to case. Empty turns are left out.

    Raises:
        ValueError: nobody has the name asked for, nobody is the assistant, or several named speakers are.
    """
    turns = [turn for turn in record.messages if turn.role != "system"]
    speakers = [_speaker(turn) for turn in turns]
    chosen = _choose(turns, speakers, record.character, target)
    numbers = {chosen: TARGET}
    lines = []
    for turn, speaker in zip(turns, speakers, strict=True):
        if turn.content.strip():
            number = numbers.setdefault(speaker, len(numbers))
            lines.append(Line(number, turn.content.strip()))
    return Dialogue(tuple(lines))


def _speaker(turn: Turn) -> tuple[str, str]:
    return ("name", turn.name.casefold()) if turn.name else ("role", turn.role)


def _choose(
    turns: Sequence[Turn], speakers: Sequence[tuple[str, str]], character: str | None, target: str | None
) -> tuple[str, str]:
    wanted = (target or character or "").strip().casefold()
    if wanted and ("name", wanted) in speakers:
        return ("name", wanted)
    if target and (character is None or wanted != character.strip().casefold()):
        names = sorted({turn.name for turn in turns if turn.name})
        raise DPGError(f"nobody named {target!r} speaks; named speakers: {', '.join(names) or 'none'}")
    assistants = {speaker for turn, speaker in zip(turns, speakers, strict=True) if turn.role == "assistant"}
    if not assistants:
        raise DPGError("nobody speaks as the assistant, so there is nobody to judge; name a target")
    if len(assistants) > 1:
        raise DPGError("several speakers have the role assistant; name the target, or the record's character")
    return assistants.pop()


def pieces(lines: Sequence[Line], budget: int, count: Callable[[str], int], per_line: int) -> list[tuple[Line, ...]]:
    """The lines in pieces of at most ``budget`` tokens, cut between lines where possible, long lines inside.

    Pieces in which the target says nothing are left out: there is nothing in them to judge.

    Args:
        lines: in order.
        budget: tokens of a piece.
        count: tokens of a text, estimated.
        per_line: tokens that each line costs besides its text.

    Raises:
        ValueError: a budget that holds no text.
    """
    if budget <= per_line:
        raise DPGError(f"{budget} tokens leave no room for a line")
    found: list[list[Line]] = [[]]
    used = 0
    for line in lines:
        rest = line.text
        while rest:
            room = budget - used - per_line
            if (
                found[-1]
                and not _fits(rest, room, count)
                and (_fits(rest, budget - per_line, count) or room < budget // 4)
            ):
                found.append([])
                used = 0
                continue
            part, rest = cut_text(rest, room, count)
            found[-1].append(Line(line.speaker, part))
            used += count(part) + per_line
    return [tuple(piece) for piece in found if any(line.speaker == TARGET for line in piece)]


def halves(lines: Sequence[Line]) -> list[tuple[Line, ...]]:
    """The lines in two pieces of about equal length, a single line cut inside; those without the target left out.

    A line of one character cannot be cut: it comes back alone.
    """
    total = sum(len(line.text) for line in lines)
    if len(lines) == 1:
        (line,) = lines
        parts = [part for part in cut_text(line.text, max(1, len(line.text) // 2), len) if part]
        return [(Line(line.speaker, part),) for part in parts] if line.speaker == TARGET else []
    passed, at = 0, 1
    for at in range(1, len(lines)):
        passed += len(lines[at - 1].text)
        if 2 * passed >= total:
            break
    found = (tuple(lines[:at]), tuple(lines[at:]))
    return [piece for piece in found if any(line.speaker == TARGET for line in piece)]


def cut_text(text: str, limit: int, count: Callable[[str], int]) -> tuple[str, str]:
    """A beginning of ``text`` of at most ``limit`` tokens (at least one character), and the rest.

    The cut comes after a paragraph, a sentence or a word where there is one in the second half.
    """
    if _fits(text, limit, count):
        return text, ""
    low, high = 1, min(len(text), _LETTERS * max(1, limit))
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    for end in _ENDS:
        at = text.rfind(end, low // 2, low)
        if at >= 0 and text[: at + len(end)].strip():
            low = at + len(end)
            break
    part = text[:low].strip()
    return (part, text[low:].lstrip()) if part else (text[:low], text[low:])


def _fits(text: str, limit: int, count: Callable[[str], int]) -> bool:
    return len(text) <= _LETTERS * limit and count(text) <= limit
