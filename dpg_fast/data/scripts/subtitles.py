"""Subtitles that name their speakers: SubRip (.srt), WebVTT (.vtt), SubStation (.ass, .ssa).

A speaker is a WebVTT voice (``<v Harry>``), the Name field of SubStation, or ``HARRY:`` or ``[HARRY]`` before the words. A cue
without one belongs to the speaker before if that one's sentence was not finished; otherwise nobody is known to say it, and it is
a direction. A pause begins a scene: subtitles have no other sign of one.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpg_fast.data.scripts.naming import find_cue
from dpg_fast.data.scripts.names import plain_name, split_cue
from dpg_fast.data.scripts.script import Direction, Part, Script, ScriptBuilder, Speech

PAUSE = 20.0  # seconds without a subtitle that begin a scene
_TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|</?\d[\d:.]*>|\{[^{}]*\}")
_VOICE = re.compile(r"<v(?:\.[\w.]+)?[ \t]+([^<>]+)>")
_BRACKETED = re.compile(r"\[([^\[\]]{1,40})\]\s*:?\s+(?=\S)")
_SOUND = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")
_UNFINISHED = re.compile(r"[\w,;\-–—]$|\.\.\.$|…$")


@dataclass(frozen=True)
class _Cue:
    line: int
    start: float
    end: float
    speaker: str | None
    text: str  # lines joined by "\n"


def read_subtitles(lines: Sequence[str], name: str, *, pause: float = PAUSE) -> Script:
    """The script in ``lines``. Never fails: cues that cannot be read are problems, and the rest is kept.

    Args:
        pause: seconds between two subtitles that begin a scene.
    """
    builder = ScriptBuilder(name, "subtitles")
    substation = any(re.match(r"\[(?:script info|events)\]", line.strip(), re.IGNORECASE) for line in lines[:2000])
    cues = _substation(lines, builder) if substation else _timed(lines, builder)
    last_end: float | None = None
    current: Speech | None = None
    unknown = 0
    for cue in cues:
        if last_end is not None and cue.start - last_end > pause:
            builder.open_scene("", cue.line)
            current = None
        last_end = cue.end
        for speaker, words in _voices(cue):
            sung = words.strip("♪♫# ") if words.startswith(("♪", "♫")) else None
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


def _voices(cue: _Cue) -> Iterator[tuple[str | None, str]]:
    """What each speaker says in one subtitle."""
    if cue.speaker:
        yield cue.speaker, _plain(cue.text)
        return
    voices = list(_VOICE.finditer(cue.text))
    if voices:
        before = _plain(cue.text[: voices[0].start()])
        if before:
            yield None, before
        for i, voice in enumerate(voices):
            end = voices[i + 1].start() if i + 1 < len(voices) else len(cue.text)
            words = _plain(cue.text[voice.end() : end]).removeprefix("- ")
            if words:
                yield html.unescape(voice.group(1)).strip(), words
        return
    held: tuple[str | None, list[str]] | None = None
    for raw in cue.text.split("\n"):
        text = _plain(raw)
        dashed = re.match(r"[-–—]\s*", text)
        text = text[dashed.end() :] if dashed else text
        if not text:
            continue
        named = find_cue(text)
        bracketed = _BRACKETED.match(text)
        if named and named.group("rest").strip():
            speaker, words = named.group("name"), f"{named.group('aside')} {named.group('rest')}".strip()
        elif bracketed and bracketed.group(1).upper() == bracketed.group(1):
            speaker, words = bracketed.group(1), text[bracketed.end() :]
        elif held is not None and not dashed:
            held[1].append(text)
            continue
        else:
            speaker, words = "", text
        if held is not None:
            yield held[0], " ".join(held[1])
        held = (speaker or None, [words])
    if held is not None:
        yield held[0], " ".join(held[1])


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def _seconds(found: re.Match[str]) -> float:
    hours, minutes, seconds, fraction = found.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def _timed(lines: Sequence[str], builder: ScriptBuilder) -> Iterator[_Cue]:
    """SubRip and WebVTT: a line with two times, and what follows up to an empty line."""
    position = 0
    while position < len(lines):
        line = lines[position]
        number = position + 1
        position += 1
        if "-->" not in line:
            continue
        times = list(_TIME.finditer(line))[:2]
        texts = []
        while position < len(lines) and lines[position].strip() and "-->" not in lines[position]:
            texts.append(lines[position].strip())
            position += 1
        if position < len(lines) and "-->" in lines[position] and texts and texts[-1].isdigit():
            texts.pop()  # the next cue's number, with no empty line before it
        if len(times) < 2:
            builder.problem(number, f"times cannot be read ({line.strip()[:40]!r}): the subtitle is left out")
        elif not texts:
            builder.problem(number, "the subtitle is empty")
        else:
            yield _Cue(number, _seconds(times[0]), _seconds(times[1]), None, "\n".join(texts))


def _substation(lines: Sequence[str], builder: ScriptBuilder) -> Iterator[_Cue]:
    fields = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
    for number, line in enumerate(lines, 1):
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "format" and "text" in value.lower():
            fields = [field.strip().lower() for field in value.split(",")]
        if key != "dialogue":
            continue
        values = [part.strip() for part in value.split(",", len(fields) - 1)]
        row = dict(zip(fields, values, strict=False))
        start, end = _TIME.match(row.get("start", "")), _TIME.match(row.get("end", ""))
        if len(values) < len(fields) or start is None or end is None:
            builder.problem(number, "a Dialogue line cannot be read: left out")
            continue
        text = re.sub(r"\\[Nn]", "\n", row.get("text", "")).replace("\\h", " ")
        if _plain(text):
            speaker = row.get("name") or row.get("actor") or None
            yield _Cue(number, _seconds(start), _seconds(end), speaker, text)
