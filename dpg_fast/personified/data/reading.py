"""Paragraphs out of text, Markdown, HTML, EPUB, Word and PDF files, whatever their encoding."""

from __future__ import annotations

import itertools
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dpg_fast.data.scripts.documents import ENDINGS as DOCUMENTS
from dpg_fast.data.scripts.documents import document_lines
from dpg_fast.data.scripts.encoding import decode, without_licence
from dpg_fast.data.scripts.pages import ENDINGS as PAGES
from dpg_fast.data.scripts.pages import parse_html
from dpg_fast.data.scripts.script import Problem
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_bytes
from dpg_fast.util.words import counted

ENDINGS = (".txt", ".md", ".epub", *PAGES, *DOCUMENTS)
LONGEST = 200  # words of a paragraph; longer ones are cut at sentences
MAX_CHAPTER_BYTES = 100_000_000  # of an EPUB, unpacked: a small archive can hold a huge one
SHORTEST = 3  # words; what is shorter is a page number or a heading
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['\u2019-][^\W{_CJK}]+)*")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|(?<=[。！？])")
_CLOSED = re.compile(r"[.!?…:;。！？\"'”’)]$")
_ORIGIN = re.compile(r"<!--\s*source:\s*(.*?)\s*-->")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_PARAGRAPHS = ("p", "li", "blockquote", "dd", "pre")  # one paragraph each, however many lines
_BLOCKS = (
    *_PARAGRAPHS,
    "div",
    "section",
    "article",
    "main",
    "body",
    "dt",
    "td",
    "th",
    "caption",
    "center",
    "address",
    "html",
)
_CELLS = ("td", "th")
_PROSE = 8  # words of a table's cell from which it is prose and not an entry
_REPORTED = 3  # notes on one file


@dataclass(frozen=True)
class Block:
    """A paragraph as a file has it, and where the file says that it comes from (`<!-- source: ... -->`)."""

    text: str
    origin: str | None = None


def count_words(text: str) -> int:
    """Words; where a script has no spaces between them, characters."""
    return len(_WORD.findall(text))


def terms(text: str) -> list[str]:
    """The words in lower case; where a script has no spaces between them, characters."""
    return [word.casefold().replace("\u2019", "'") for word in _WORD.findall(text)]


def find_texts(path: Path) -> list[Path]:
    """The readable files of a folder and its subfolders, or the file itself, in order of their names.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the file's ending is not among `ENDINGS`.
    """
    if path.is_dir():
        return sorted(f for f in path.rglob("*") if f.suffix.lower() in ENDINGS and not f.name.startswith("."))
    if not path.is_file():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.suffix.lower() not in ENDINGS:
        raise DPGError(f"{path.name}: cannot read {path.suffix or 'a file without an ending'}; {', '.join(ENDINGS)}")
    return [path]


def read_blocks(path: Path, encoding: str | None = None) -> tuple[list[Block], list[str]]:
    """The file's paragraphs, and what had to be repaired.

    Args:
        path: a file with one of `ENDINGS`.
        encoding: of txt, md and html files, if it must not be guessed.

    Raises:
        ValueError: the file is not what its ending says, or holds no text but other data.
        ImportError: HTML and EPUB need beautifulsoup4 and lxml, Word and PDF python-docx and pypdf.
    """
    ending = path.suffix.lower()
    if ending == ".epub":
        blocks, notes = _epub(path)
        return _cut(blocks), notes
    if ending in DOCUMENTS:
        return _cut(_plain(document_lines(path), markdown=False)), []
    try:
        lines, problems = decode(read_bytes(path), encoding)
    except LookupError:
        raise DPGError(f"Python knows no encoding {encoding!r}") from None
    notes = _notes(path.name, problems)
    repaired = sum(p.line > 0 for p in problems)
    if repaired > max(3, 0.1 * len(lines)):
        raise DPGError(
            f"{path.name} does not look like text: {repaired} of {len(lines)} lines hold control characters or bytes that "
            "belong to no encoding; convert it, or name its encoding"
        )
    if ending in PAGES:
        texts, entries = _html("\n".join(lines))
        return _cut([Block(text) for text in without_licence(texts)]), [*notes, *_entries(path.name, entries)]
    return _cut(_plain(without_licence(lines), markdown=ending == ".md")), notes


def _notes(name: str, problems: Sequence[Problem]) -> list[str]:
    found = [f"{name}: {p.what}" + (f" (line {p.line})" if p.line else "") for p in problems[:_REPORTED]]
    more = len(problems) - _REPORTED
    return [*found, f"{name}: and {counted(more, 'more line')} like these"] if more > 0 else found


def _entries(name: str, count: int) -> list[str]:
    return [f"{name}: {count} short cells of tables were left out"] if count else []


def read_texts(path: Path, encoding: str | None = None) -> tuple[list[tuple[Path, list[Block]]], list[str]]:
    """The files of a folder and below, or the file itself, each with its paragraphs; and notes.

    A file of a folder that cannot be read is noted and left out, and so are those with other endings.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError, ImportError: as `read_blocks`, of one file.
    """
    files = find_texts(path)
    if path.is_file():
        blocks, notes = read_blocks(path, encoding)
        return [(path, blocks)], notes
    found: list[tuple[Path, list[Block]]] = []
    notes = []
    for file in files:
        try:
            blocks, problems = read_blocks(file, encoding)
        except (DPGError, ImportError) as error:
            notes.append(f"left out: {error}")
            continue
        found.append((file, blocks))
        notes += problems if blocks else [*problems, f"{file.name} holds no paragraphs"]
    others = Counter(
        file.suffix.lower() or "without an ending"
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(".") and file.suffix.lower() not in ENDINGS
    )
    if others:
        listed = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        notes.append(f"passed over, since their endings are unknown: {listed}")
    return found, notes


def _plain(lines: Sequence[str], markdown: bool) -> list[Block]:
    """Blank lines separate paragraphs. Without any, each line is one, unless most lines end inside a sentence."""
    if markdown:
        text = "\n".join(lines)
        keep = _ORIGIN.sub(lambda found: f"\0{found.group(1)}\0", text)
        lines = _COMMENT.sub("", keep).split("\n")
        lines = ["" if re.match(r"\s*(#{1,6}\s|[-=*_]{3,}\s*$|```)", line) else line for line in lines]
        lines = [re.sub(r"^\s*(?:[-*+]|\d+[.)]|>)\s+", "\n", line) for line in lines]  # list items and quotations
        lines = "\n".join(lines).split("\n")
    full = [line.strip() for line in lines]
    while full and not full[-1]:
        full.pop()
    if "" in full or markdown:
        blocks = "\n".join(full).split("\n\n")
    else:
        whole = sum(_CLOSED.search(line) is not None for line in full)
        blocks = list(full) if whole >= 0.5 * len(full) else ["\n".join(full)]
    found = []
    for block in blocks:
        origin = re.search("\0(.*?)\0", block)
        text = " ".join(re.sub("\0.*?\0", "", block).split())
        found.append(Block(text, origin.group(1) if origin else None))
    return found


def _html(text: str) -> tuple[list[str], int]:
    """The texts of the blocks that hold prose, without the page's furniture, and how many cells of tables were left out."""
    soup = parse_html(text)
    for headings in (_HEADINGS, ()):  # they count only where there is nothing else
        found, entries = [], 0
        for _, group in itertools.groupby(_strings(soup), key=lambda pair: id(pair[0])):
            pairs = list(group)
            block = pairs[0][0]
            if block is None or block.name in headings or any(parent.name in headings for parent in block.parents):
                continue
            whole = "".join(string for _, string in pairs)
            parts = [whole] if block.name in _PARAGRAPHS else whole.split("\n\n")
            texts = [squeezed for part in parts if (squeezed := " ".join(part.split()))]
            if block.name in _CELLS and sum(map(count_words, texts)) < _PROSE:
                entries += bool(texts)
            else:
                found += texts
        if found:
            break
    return found, entries


def _strings(soup: Any) -> Iterator[tuple[Any, str]]:
    """Each text of a page with the block that it stands in."""
    for string in soup.find_all(string=True):
        if type(string).__name__ == "NavigableString":  # not a comment, nor a declaration
            yield string.find_parent([*_BLOCKS, *_HEADINGS]), str(string)


def _epub(path: Path) -> tuple[list[Block], list[str]]:
    """The chapters in the order of the book's spine, and what is missing. A chapter's name in the book is its blocks' origin."""
    try:
        from lxml import etree
    except ImportError as error:
        raise ImportError("EPUB files need lxml and beautifulsoup4: pip install 'dpg-fast[data]'") from error
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    notes: list[str] = []
    pages: list[tuple[str, bytes]] = []
    try:
        with zipfile.ZipFile(path) as book:
            inside = {name.casefold(): name for name in book.namelist()}
            container = etree.fromstring(book.read("META-INF/container.xml"), parser)
            package = str(container.xpath("string(//*[local-name()='rootfile']/@full-path)"))
            root = etree.fromstring(book.read(inside.get(package.casefold(), package)), parser)
            files = {item.get("id"): item.get("href") for item in root.iterfind(".//{*}manifest/{*}item")}
            for item in root.iterfind(".//{*}spine/{*}itemref"):
                name = files.get(item.get("idref"))
                place = posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(name or "")))
                place = inside.get(place.casefold(), "") if name else ""
                if not place:
                    notes.append(f"{path.name}: the chapter {name or item.get('idref')!r} is missing from the book")
                elif book.getinfo(place).file_size > MAX_CHAPTER_BYTES:
                    raise DPGError(f"{place} is larger than {MAX_CHAPTER_BYTES / 1e6:.0f} MB")
                else:
                    pages.append((str(name), book.read(place)))
    except (zipfile.BadZipFile, etree.XMLSyntaxError, KeyError, ValueError, OSError, RuntimeError) as error:
        raise DPGError(f"{path.name} is not a readable EPUB: {error}") from error
    if not pages:
        raise DPGError(f"{path.name} is not a readable EPUB: none of its chapters is there")
    blocks: list[Block] = []
    for name, page in pages:
        lines, problems = decode(page)
        texts, entries = _html("\n".join(lines))
        notes += _notes(f"{path.name}, {name}", problems) + _entries(f"{path.name}, {name}", entries)
        blocks += [Block(text, name) for text in texts]
    kept = without_licence([block.text for block in blocks])
    return [Block(text, block.origin) for text, block in zip(kept, blocks, strict=True)], notes


def _cut(blocks: Sequence[Block]) -> list[Block]:
    """Without fragments; what is longer than `LONGEST` words is cut at sentences, or where there are none at words."""
    found = []
    for block in blocks:
        for text in split_long(block.text):
            if count_words(text) >= SHORTEST:
                found.append(Block(text, block.origin))
    return found


def split_long(text: str, longest: int = LONGEST) -> list[str]:
    """``text`` in pieces of at most ``longest`` words, cut at sentences where that is possible."""
    if count_words(text) <= longest:
        return [text] if text else []
    pieces: list[str] = []
    held: list[str] = []
    size = 0
    for sentence in _SENTENCE.split(text):
        for part in _by_words(sentence, longest):
            length = count_words(part)
            if held and size + length > longest:
                pieces.append(" ".join(held))
                held, size = [], 0
            held.append(part)
            size += length
    return [*pieces, " ".join(held)] if held else pieces


def _by_words(sentence: str, longest: int) -> list[str]:
    ends = [found.end() for found in _WORD.finditer(sentence)]
    if len(ends) <= longest:
        return [sentence.strip()] if ends else []
    cuts = [0, *ends[longest - 1 : -1 : longest], len(sentence)]
    return [part for a, b in itertools.pairwise(cuts) if (part := sentence[a:b].strip())]
