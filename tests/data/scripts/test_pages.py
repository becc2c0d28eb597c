"""Web pages: transcripts, screenplays in preformatted text, plays, tables of names and words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dpg_fast.data.scripts.reader import read_script
from dpg_fast.data.scripts.script import Script
from dpg_fast.personified.data.reading import read_blocks

pytest.importorskip("bs4")
pytest.importorskip("lxml")

FURNITURE = "<head><title>A page: with a title</title><script>var a = 'MARA: no';</script></head>"
MENU = "<nav><a href='/'>HOME</a><br><a href='/x'>SCRIPTS: A to Z</a></nav>"


def read(path: Path, body: str) -> Script:
    path.write_text(f"<html>{FURNITURE}<body>{MENU}{body}</body></html>", encoding="utf-8")
    return read_script(path)


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker.title(), " ".join(speech.words.split())) for speech in script.speeches()]


TALK = [
    ("Mara", "You are late, and the tide does not wait."),
    ("Tobin", "It waited for me & for you."),
    ("Mara", "Then it is a better friend than I am."),
    ("Ines", "Somebody at the door is asking for Tobin."),
]


def escaped(words: str) -> str:
    return words.replace("&", "&amp;")


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml", "A.HTML"])
def test_paragraphs_with_bold_names(name: str, tmp_path: Path) -> None:
    body = "\n".join(f"<p><b>{who}:</b>\n {escaped(words)}</p>" for who, words in TALK)
    assert said(read(tmp_path / name, f"<p>[Scene: The harbour office, Mara writes.]</p>{body}")) == TALK


def test_lines_with_breaks_whatever_the_ends_of_lines_in_the_source(tmp_path: Path) -> None:
    draw = random.Random(3)
    for _ in range(20):
        lines = [f"{who}: {escaped(words)}" for who, words in TALK]
        lines = ["".join(draw.choice("\n ") if c == " " else c for c in line) for line in lines]
        assert said(read(tmp_path / "a.html", f"<div>{'<br/>'.join(lines)}</div>")) == TALK


def test_a_screenplay_in_preformatted_text(tmp_path: Path) -> None:
    cues = "\n\n".join(f"<b>{' ' * 37}{who.upper()}\n</b>{' ' * 25}{escaped(words)}" for who, words in TALK)
    script = read(
        tmp_path / "a.html", f"<pre><b>INT. HARBOUR OFFICE - NIGHT\n</b>\n{' ' * 15}Mara writes.\n\n{cues}\n</pre>"
    )
    assert script.format == "fountain"
    assert said(script) == TALK


def test_a_play_with_names_alone_over_quoted_blocks(tmp_path: Path) -> None:
    speeches = "\n".join(
        f"<A NAME=speech{i}><b>{who.upper()}</b></a>\n<blockquote>\n<A NAME={i}>{escaped(words)}</A><br>\n</blockquote>"
        for i, (who, words) in enumerate(TALK * 3)
    )
    script = read(tmp_path / "a.html", f"<h3>ACT I</h3><h3>SCENE I. An office.</h3>{speeches}")
    assert said(script) == TALK * 3


def test_a_table_of_names_and_words(tmp_path: Path) -> None:
    rows = "".join(f"<tr><td>{who}</td><td>{escaped(words)}</td></tr>" for who, words in TALK)
    assert said(read(tmp_path / "a.html", f"<table>{rows}</table>")) == TALK


def test_prose_of_a_page_is_still_read_as_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(f"<html>{FURNITURE}<body>{MENU}<p>The tide\ncame in.</p><p>It went<br>out again.</p></body></html>")
    blocks, notes = read_blocks(path)
    assert [block.text for block in blocks] == ["The tide came in.", "It went out again."] and not notes
