"""Scripts in XML: Final Draft (.fdx) and TEI, as DraCor and the Folger Shakespeare publish plays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from dpg_fast.data.scripts.names import plain_name, split_cue
from dpg_fast.data.scripts.script import Direction, DirectionKind, Part, Script, ScriptBuilder, Speech
from dpg_fast.util.errors import DPGError

ID = "{http://www.w3.org/XML/1998/namespace}id"
_KINDS: dict[str, DirectionKind] = {"transition": "transition", "lyrics": "lyrics"}
_HEADINGS = ("scene heading", "new act")
_DIVISIONS = ("div", "div1", "div2", "div3", "div4", "div5")
_UNSPOKEN = (
    "stage",
    "note",
    "fw",
    "figDesc",
    "figure",
    "sic",
    "orig",
    "abbr",
    "del",
    "speaker",
    "head",
    "ref",
    "camera",
)
_INSIDE = ("stage", "camera")  # of a speech: parentheticals


def parse_xml(lines: Sequence[str], name: str) -> Any:
    """The root element of ``lines``.

    Raises:
        ValueError: not XML.
        ImportError: lxml is missing.
    """
    try:
        from lxml import etree
    except ImportError as error:
        raise ImportError("XML files need lxml: pip install 'dpg-fast[data]'") from error
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True, encoding="utf-8"
    )
    try:
        return etree.fromstring("\n".join(lines).lstrip().encode(), parser)
    except etree.XMLSyntaxError as error:
        raise DPGError(f"{name}: not well-formed XML ({error})") from error


def read_final_draft(lines: Sequence[str], name: str) -> Script:
    """The script in the paragraphs of a Final Draft file.

    Raises:
        ValueError: not XML.
        ImportError: lxml is missing.
    """
    builder = ScriptBuilder(name, "fdx")
    speech: Speech | None = None
    for paragraph in parse_xml(lines, name).iterfind("Content//Paragraph"):
        kind, line = (paragraph.get("Type") or "").casefold(), int(paragraph.sourceline or 0)
        text = " ".join("".join(text for run in paragraph.iterfind("Text") for text in run.itertext()).split())
        if not text:
            continue
        if kind in _HEADINGS:
            speech = None
            builder.open_scene(text, line, paragraph.get("Number") or None)
        elif kind == "character":
            cue, extensions = split_cue(text)
            beside = paragraph.getparent().tag == "DualDialogue"
            speech = Speech(cue, extensions, [], line, plain_name(cue), beside)
            builder.add(speech)
        elif kind in ("dialogue", "parenthetical") and speech is not None:
            words = kind == "dialogue"
            speech.parts.append(Part("words" if words else "parenthetical", text if words else text.strip("() "), line))
        else:
            if kind == "dialogue":
                builder.problem(line, "dialogue without a character before it: taken as a direction")
            speech = None
            builder.add(Direction(_KINDS.get(kind, "action"), text, line))
    return _with_silent(builder)


def read_tei(lines: Sequence[str], name: str) -> Script:
    """The play in a TEI file: who speaks is told by ``who`` and the list of persons, else by the speaker's label.

    Raises:
        ValueError: not XML.
        ImportError: lxml is missing.
    """
    root = parse_xml(lines, name)
    builder = ScriptBuilder(name, "tei")
    people = _people(root)
    for body in root.iterfind(".//{*}text"):
        if next(body.iterancestors("{*}text"), None) is None:
            _division(body, (), builder, people)
    return _with_silent(builder)


def _with_silent(builder: ScriptBuilder) -> Script:
    script = builder.finish()
    for speech in script.speeches():
        if not speech.words:
            builder.problem(speech.line, f"{speech.cue} says nothing")
    return builder.finish()


def tag_of(name: str) -> str:
    """The name of an element or attribute without its namespace."""
    return name.rpartition("}")[2]


def _tag(element: Any) -> str:
    return tag_of(cast(str, element.tag))


def _people(root: Any) -> dict[str, str]:
    """id -> name, from the list of persons; where it has none, the label that stands most often before the person's words."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for speech in root.iterfind(".//{*}sp"):
        who = (speech.get("who") or "").split()
        if len(who) == 1:
            labels[who[0].lstrip("#")][_label(speech)] += 1
    found = {person: counts.most_common(1)[0][0] for person, counts in labels.items()}
    for person in (*root.iterfind(".//{*}person"), *root.iterfind(".//{*}personGrp")):
        name = next((text for part in person.iterfind("{*}persName") if (text := _squeezed(part.itertext()))), None)
        name = name or next((text for part in person.iterfind("{*}name") if (text := _squeezed(part.itertext()))), None)
        if name and person.get(ID):
            found[person.get(ID)] = name
    return {person: name for person, name in found.items() if name}


def _label(speech: Any) -> str:
    label = speech.find("{*}speaker")
    return "" if label is None else _squeezed(label.itertext()).rstrip(".:,; ")


def _division(element: Any, above: tuple[str, ...], builder: ScriptBuilder, people: Mapping[str, str]) -> None:
    """The speeches and directions of a part of the text; a part with a heading of its own that holds any is a scene."""
    for child in element:
        tag = _tag(child)
        if tag in ("front", "castList", "teiHeader", "listPerson"):
            continue
        if tag in (*_DIVISIONS, "body", "group", "text", "back", "prologue", "epilogue"):
            head = child.find("{*}head")
            here = (*above, _squeezed(_spoken(head))) if head is not None else above
            if head is not None and not any(_tag(inner) in _DIVISIONS for inner in child):
                builder.open_scene(", ".join(here), int(child.sourceline or 0))
            _division(child, here, builder, people)
        elif tag == "sp":
            builder.add(_speech(child, people))
        elif tag in ("stage", "p", "trailer") and (text := _squeezed(child.itertext())):
            builder.add(Direction("action", text, int(child.sourceline or 0)))
        elif tag in ("lg", "spGrp", "floatingText", "quote"):
            _division(child, above, builder, people)


def _speech(element: Any, people: Mapping[str, str]) -> Speech:
    who = (element.get("who") or "").split()
    known = people.get(who[0].lstrip("#")) if len(who) == 1 else None
    name, extensions = split_cue(known or _label(element) or " AND ".join(part.lstrip("#") for part in who) or "?")
    speech = Speech(name, extensions, [], int(element.sourceline or 0), plain_name(name))
    pending: list[str] = []

    def flush(line: int) -> None:
        if text := _squeezed(pending):
            speech.parts.append(Part("words", text, line))
        pending.clear()

    for piece in _pieces(element):
        if isinstance(piece, str):
            pending.append(piece)
        else:
            line = int(piece.sourceline or 0)
            flush(line)
            if text := _squeezed(piece.itertext()).strip("()[] "):
                speech.parts.append(Part("parenthetical", text, line))
    flush(speech.line)
    return speech


def _pieces(element: Any) -> Iterator[Any]:
    """The spoken texts under an element, and the stage directions between them."""
    words = element.find("{*}w") is not None  # tokens: the spaces between words are elements too
    if element.text and not (words and not element.text.strip()):
        yield element.text
    for child in element:
        tag = _tag(child)
        if tag in _INSIDE:
            yield child
        elif tag not in _UNSPOKEN:
            block = tag in ("l", "lb", "p", "ab", "lg", "cb", "pb")
            if block:
                yield " "
            yield from _pieces(child)
            if block:
                yield " "
        if child.tail and not (words and not child.tail.strip()):
            yield child.tail


def _spoken(element: Any) -> Iterator[str]:
    return (piece for piece in _pieces(element) if isinstance(piece, str))


def _squeezed(texts: Any) -> str:
    return " ".join("".join(texts).split())
