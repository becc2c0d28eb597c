"""Files of every kind and encoding, and a character's folder."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT

pytest.importorskip("yaml")

from dpg_fast.personified.data import reading
from dpg_fast.personified.data.material import MAX_STAGE_BYTES, load_character, read_entry
from dpg_fast.personified.data.reading import count_words, read_blocks, split_long, terms
from tests.personified.data.annotator import write_character

SHIPPED = ROOT / "recipes" / "characters"


def texts(path: Path, encoding: str | None = None) -> list[str]:
    return [block.text for block in read_blocks(path, encoding)[0]]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (
            "One line here.\nstill the same.\n\n\nAnother one here.\n",
            ["One line here. still the same.", "Another one here."],
        ),
        ("A paragraph a line.\nThe next of them.\n", ["A paragraph a line.", "The next of them."]),
        ("A paragraph that was\nwrapped in the middle\nof its only sentence.\n", None),
        ("\ufeffMark at the start.\r\n\r\nSecond with returns.\r\n", ["Mark at the start.", "Second with returns."]),
        ("12\n\nA real paragraph here.\n\n* * *\n", ["A real paragraph here."]),
        ("", []),
    ],
)
def test_plain_text(tmp_path: Path, content: str, wanted: list[str] | None) -> None:
    wanted = [" ".join(content.split())] if wanted is None else wanted
    assert texts(write(tmp_path / "a.txt", content)) == wanted


def test_markdown_keeps_sources_and_drops_headings(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.md",
        "# Youth\nBorn by the sea.\n\n<!-- source: novel.txt#3-4 -->\nShe sold\nthe boat.\n\n---\n\n- first of the list\n"
        "- second of the list\n\n<!-- a remark\nof two lines -->\n> Quoted by somebody else.\n",
    )
    blocks, notes = read_blocks(path)
    assert [(b.text, b.origin) for b in blocks] == [
        ("Born by the sea.", None),
        ("She sold the boat.", "novel.txt#3-4"),
        ("first of the list", None),
        ("second of the list", None),
        ("Quoted by somebody else.", None),
    ]
    assert notes == []


def test_html_without_the_furniture(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    path = write(
        tmp_path / "a.html",
        "<html><head><style>p {color: red}</style></head><body><nav><p>Home and contact</p></nav><p>Born <b>by</b>\nthe "
        "sea<sup>[1]</sup>.</p><ul><li>First of the list<li>Second of the list</ul><script>var a = 'p';</script>"
        "<blockquote><p>She said:<br>never again.</p></blockquote></body></html>",
    )
    assert texts(path) == ["Born by the sea.", "First of the list", "Second of the list", "She said: never again."]


CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def write_epub(path: Path, chapters: dict[str, str], order: list[str]) -> Path:
    items = "".join(f'<item id="{name}" href="text/{name}%20a.xhtml" media-type="a"/>' for name in chapters)
    spine = "".join(f'<itemref idref="{name}"/>' for name in order)
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OPS/book.opf", package)
        for name, body in chapters.items():
            head = '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body>'
            book.writestr(f"OPS/text/{name} a.xhtml", f"{head}{body}</body></html>")
    return path


def test_epub_in_the_order_of_its_spine(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    chapters = {"two": "<h1>Two</h1><p>This is chapter two.</p>", "one": "<p>This is chapter one, für alle.</p>"}
    blocks, _ = read_blocks(write_epub(tmp_path / "a.epub", chapters, ["one", "two"]))
    assert [(b.text, b.origin) for b in blocks] == [
        ("This is chapter one, für alle.", "text/one%20a.xhtml"),
        ("This is chapter two.", "text/two%20a.xhtml"),
    ]
    for bad in (write(tmp_path / "b.epub", b"PK\x03\x04 no zip"), write_epub(tmp_path / "c.epub", {}, ["missing"])):
        with pytest.raises(ValueError, match=rf"{bad.name} is not a readable EPUB"):
            read_blocks(bad)


def test_an_epub_that_unpacks_to_more_than_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_CHAPTER_BYTES", 1000)
    path = write_epub(tmp_path / "a.epub", {"one": "<p>" + "word " * 1000 + "</p>"}, ["one"])
    with pytest.raises(ValueError, match="is larger than"):
        read_blocks(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Sie saß am Fährhaus und hörte zu – “schön”, sagte er.\n\nÜber die Brücke ging sie nie, auch später nicht.\n"
    path = write(tmp_path / "a.txt", text.encode(encoding))
    assert texts(path) == [" ".join(part.split()) for part in text.strip().split("\n\n")]


def test_a_wrong_encoding_is_named_and_other_data_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.txt",
        "A fine line.\n\nSchöne Brücke dort.\n\nMore lines follow.\n\nAnd one more.\n".encode("cp1252"),
    )
    blocks, notes = read_blocks(path, "utf-8")
    assert len(blocks) == 4 and any("U+FFFD" in note and "line 3" in note for note in notes)
    with pytest.raises(ValueError, match="no encoding 'utf-99'"):
        read_blocks(path, "utf-99")
    with pytest.raises(ValueError, match=r"c\.txt does not look like text"):
        read_blocks(write(tmp_path / "c.txt", b"\x00\x01\x02\x03abc\n" * 200))


@given(st.lists(st.sampled_from(["word", "End.", "Why?", "über", "河", "it's"]), max_size=60), st.integers(1, 12))
def test_long_paragraphs_lose_no_word(parts: list[str], longest: int) -> None:
    text = " ".join(parts)
    pieces = split_long(text, longest)
    assert all(0 < count_words(piece) <= longest for piece in pieces)
    assert [word for piece in pieces for word in terms(piece)] == terms(text)


def test_words_of_scripts_without_spaces() -> None:
    assert count_words("我在河边") == 4
    assert count_words("It's a well-known fact, isn’t it?") == 6


# --- folders ---


def test_the_shipped_character() -> None:
    for folder in SHIPPED.iterdir():
        character = load_character(folder)
        assert character.reviewed and not character.notes
        assert [stage.token for stage in character.stages] == ["<TIME-I>", "<TIME-II>"]
        assert len({p.id for stage in character.stages for p in stage.paragraphs}) == sum(
            len(stage.paragraphs) for stage in character.stages
        )
        for stage in character.stages:
            assert stage.time
            assert all(10 <= count_words(p.text) <= 90 for p in stage.paragraphs)
    marit = load_character(SHIPPED / "marit_oss")
    assert sum(len(s.knowledge) for s in marit.stages) >= 40 and sum(len(s.style) for s in marit.stages) >= 40


def test_ids_sources_and_repetitions(tmp_path: Path) -> None:
    folder = write_character(tmp_path / "ada", 2)
    place = folder / "early" / "knowledge"
    (place / "wiki").mkdir()
    write(
        place / "wiki" / "b.md",
        "<!-- source: wiki/Ada#7 -->\nShe kept bees for a while.\n\nShe  kept bees for a WHILE!\n",
    )
    character = load_character(folder)
    early = character.stages[0]
    assert [(p.id, p.origin) for p in early.knowledge] == [
        ("early/knowledge/texts.txt#1", None),
        ("early/knowledge/texts.txt#2", None),
        ("early/knowledge/wiki/b.md#1", "wiki/Ada#7"),
    ]
    assert character.notes == ("early/knowledge: 1 repeated paragraphs left out",)


def test_an_empty_stage(tmp_path: Path) -> None:
    folder = write_character(tmp_path / "ada")
    write(folder / "late" / "style" / "texts.txt", " \n\n")
    with pytest.raises(ValueError, match=r"stage 'late' is empty: put the person's own words into .*style"):
        load_character(folder)
    (folder / "late" / "style" / "texts.txt").unlink()
    (folder / "late" / "style").rmdir()
    with pytest.raises(FileNotFoundError, match="stage 'late' has no folder"):
        load_character(folder)


def test_too_much_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = write_character(tmp_path / "ada")
    with (folder / "early" / "knowledge" / "all.txt").open("wb") as file:
        os.truncate(file.fileno(), 100_000_000)
    with pytest.raises(ValueError, match=rf"holds 100 MB; at most {MAX_STAGE_BYTES // 10**6} MB"):
        load_character(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: A\nstages: []\n", "stages"),
        ("name: A\nstages: [{id: a/b}]\n", "stages.0.id"),
        ("name: A\nstages: [{id: a}, {id: a}]\n", "same id: a, a"),
        ("name: A\nstages: [{id: a, label: TIME-II}, {id: b}]\n", "same label"),
        ("name: A\nstage: [{id: a}]\n", "stages"),
        ("name: A\nlanguage: English\nstages: [{id: a}]\n", "language"),
        ("name: [unclosed\n", "not YAML"),
        ("", "dictionary"),
    ],
)
def test_wrong_stages_files(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path / "stages.yaml", content)
    with pytest.raises(ValueError, match=r"stages\.yaml") as found:
        read_entry(tmp_path)
    assert message in str(found.value)


def test_norwegian_is_not_false(tmp_path: Path) -> None:
    write(tmp_path / "stages.yaml", "name: A\nlanguage: no\nstages: [{id: a}]\n")
    assert read_entry(tmp_path).language == "no"


def test_no_stages_file_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no stages\.yaml"):
        load_character(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_character(tmp_path / "nobody")


BOOKS = Path(__file__).parent / "books"


@pytest.mark.parametrize(
    ("book", "expected", "notes"),
    [
        (
            "20_div_and_p.epub",
            [
                "Nora walked to the harbour and counted the boats again.",
                "Then the fog came in from the sea.",
                "The bell rang for a long time.",
            ],
            [],
        ),
        ("20_latin1_chapter.epub", ["Nora gab dem Bäcker fünf Groschen für süße Brötchen."], []),
        (
            "20_missing_chapter.epub",
            ["Nora walked to the harbour and counted the boats again."],
            ["20_missing_chapter.epub: the chapter 'gone.xhtml' is missing from the book"],
        ),
        ("20_text_in_table.epub", ["Nora walked to the harbour and counted the boats again."], []),
    ],
)
def test_books_as_they_are_made(book: str, expected: list[str], notes: list[str]) -> None:
    pytest.importorskip("bs4")
    blocks, found = read_blocks(BOOKS / book)
    assert ([block.text for block in blocks], found) == (expected, notes)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-16", "iso-8859-1", "iso-8859-2", "windows-1250", "koi8-r", "shift_jis"]
)
@pytest.mark.parametrize(
    "head", ['<?xml version="1.0" encoding="{}"?><html>', '<html><head><meta charset="{}"></head>']
)
def test_chapters_in_the_encoding_that_they_declare(encoding: str, head: str, tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    words = {
        "koi8-r": "Марта вошла в дом.",
        "shift_jis": "花子は港へ歩いて行った。",
        "iso-8859-1": "Schöne Brücke dort.",
    }
    sentence = words.get(encoding, "Žluťoučký kůň pěl ódy.")
    body = f"{head.format(encoding)}<body><p>{sentence}</p></body></html>"
    with zipfile.ZipFile(tmp_path / "a.epub", "w") as book:
        book.writestr("META-INF/container.xml", CONTAINER)
        item, ref = '<item id="a" href="A.xhtml"/>', '<itemref idref="a"/><itemref idref="nothing"/>'
        book.writestr("OPS/book.opf", f"<package><manifest>{item}</manifest><spine>{ref}</spine></package>")
        book.writestr("ops/a.XHTML", body.encode(encoding))  # names differ in case
    blocks, notes = read_blocks(tmp_path / "a.epub")
    assert [block.text for block in blocks] == [sentence]
    assert notes == ["a.epub: the chapter 'nothing' is missing from the book"]


def test_every_text_of_a_page_is_a_paragraph_of_its_innermost_block(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    page = (
        "<body><h1>The long first chapter of all</h1>Text of the body itself.<br><br>And its second paragraph."
        "<div>A div with text <em>and more</em>.<p>A paragraph inside it.</p>What stands behind it.</div>"
        "<table><tr><td>12</td><td>Name of it</td><td>A cell that holds a whole sentence of the book.</td></tr></table>"
        "<ul><li>An item with text<p>and a paragraph of its own</p></li></ul></body>"
    )
    blocks, notes = read_blocks(write(tmp_path / "a.html", page))
    assert [block.text for block in blocks] == [
        "Text of the body itself.",
        "And its second paragraph.",
        "A div with text and more.",
        "A paragraph inside it.",
        "What stands behind it.",
        "A cell that holds a whole sentence of the book.",
        "An item with text",
        "and a paragraph of its own",
    ]
    assert notes == ["a.html: 2 short cells of tables were left out"]
    assert texts(write(tmp_path / "b.html", "<h1>Only a heading is here</h1>")) == ["Only a heading is here"]


def test_the_licence_of_a_book_is_not_knowledge(tmp_path: Path) -> None:
    before, after = "*** START OF THE PROJECT GUTENBERG EBOOK X ***", "*** END OF THE PROJECT GUTENBERG EBOOK X ***"
    parts = [
        "The Project Gutenberg eBook of X.",
        before,
        "Nora walked to the harbour.",
        after,
        "Please read this licence.",
    ]
    assert texts(write(tmp_path / "a.txt", "\n\n".join(parts))) == ["Nora walked to the harbour."]
    pytest.importorskip("bs4")
    page = "".join(f"<p>{part}</p>" for part in parts)
    assert texts(write(tmp_path / "a.html", page)) == ["Nora walked to the harbour."]
    chapters = {
        "one": page[: page.index("<p>Please")].replace(f"<p>{after}</p>", ""),
        "two": f"<p>{after}</p><p>{parts[-1]}</p>",
    }
    assert texts(write_epub(tmp_path / "a.epub", chapters, ["one", "two"])) == ["Nora walked to the harbour."]


def test_a_folder_is_read_past_what_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "Nora walked to the harbour.")
    write(tmp_path / "b.epub", b"PK no book")
    write(tmp_path / "c.rtf", "{}")
    write(tmp_path / "d.txt", "")
    found, notes = reading.read_texts(tmp_path)
    assert [(file.name, [block.text for block in blocks]) for file, blocks in found] == [
        ("a.txt", ["Nora walked to the harbour."]),
        ("d.txt", []),
    ]
    assert [note.split(":")[0] for note in notes] == [
        "left out",
        "d.txt holds no paragraphs",
        "passed over, since their endings are unknown",
    ]
