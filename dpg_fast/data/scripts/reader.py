"""Scripts from files and folders: encoding, format, speakers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from dpg_fast.data.scripts.chats import is_log, read_chats, read_table
from dpg_fast.data.scripts.documents import ENDINGS as DOCUMENTS
from dpg_fast.data.scripts.documents import document_lines
from dpg_fast.data.scripts.encoding import decode
from dpg_fast.data.scripts.fountain import read_fountain
from dpg_fast.data.scripts.layout import is_screenplay
from dpg_fast.data.scripts.markup import read_final_draft, read_tei
from dpg_fast.data.scripts.names import load_aliases, merge_speakers
from dpg_fast.data.scripts.pages import ENDINGS as PAGES
from dpg_fast.data.scripts.pages import page_lines
from dpg_fast.data.scripts.play_cues import cue_styles
from dpg_fast.data.scripts.plays import read_play
from dpg_fast.data.scripts.script import Problem, Script
from dpg_fast.data.scripts.subtitles import read_subtitles
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_bytes
from dpg_fast.util.words import counted

_READERS: dict[str, Callable[[Sequence[str], str], Script]] = {
    "fountain": read_fountain,
    "play": read_play,
    "subtitles": read_subtitles,
    "chats": read_chats,
    "table": read_table,
    "fdx": read_final_draft,
    "tei": read_tei,
}
FORMATS = (*_READERS, "novel")
_OF_ENDING = {
    ending: format
    for format, endings in (
        ("fountain", ".fountain .spmd"),
        ("subtitles", ".srt .vtt .ass .ssa .sbv .ttml .dfxp"),
        ("chats", ".jsonl .ndjson .json"),
        ("table", ".csv .tsv .tab"),
        ("fdx", ".fdx"),
    )
    for ending in endings.split()
}
_MARKUP = (("<FinalDraft", "fdx"), ("<TEI", "tei"), ("<tt", "subtitles"))  # by the root element, in .xml
_TEXT_ENDINGS = (".txt", ".text", ".md", ".play", ".transcript", ".log", *DOCUMENTS, *PAGES)
_MARKUP_ENDINGS = (".xml", ".tei")
ENDINGS = frozenset((*_OF_ENDING, *_TEXT_ENDINGS, *_MARKUP_ENDINGS))
SAMPLES = "samples"  # names the scripts of the package
ALIASES = ".aliases.json"  # beside a script, after its name
_JSON = frozenset((".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab"))  # strings may hold the other ends of lines
NO_SPEECH, LITTLE_SPEECH = "no speech was found", "little speech was found"  # problems of a file as a whole
_FEW_WORDS = 0.1  # of a text, spoken: below, a reader has hardly understood it
_LONG = 300  # words from which that can be told


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
        ValueError: an empty file, an unknown format, ending or encoding, or aliases that contradict each other.
        ImportError: a package for this kind of file is missing.
    """
    path = Path(path)
    if format is not None and format not in _READERS:
        raise DPGError(f"{path.name}: cannot be read as {format!r} here; accepted: {', '.join(_READERS)}")
    lines, problems = read_lines(path, encoding, json_lines=format == "chats" or path.suffix.lower() in _JSON)
    if not any(line.strip() for line in lines):
        raise DPGError(f"{path.name} is empty")
    script = _READERS[format or guess_format(path, lines)](lines, path.stem)
    script.problems[:0] = [*problems, *_yield(script, lines)]
    return merge_speakers(script, merged_aliases(path, aliases))


def read_lines(path: Path, encoding: str | None = None, *, json_lines: bool = False) -> tuple[list[str], list[Problem]]:
    """A file's lines and what had to be repaired in them.

    Raises:
        OSError: the file cannot be read.
        ValueError: an unknown encoding, or a document that holds no text.
        ImportError: a package for documents or web pages is missing.
    """
    if path.suffix.lower() in DOCUMENTS:
        return document_lines(path), []
    try:
        lines, problems = decode(read_bytes(path), encoding, json_lines=json_lines)
    except LookupError as error:
        raise DPGError(f"unknown encoding {encoding!r}") from error
    return (page_lines(lines) if path.suffix.lower() in PAGES else lines), problems


def _yield(script: Script, lines: Sequence[str]) -> list[Problem]:
    """Whether nothing, or far less than the size of the file suggests, was taken for speech."""
    speeches = list(script.speeches())
    if not speeches:
        scenes = f"{counted(len(script.scenes), 'scene')}, " if script.scenes else ""
        return [Problem(0, f"{NO_SPEECH} ({scenes}{sum(bool(line.strip()) for line in lines)} lines with text)")]
    if script.format not in ("fountain", "play"):
        return []  # other files hold much beside words, and their readers count what they leave out
    words = sum(len(line.split()) for line in lines)
    spoken = sum(len(speech.words.split()) for speech in speeches)
    if words < _LONG or spoken >= _FEW_WORDS * words:
        return []
    return [Problem(0, f"{LITTLE_SPEECH}: {spoken} of the file's {counted(words, 'word')}")]


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
    if ending in _MARKUP_ENDINGS:
        head = "\n".join(lines[:200])
        found = next((format for mark, format in _MARKUP if mark in head), None)
        if found is None:
            raise DPGError(f"{path.name}: XML that is neither TEI nor Final Draft nor TTML")
        return found
    if ending not in _TEXT_ENDINGS:
        raise DPGError(f"{path.name}: unknown ending; name the format: {', '.join(FORMATS)}")
    if is_log(lines) or lines[0].startswith('{"'):
        return "chats"
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
    found = sorted(path for path in folder_files(folder) if path.suffix.lower() in ENDINGS)
    if not found:
        raise DPGError(f"no scripts in {folder}; endings: {', '.join(sorted(ENDINGS))}")
    return found


def folder_files(folder: Path) -> list[Path]:
    """The files of a folder and below, without hidden ones, READMEs and aliases."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((".", "README")) and not path.name.endswith(ALIASES)
    ]
