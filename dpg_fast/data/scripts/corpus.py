"""A folder of scripts: what could be read, what could not, and what was passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dpg_fast.data.scripts.names import plain_name
from dpg_fast.data.scripts.reader import FORMATS, LITTLE_SPEECH, NO_SPEECH, find_scripts, folder_files, read_script
from dpg_fast.data.scripts.script import Script
from dpg_fast.util.errors import DPGError
from dpg_fast.util.words import counted

_RARE, _TIMES = 2, 10  # a name that stands this seldom, and another that stands this many times as often


@dataclass
class Corpus:
    """The scripts of a file or folder.

    Attributes:
        scripts: those that could be read, in the order of their paths.
        unread: file -> why it could not be read.
        passed_over: ending -> files of the folder that were not tried.
    """

    scripts: list[Script] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def speeches(self) -> int:
        """How many there are in all."""
        return sum(1 for script in self.scripts for _ in script.speeches())

    def report(self) -> list[str]:
        """What was read and what was not, a sentence a line."""
        words = sum(len(speech.words.split()) for script in self.scripts for speech in script.speeches())
        speakers = {(script.name, speech.speaker) for script in self.scripts for speech in script.speeches()}
        files = len(self.scripts) + len(self.unread)
        lines = [
            f"{len(self.scripts)} of {counted(files, 'file')} read: "
            f"{counted(self.speeches, 'speech', 'speeches')}, {counted(words, 'word')}, "
            f"{counted(len(speakers), 'speaker')}"
        ]
        lines += [f"Little or no speech: {name}: {what}" for name, what in self._doubtful()]
        lines += [
            f"Doubtful merge: {script.name}: {name} -> {person}"
            for script in self.scripts
            for name, person in doubtful_merges(script)
        ]
        lines += [f"Not read: {name}: {reason}" for name, reason in self.unread.items()]
        if self.passed_over:
            endings = ", ".join(f"{count} {ending}" for ending, count in sorted(self.passed_over.items()))
            lines.append(f"Passed over, since their endings are unknown: {endings}")
        return lines

    def _doubtful(self) -> Iterator[tuple[str, str]]:
        for script in self.scripts:
            for problem in script.problems:
                if problem.line == 0 and problem.what.startswith((NO_SPEECH, LITTLE_SPEECH)):
                    yield script.name, problem.what


def read_corpus(
    path: Path | str,
    *,
    format: str | None = None,
    encoding: str | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> Corpus:
    """The scripts of a folder and below, or of one file; arguments as `read_script`.

    A file of a folder that cannot be read is noted, and the others are read.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: an unknown format, or nothing in the folder could be read.
        OSError, ImportError: as `read_script`, of one file.
    """
    if format is not None and format not in FORMATS:
        raise DPGError(f"unknown format {format!r}; accepted: {', '.join(FORMATS)}")
    files = find_scripts(path)
    folder = Path(path)
    corpus = Corpus()
    if folder.is_file():
        corpus.scripts.append(read_script(folder, format=format, encoding=encoding, aliases=aliases))
        return corpus
    for file in files:
        try:
            corpus.scripts.append(read_script(file, format=format, encoding=encoding, aliases=aliases))
        except (DPGError, OSError, ImportError) as error:
            place = file.relative_to(folder).as_posix() if folder.is_dir() else file.name
            corpus.unread[place] = str(error).removeprefix(file.name).lstrip(": ")
    if folder.is_dir():
        tried = set(files)
        corpus.passed_over.update(
            file.suffix.lower() or "without an ending" for file in folder_files(folder) if file not in tried
        )
    if not corpus.scripts:
        name, reason = next(iter(corpus.unread.items()))
        raise DPGError(f"none of the {counted(len(files), 'file')} of {path} could be read; {name}: {reason}")
    return corpus


def doubtful_merges(script: Script) -> list[tuple[str, str]]:
    """Merged names of which one stands once or twice and the other far more often: the rare one may be somebody else."""
    counts = Counter(plain_name(speech.cue) for speech in script.speeches())
    found = []
    for name, person in script.merged.items():
        few, many = sorted((counts[name], counts[plain_name(person)]))
        if 0 < few <= _RARE and many >= _TIMES * few:
            found.append((name, person))
    return found
