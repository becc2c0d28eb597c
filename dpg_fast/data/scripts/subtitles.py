"""Subtitles that name their speakers: SubRip (.srt), WebVTT (.vtt), SubStation (.ass, .ssa), SubViewer (.sbv), TTML.

A speaker is a WebVTT voice (``<v Harry>``), the Name field of SubStation, an agent of TTML, or a name before the words:
``HARRY:``, ``>> HARRY:``, ``[HARRY]``. With small letters ("Harry:", "(Harry)") it is a name only where the file names people
in that way: the words before a colon recur, those in brackets are known as names, or recur and never stand alone, as sounds do.

A cue without a name belongs to the speaker before if that one's sentence was not finished; otherwise nobody is known to say it,
and it is a direction. So is what follows a bare ``>>``, the sign of another speaker. A pause begins a scene: subtitles have no
other sign of one.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpg_fast.data.scripts.names import is_role, plain_name, split_cue
from dpg_fast.data.scripts.play_cues import find_cue
from dpg_fast.data.scripts.script import Direction, Part, Script, ScriptBuilder, Speech
from dpg_fast.data.scripts.subtitle_cues import Cue, plain_text, read_cues

PAUSE = 20.0  # seconds without a subtitle that begin a scene
_VOICE = re.compile(r"<v(?:\.[\w.]+)?[ \t]+([^<>]+)>")
_BRACKETED = re.compile(
    r"(?:\[(?P<square>[^\[\]]{1,40})\]|\((?P<round>[^()]{1,40})\)|（(?P<wide>[^（）]{1,20})）)\s*:?\s*(?=\S)"
)
_ALONE = re.compile(r"[-–—>\s]*(?:\[([^\[\]]*)\]|\(([^()]*)\)|（([^（）]*)）)\s*$")
_OTHER = re.compile(r">>+\s*")
_DASH = re.compile(r"[-–—]\s*")
_SOUND = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|（[^（）]*）")
_VERB = re.compile(r"(?:ing|s|ed)$", re.IGNORECASE)  # "(Laughs)", "[Door closes]"
_UNFINISHED = re.compile(r"[\w,;\-–—]$|\.\.\.$|…$")
_NOBODY = ""  # another speaker, without a name
_RECURRING = 0.1  # of a file's cues, named by words before a colon that recur: then these are names
_LABELLED = 0.5  # of a file's cues, with any words before a colon: then all of these are names
_SHOWN = 12
_NAME_WORDS = 3  # of a name in brackets, at most


def read_subtitles(lines: Sequence[str], name: str, *, pause: float = PAUSE) -> Script:
    """The script in ``lines``. Never fails: cues that cannot be read are problems, and the rest is kept.

    Args:
        pause: seconds between two subtitles that begin a scene.
    """
    builder = ScriptBuilder(name, "subtitles")
    cues = list(read_cues(lines, name, builder))
    names = _find_names(cues)
    last_end: float | None = None
    current: Speech | None = None
    unknown = 0
    for cue in cues:
        if last_end is not None and cue.start - last_end > pause:
            builder.open_scene("", cue.line)
            current = None
        last_end = cue.end
        for speaker, words in _voices(cue, names):
            sung = words.strip("♪♫# ") if words.startswith(("♪", "♫")) else None
            if speaker == _NOBODY:
                speaker, current = None, None
            if speaker is None and current is not None and _UNFINISHED.search(current.words):
                _add(current, words, cue.line)
            elif speaker is None:
                current = None
                only_sound = not _SOUND.sub("", words).strip(" -–")
                unknown += not only_sound and sung is None
                builder.add(Direction("action" if sung is None else "lyrics", sung or words.strip("[]()"), cue.line))
            else:
                name_, extensions = split_cue(speaker)
                current = Speech(name_, extensions, [], cue.line, plain_name(name_))
                _add(current, words, cue.line)
                builder.add(current)
    if unknown:
        builder.problem(0, f"{unknown} subtitles do not say who speaks: taken as directions")
    if names.phrases:
        shown = ", ".join(sorted(names.phrases)[:_SHOWN])
        builder.problem(0, f"words before a colon that are not taken for names, since they hardly recur: {shown}")
    return builder.finish()


def _add(speech: Speech, text: str, line: int) -> None:
    position = 0
    for found in _SOUND.finditer(text):
        if before := text[position : found.start()].strip():
            speech.parts.append(Part("words", before, line))
        if inside := found.group()[1:-1].strip():
            speech.parts.append(Part("parenthetical", inside, line))
        position = found.end()
    if rest := text[position:].strip():
        kind = "lyrics" if rest.startswith(("♪", "♫")) else "words"
        speech.parts.append(Part(kind, rest.strip("♪♫ ") if kind == "lyrics" else rest, line))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Names:
    """Labels in plain form: names before a colon and in brackets, sounds in brackets, and phrases before a colon."""

    colon: frozenset[str]
    bracket: frozenset[str]
    sounds: frozenset[str]
    phrases: frozenset[str]


def _find_names(cues: Sequence[Cue]) -> _Names:
    sure = {plain_name(cue.speaker) for cue in cues if cue.speaker}
    colon: Counter[str] = Counter()
    bracket: Counter[str] = Counter()
    sounds: set[str] = set()
    for cue in cues:
        sure.update(plain_name(html.unescape(voice.group(1))) for voice in _VOICE.finditer(cue.text))
        for raw in cue.text.split("\n"):
            text, _, marked = _opening(raw)
            label, in_bracket = _label(text)
            if found := _ALONE.match(text):
                sounds.add(plain_name(next(filter(None, found.groups()), "")))
            elif in_bracket:
                bracket[plain_name(label)] += 1
            elif label:
                colon[plain_name(label)] += 1
                if marked or _in_capitals(label):
                    sure.add(plain_name(label))
    recurring = {name for name, count in colon.items() if count > 1}
    named = recurring if sum(colon[name] for name in recurring) >= _RECURRING * len(cues) else set()
    if len(recurring) > 1 and sum(colon.values()) >= _LABELLED * len(cues):
        named = set(colon)
    known = sure | named
    known |= {name.split()[0] for name in known if name}
    bracketed = {
        name
        for name, count in bracket.items()
        if name in known
        or is_role(name)
        or (count > 1 and name not in sounds and not _VERB.search(name) and len(name.split()) <= _NAME_WORDS)
    }
    of_colon = named | known & set(colon)
    return _Names(frozenset(of_colon), frozenset(bracketed), frozenset(sounds), frozenset(set(colon) - of_colon))


def _in_capitals(label: str) -> bool:
    return label.upper() == label and label.lower() != label


def _opening(raw: str) -> tuple[str, bool, bool]:
    """A line without the sign of another speaker before it; whether there was one, and whether it was ``>>``."""
    text = plain_text(raw)
    other = _OTHER.match(text)
    dash = None if other else _DASH.match(text)
    found = other or dash
    return (text[found.end() :] if found else text), found is not None, other is not None


def _label(text: str) -> tuple[str, bool]:
    """What could be a name before the words of a line, and whether it stands in brackets; "" for none."""
    bracketed = _BRACKETED.match(text)
    if bracketed:
        inside = next(filter(None, bracketed.groups()), "").strip()
        return (inside, True) if inside[:1].isalpha() and inside[:1].upper() == inside[:1] else ("", False)
    named = find_cue(text)
    return (named.group("name"), False) if named and named.group("rest").strip() else ("", False)


def _voices(cue: Cue, names: _Names) -> Iterator[tuple[str | None, str]]:
    """What each speaker says in one subtitle."""
    if cue.speaker:
        yield cue.speaker, plain_text(cue.text)
        return
    voices = list(_VOICE.finditer(cue.text))
    if voices:
        before = plain_text(cue.text[: voices[0].start()])
        if before:
            yield None, before
        for i, voice in enumerate(voices):
            end = voices[i + 1].start() if i + 1 < len(voices) else len(cue.text)
            words = plain_text(cue.text[voice.end() : end]).removeprefix("- ")
            if words:
                yield html.unescape(voice.group(1)).strip(), words
        return
    held: tuple[str | None, list[str]] | None = None
    for raw in cue.text.split("\n"):
        text, other, marked = _opening(raw)
        if not text:
            continue
        speaker, words = _speaker(text, marked, names)
        if speaker is None and held is not None and not other:
            held[1].append(text)
            continue
        if held is not None:
            yield held[0], " ".join(held[1])
        held = (_NOBODY if speaker is None and marked else speaker, [words])
    if held is not None:
        yield held[0], " ".join(held[1])


def _speaker(text: str, marked: bool, names: _Names) -> tuple[str | None, str]:
    """Who is named before the words of a line, if anybody, and the words."""
    label, in_bracket = _label(text)
    capitals = _in_capitals(label)
    if not label:
        return None, text
    if in_bracket:
        bracketed = _BRACKETED.match(text)
        assert bracketed is not None
        square = capitals and bracketed.group("square") is not None and plain_name(label) not in names.sounds
        return (label, text[bracketed.end() :]) if square or plain_name(label) in names.bracket else (None, text)
    named = find_cue(text)
    if named is None or not (marked or capitals or plain_name(label) in names.colon):
        return None, text
    return label, f"{named.group('aside')} {named.group('rest')}".strip()
