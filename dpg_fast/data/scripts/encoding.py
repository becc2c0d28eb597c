"""Text out of a file's bytes, whatever its encoding, with what had to be repaired."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from dpg_fast.data.scripts.script import Problem

_MARKS = (  # longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff]")
_NEWLINE = re.compile("\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]")
_WESTERN = "cp1252"
_DECLARATION = re.compile(
    rb"""(?:^\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']|<meta\b[^>]{0,300}?\bcharset\s*=\s*["']?)([\w.:\-]{1,40})""",
    re.IGNORECASE,
)
_LICENCE = re.compile(r"\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG", re.IGNORECASE)
_SAMPLE = 200_000  # bytes that a guess of the encoding looks at
_FEW = 24  # bytes outside ASCII: with fewer, a guess is no better than the most frequent encoding


def decode(data: bytes, encoding: str | None = None, *, json_lines: bool = False) -> tuple[list[str], list[Problem]]:
    """The lines of a text file, without their ends, and what had to be repaired.

    A byte order mark decides; else UTF-8 if the bytes are valid UTF-8; else what an XML or HTML head declares; else UTF-8 if
    most of the bytes outside ASCII are valid; else UTF-16 if every second byte is mostly zero; else what charset-normalizer
    finds, with Windows-1252 preferred where it reads the bytes as well. Bytes that do not belong to the encoding become U+FFFD
    and control characters go; both are reported with their lines.

    Args:
        data: the file.
        encoding: its encoding, if it is known: nothing is guessed then.
        json_lines: only a line feed ends a line, since JSON's strings may hold the other characters that do elsewhere.

    Raises:
        LookupError: Python knows no such encoding.
        ImportError: the encoding must be guessed and charset-normalizer is missing.
    """
    problems: list[Problem] = []
    if encoding is not None:
        text = data.decode(encoding, "replace").removeprefix("\ufeff")
    else:
        text, note = _decode_unknown(data)
        if note is not None:
            problems.append(note)
    lines = text.split("\n") if json_lines else _NEWLINE.split(text)
    for number, line in enumerate(lines, 1):
        if "\ufffd" in line:
            problems.append(Problem(number, "bytes that do not belong to the encoding became U+FFFD"))
        if _CONTROL.search(line):
            lines[number - 1] = _CONTROL.sub("", line)
            problems.append(Problem(number, "control characters were removed"))
    return lines, problems


def without_licence(texts: Sequence[str]) -> list[str]:
    """Lines or paragraphs with Project Gutenberg's own words before and after the text emptied; as many as were given."""
    found = [(i, mark.group(1).upper()) for i, text in enumerate(texts) if (mark := _LICENCE.match(text.strip()))]
    start = next((i + 1 for i, what in found if what == "START"), 0)
    end = next((i for i, what in found if what == "END" and i >= start), len(texts))
    return [text if start <= i < end else "" for i, text in enumerate(texts)]


def _decode_unknown(data: bytes) -> tuple[str, Problem | None]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        declared = _declared(data)
        if declared is not None:
            return declared, None
        if _is_damaged_utf8(data):
            return data.decode("utf-8", "replace"), Problem(0, "UTF-8 with bytes that do not belong to it")
        encoding = _wide(data) or _guess(data)
        return data.decode(encoding, "replace"), Problem(0, f"not UTF-8; read as {encoding}")
    wide = _wide(data) if "\0" in text else None
    if wide is None:
        return text, None
    return data.decode(wide, "replace"), Problem(0, f"no byte order mark; read as {wide}")


def _declared(data: bytes) -> str | None:
    """The text in the encoding that an XML or HTML head names, if it is one and fits."""
    found = _DECLARATION.search(data[:4096])
    name = found.group(1).decode("ascii") if found else ""
    try:
        name = codecs.lookup(name).name
        return data.decode(_WESTERN if name == "iso8859-1" else name)  # as browsers read that name
    except (LookupError, UnicodeError):
        return None


def _is_damaged_utf8(data: bytes) -> bool:
    """Whether more characters outside ASCII are whole than broken; in other encodings hardly any sequence happens to be."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return sum(letter > "\x7f" for letter in text) - broken > broken


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: text in Latin letters has a zero in every second byte."""
    sample = data[: _SAMPLE - _SAMPLE % 2]
    if len(sample) < 4:
        return None
    even, odd = sample[0::2].count(0) / len(sample[0::2]), sample[1::2].count(0) / max(1, len(sample[1::2]))
    if odd > 0.5 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.5 and odd < 0.1 else None


def _guess(data: bytes) -> str:
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise ImportError(
            "a file that is not UTF-8 needs charset-normalizer to guess its encoding: pip install 'dpg-fast[data]'"
        ) from error
    sample = _around_high_bytes(data)
    if _is_western(sample) and sum(byte > 127 for byte in sample) < _FEW:
        return _WESTERN
    matches = list(from_bytes(sample))
    if not matches:
        return _WESTERN
    best = matches[0]
    near = {match.encoding for match in matches if match.chaos <= best.chaos + 0.02}
    return _WESTERN if _WESTERN in near else best.encoding


def _is_western(data: bytes) -> bool:
    try:
        data.decode(_WESTERN)
    except UnicodeDecodeError:
        return False
    return True


def _around_high_bytes(data: bytes) -> bytes:
    """At most `_SAMPLE` bytes, from the lines that hold anything outside ASCII: only these tell encodings apart."""
    if len(data) <= _SAMPLE:
        return data
    lines = [line for line in data.splitlines(keepends=True) if not line.isascii()]
    return b"".join(lines)[:_SAMPLE]
