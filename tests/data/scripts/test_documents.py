"""Word and PDF files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dpg_fast.data.scripts import Script, read_corpus, read_script


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF with these lines, in a typewriter's letters."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>"]
    kids = []
    for lines in pages:
        shown = b"".join(
            b"1 0 0 1 %d %d Tm (%s) Tj\n"
            % (72 + 7.2 * (len(line) - len(line.lstrip())), 720 - 12 * i, line.strip().encode())
            for i, line in enumerate(lines)
            if line.strip()
        )
        stream = b"BT /F1 12 Tf\n" + shown + b"ET"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        kids.append(len(objects) + 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
            % len(objects)
        )
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(b"%d 0 R" % kid for kid in kids))
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer


def test_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="pypdf is not installed: pip install 'dpg-fast[documents]'")
    first = ["INT. KITCHEN - DAY", "", "Rosa waits.", "", " " * 20 + "ROSA", " " * 10 + "Did you feed the cat?"]
    second = ["INT. YARD - DAY", "", " " * 20 + "KARL", " " * 10 + "Yes, twice."]
    (tmp_path / "a.pdf").write_bytes(pdf([first, second]))
    script = read_script(tmp_path / "a.pdf")
    assert script.format == "fountain"
    assert said(script) == [("ROSA", "Did you feed the cat?"), ("KARL", "Yes, twice.")]
    assert [scene.heading for scene in script.scenes] == ["INT. KITCHEN - DAY", "INT. YARD - DAY"]


def test_pdf_that_holds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="pypdf is not installed: pip install 'dpg-fast[documents]'")
    (tmp_path / "a.pdf").write_bytes(pdf([[]]))
    with pytest.raises(ValueError, match=r"a\.pdf holds no text; pages that are pictures"):
        read_script(tmp_path / "a.pdf")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 cut off")
    with pytest.raises(ValueError, match=r"b\.pdf is not a readable PDF"):
        read_script(tmp_path / "b.pdf")


def test_word(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx", reason="python-docx is not installed: pip install 'dpg-fast[documents]'")
    play = docx.Document()
    for text in ("Rosa: Did you feed the cat?", "Karl (smiling): Yes, twice.", "Rosa: Good."):
        play.add_paragraph(text)
    table = play.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Karl", "Bye."
    play.save(str(tmp_path / "play.docx"))
    assert said(read_script(tmp_path / "play.docx")) == [
        ("ROSA", "Did you feed the cat?"),
        ("KARL", "Yes, twice."),
        ("ROSA", "Good."),
        ("KARL", "Bye."),
    ]
    teams = docx.Document()
    for name, time, text in (("Rosa Lind", "0:03", "Did you feed it?"), ("Karl Berg", "0:41", "Yes.")):
        teams.add_paragraph(f"{name}   {time}\n{text}")
    teams.save(str(tmp_path / "teams.docx"))
    assert said(read_script(tmp_path / "teams.docx")) == [("ROSA LIND", "Did you feed it?"), ("KARL BERG", "Yes.")]
    film = docx.Document()
    for style, text in (
        ("Scene Heading", "Int. Kitchen - Day"),
        ("Action", "Rosa waits."),
        ("Character", "Rosa"),
        ("Dialogue", "Did you feed the cat?"),
        ("Character", "Karl"),
        ("Parenthetical", "(smiling)"),
        ("Dialogue", "Yes."),
    ):
        if style not in [known.name for known in film.styles]:
            film.styles.add_style(style, 1)
        film.add_paragraph(text, style=style)
    film.save(str(tmp_path / "film.docx"))
    script = read_script(tmp_path / "film.docx")
    assert (script.format, said(script)) == ("fountain", [("ROSA", "Did you feed the cat?"), ("KARL", "Yes.")])
    (tmp_path / "broken.docx").write_bytes(b"PK\x03\x04 not a document")
    with pytest.raises(ValueError, match=r"broken\.docx is not a readable Word file"):
        read_script(tmp_path / "broken.docx")


@pytest.mark.parametrize(
    ("name", "module", "package"), [("a.docx", "docx", "python-docx"), ("a.pdf", "pypdf", "pypdf")]
)
def test_a_missing_package_is_named_and_a_folder_goes_on(
    name: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b.txt").write_text("Anna: Hi.\nBen: Ho.")
    message = rf"{name}: .* files need {package}: pip install 'dpg-fast\[documents\]'"
    with pytest.raises(ImportError, match=message):
        read_script(tmp_path / name)
    corpus = read_corpus(tmp_path)
    assert corpus.speeches == 2 and package in corpus.unread[name]
