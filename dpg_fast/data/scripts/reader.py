"""Scripts from files and folders: encoding, format, speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from dpg_fast.data.scripts.chats import read_chats
from dpg_fast.data.scripts.encoding import decode
from dpg_fast.data.scripts.fountain import read_fountain
from dpg_fast.data.scripts.layout import is_screenplay
from dpg_fast.data.scripts.names import load_aliases, merge_speakers
from dpg_fast.data.scripts.plays import cue_styles, read_play
from dpg_fast.data.scripts.script import Problem, Script, check_yield
from dpg_fast.data.scripts.subtitles import read_subtitles
from dpg_fast.util.errors import DPGError

FORMATS = ("fountain", "play", "subtitles", "chats", "novel")
_OF_ENDING = {
    ".fountain": "fountain",
    ".spmd": "fountain",
    ".srt": "subtitles",
    ".vtt": "subtitles",
    ".ass": "subtitles",
    ".ssa": "subtitles",
    ".jsonl": "chats",
    ".ndjson": "chats",
}
_TEXT_ENDINGS = (".txt", ".text", ".md", ".play", ".transcript")
SAMPLES = "samples"  # names the scripts of the package
ALIASES = ".aliases.json"  # beside a script, after its name
_READERS = {"fountain": read_fountain, "play": read_play, "subtitles": read_subtitles, "chats": read_chats}


def read_script(
    path: Path | str,
    *,
    format: str | None = None,
    encoding: str | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> Script:
    """The script in a file, its speakers merged by the rules of `names`.

    Args:
        path: the file. ``NAME.aliases.json`` beside it adds aliases for it alone.
        format: one of `FORMATS` without "novel"; default: by ending, and for plain text by its look.
        encoding: default: found out.
        aliases: person -> other names.

    Raises:
        OSError: the file cannot be read.
        ValueError: an unknown format, ending or encoding, or aliases that contradict each other.
    """
    path = Path(path)
    chats = (format or _OF_ENDING.get(path.suffix.lower())) == "chats"
    lines, problems = read_lines(path, encoding, json_lines=chats)
    format = format or guess_format(path, lines)
    if format not in _READERS:
        known = ", ".join(_READERS)
        raise DPGError(f"{path.name}: cannot be read as {format!r} here; accepted: {known}")
    script = _READERS[format](lines, path.stem)
    if format in ("fountain", "play"):
        check_yield(script, lines)
    script.problems[:0] = problems
    return merge_speakers(script, merged_aliases(path, aliases))


def read_lines(path: Path, encoding: str | None = None, *, json_lines: bool = False) -> tuple[list[str], list[Problem]]:
    """A file's lines and what had to be repaired in them.

    Raises:
        OSError: the file cannot be read.
        ValueError: an unknown encoding.
    """
    try:
        return decode(path.read_bytes(), encoding, json_lines=json_lines)
    except LookupError as error:
        raise DPGError(f"unknown encoding {encoding!r}") from error


def merged_aliases(path: Path, aliases: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """The given aliases, and those of the file beside the script, which come first for a person of the same name."""
    beside = path.with_name(path.stem + ALIASES)
    found = {person: list(names) for person, names in (aliases or {}).items()}
    return found | load_aliases(beside) if beside.is_file() else found


def guess_format(path: Path, lines: Sequence[str]) -> str:
    """The format by the file's ending, or for plain text by what its lines look like.

    Raises:
        ValueError: neither tells.
    """
    ending = path.suffix.lower()
    if ending in _OF_ENDING:
        return _OF_ENDING[ending]
    if ending not in _TEXT_ENDINGS:
        raise DPGError(f"{path.name}: unknown ending; name the format: {', '.join(FORMATS)}")
    styles = cue_styles(lines)
    if is_screenplay(lines, named=styles.total(), colons=styles["colon"]):
        return "fountain"
    if sum(styles.values()) >= 2:
        return "play"
    raise DPGError(
        f"{path.name}: neither scene headings nor names before the words; name the format: {', '.join(FORMATS)}"
    )


def find_scripts(folder: Path | str) -> list[Path]:
    """The files of a folder and below whose endings are known, in the order of their paths; or the one file given.

    "samples", where there is no such folder, is the one with the package's own scripts.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: nothing in it could be a script.
    """
    folder = Path(folder)
    if str(folder) == SAMPLES and not folder.exists():
        folder = Path(str(resources.files("dpg_fast").joinpath("assets", "scripts")))
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"no such file or folder: {folder}")
    endings = {*_OF_ENDING, *_TEXT_ENDINGS}
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings and path.is_file() and not path.name.startswith((".", "README"))
    )
    if not found:
        raise DPGError(f"no scripts in {folder}; endings: {', '.join(sorted(endings))}")
    return found
