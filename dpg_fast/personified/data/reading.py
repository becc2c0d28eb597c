"""Paragraphs out of text, Markdown, HTML and EPUB files, whatever their encoding."""

from __future__ import annotations

import posixpath
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from dpg_fast.data.scripts.encoding import decode
from dpg_fast.util.errors import DPGError

ENDINGS = (".txt", ".md", ".html", ".htm", ".xhtml", ".epub")
LONGEST = 200  # words of a paragraph; longer ones are cut at sentences
MAX_CHAPTER_BYTES = 100_000_000  # of an EPUB, unpacked: a small archive can hold a huge one
SHORTEST = 3  # words; what is shorter is a page number or a heading
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['\u2019-][^\W{_CJK}]+)*")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|(?<=[。！？])")
_CLOSED = re.compile(r"[.!?…:;。！？\"'”’)]$")
_ORIGIN = re.compile(r"<!--\s*source:\s*(.*?)\s*-->")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_SKIPPED = ("script", "style", "nav", "header", "footer", "table", "sup", "aside", "form", "noscript", "figure")
_BLOCKS = ("p", "li", "blockquote", "dd", "pre")


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
        ImportError: HTML and EPUB need beautifulsoup4 and lxml.
    """
    ending = path.suffix.lower()
    if ending == ".epub":
        return _cut(_epub(path)), []
    try:
        lines, problems = decode(path.read_bytes(), encoding)
    except LookupError:
        raise DPGError(f"Python knows no encoding {encoding!r}") from None
    notes = [f"{path.name}: {p.what}" + (f" (line {p.line})" if p.line else "") for p in problems[:3]]
    if len(problems) > 3:
        notes.append(f"{path.name}: and {len(problems) - 3} more lines like these")
    repaired = sum(p.line > 0 for p in problems)
    if repaired > max(3, 0.1 * len(lines)):
        raise DPGError(
            f"{path.name} does not look like text: {repaired} of {len(lines)} lines hold control characters or bytes that "
            "belong to no encoding; convert it, or name its encoding"
        )
    if ending in (".html", ".htm", ".xhtml"):
        return _cut([Block(text) for text in _html("\n".join(lines))]), notes
    return _cut(_plain(lines, markdown=ending == ".md")), notes


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


def _html(text: str) -> list[str]:
    """The texts of the blocks that hold prose; the page's furniture is left out."""
    try:
        from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
    except ImportError as error:
        raise ImportError("HTML and EPUB files need beautifulsoup4 and lxml: pip install 'dpg-fast[data]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        soup = BeautifulSoup(text.encode("utf-8", "replace"), "lxml", from_encoding="utf-8")
    for tag in soup(list(_SKIPPED)):
        tag.decompose()
    for tag in soup("br"):
        tag.replace_with("\n")
    found: list[str] = []
    for tag in soup(list(_BLOCKS)):
        if tag.find(_BLOCKS) is None:
            found.append(" ".join(tag.get_text().split()))
    return found or [" ".join(part.split()) for part in soup.get_text("\n").split("\n\n")]


def _epub(path: Path) -> list[Block]:
    """The chapters in the order of the book's spine. A chapter's name in the book is its blocks' origin."""
    try:
        from lxml import etree
    except ImportError as error:
        raise ImportError("EPUB files need lxml and beautifulsoup4: pip install 'dpg-fast[data]'") from error
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        with zipfile.ZipFile(path) as book:
            container = etree.fromstring(book.read("META-INF/container.xml"), parser)
            package = str(container.xpath("string(//*[local-name()='rootfile']/@full-path)"))
            root = etree.fromstring(book.read(package), parser)
            files = {item.get("id"): item.get("href") for item in root.iterfind(".//{*}manifest/{*}item")}
            order = [files[item.get("idref")] for item in root.iterfind(".//{*}spine/{*}itemref")]
            pages = []
            for name in order:
                inside = posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(name)))
                if book.getinfo(inside).file_size > MAX_CHAPTER_BYTES:
                    raise DPGError(f"{inside} is larger than {MAX_CHAPTER_BYTES / 1e6:.0f} MB")
                pages.append((name, book.read(inside).decode("utf-8", "replace")))
    except (zipfile.BadZipFile, etree.XMLSyntaxError, KeyError, ValueError, OSError, RuntimeError) as error:
        raise DPGError(f"{path.name} is not a readable EPUB: {error}") from error
    return [Block(text, name) for name, page in pages for text in _html(page)]


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
    return [part for a, b in pairwise(cuts) if (part := sentence[a:b].strip())]
