"""Reports: one file that needs nothing else, escaped texts, pictures, several systems; what they say about made-up people."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.judges.sections import system_names
from dpg_fast.questionnaire.analysis import analyse
from dpg_fast.questionnaire.report import trust, write_questionnaire_report
from dpg_fast.reporting import Cards, Page, Picture, Quote, Quotes, Section, Settings, Table, Text, write_report
from dpg_fast.reporting.page import bounds, grouped, number
from dpg_fast.reporting.render import markdown, one_line
from dpg_fast.util.results import write_results
from dpg_fast.util.stats import Interval
from tests.questionnaire.test_analysis import session

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
EVIL = "<script>alert('x')</script><img src=http://example.org/a.png onerror=alert(1)>"


class Reader(HTMLParser):
    """Tags and addresses of a page; complains about what is never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(path: Path) -> Reader:
    """The page is whole, and neither runs nor fetches anything."""
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert not reader.open and not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in reader.addresses)
    assert (path.parent / "report.json").is_file()
    return reader


def test_texts_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    found = session(0.5, people=4, forms=2)
    first = found.respondents[0]
    found.respondents = [replace(first, label=EVIL, system=EVIL), *found.respondents[1:]]
    answers = {}
    for answer in found.answers.values():
        mine = replace(answer, respondent=EVIL if answer.respondent == first.label else answer.respondent)
        answers[mine.key] = mine
    key = next(iter(answers))
    answers[key] = replace(answers[key], text=EVIL, status="refusal", rating=None)
    found.answers = answers
    result = analyse(found, resamples=10) | {"adapter": EVIL, "method": f"questionnaire {EVIL}"}
    page = write_questionnaire_report([result], tmp_path, session=found)
    html = page.read_text(encoding="utf-8")
    reader = check(page)
    # label in the table, method, adapter, the answer and who gave it
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)") >= 5 and "<script" not in html
    assert reader.tags.count("img") == len([a for a in reader.addresses if a.startswith("data:")]) >= 5
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_markdown_shows_texts_as_they_are() -> None:
    text = "# a\n| *b* `c` <i> ![x](http://example.org/a.png)"
    shown = r"\# a \| \*b\* \`c\` \<i\> ![x]\(http://example.org/a.png)"
    assert one_line("[a]: http://b [a][a] 0.1 [0.0, 0.2]") == r"\[a]: http://b [a]\[a] 0.1 [0.0, 0.2]"
    blocks = [
        Text(text, strong=True),
        Cards([("what", text, "meaning")]),
        Table(["", text], [[text, "1"]], text),
        Quotes([Quote(text, text, text, text)]),
        Settings({"key": text}),
    ]
    written = markdown(Page(text, text, text, [Section(text, blocks)], {})).splitlines()
    expected = [f"# {shown}", shown, shown, f"## {shown}", f"**{shown}**", f"- what: {shown} (meaning)"]
    expected += [f"|  | {shown} |", "|---|---:|", f"| {shown} | 1 |", shown]
    expected += [f"- {shown} ({shown}), asked: {shown}", f"  > {shown}", f"- key: {shown}"]
    assert [line for line in written if line] == expected


def test_report_of_reliable_people(tmp_path: Path) -> None:
    found = session(0.3, people=4, forms=2)
    result = analyse(found, resamples=20) | {"cost": {"seconds": 3.5, "paid": 0}}
    page = write_questionnaire_report([result], tmp_path, session=found)
    html = page.read_text(encoding="utf-8")
    check(page)
    assert "The scores are consistent" in html and "Asked for and measured" in html and "cost.seconds" in html
    for name in ("profiles", "dose_response", "confusion", "cross_trait", "reliability", "places"):
        assert (tmp_path / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    data = json.loads((tmp_path / "report.json").read_text())
    (system,) = data["systems"].values()
    assert system["reliability"]["openness"]["alpha"] == result["reliability"]["openness"]["alpha"]


def test_reports_of_two_systems_and_their_comparison(tmp_path: Path) -> None:
    good = analyse(session(0.3, people=4, forms=2), resamples=10) | {"method": "a good one"}
    bad = analyse(session(4.0, people=4, forms=2, seed=5), resamples=10) | {"method": "a bad one"}
    page = write_questionnaire_report([good, bad], tmp_path / "both")
    html = page.read_text(encoding="utf-8")
    check(page)
    assert "A good one: the scores are consistent" in html and "a bad one" in html
    for name, result in (("good", good), ("bad", bad)):
        write_results(tmp_path / f"{name}.json", result)
    files = [str(tmp_path / "good.json"), str(tmp_path / "bad.json")]
    result = CliRunner().invoke(
        app, ["assess", "compare", *files, "--resamples", "20", "--report", str(tmp_path / "c")]
    )
    assert result.exit_code == 0, result.output
    html = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    check(tmp_path / "c" / "report.html")
    assert "Convergent and discriminant validity" in html and "Largest disagreements" in html
    assert set(json.loads((tmp_path / "c" / "report.json").read_text())["systems"]) == {"a good one", "a bad one"}


def test_what_is_said_about_trust() -> None:
    def rows(alpha: float, retest: float) -> dict[str, Any]:
        return {"alpha": {"estimate": alpha}, "retest": {"estimate": retest}}

    assert trust({"reliability": {"openness": rows(0.8, 0.9)}}).startswith("the scores are consistent")
    mixed = trust({"reliability": {"openness": rows(0.8, 0.9), "neuroticism": rows(0.9, 0.1)}})
    assert mixed.startswith("openness can be read with care")
    assert "do not read" in trust({"reliability": {"openness": rows(-3, 0.9)}}, "x")
    assert "is not known (1 people" in trust({"reliability": {"openness": {"reason": "1 people; 3 are needed"}}})


def test_acquiescence_lowers_alpha_and_centring_restores_it() -> None:
    found = session(0.3, people=8, forms=2)
    rng = np.random.default_rng(0)
    liking = dict(zip([r.label for r in found.respondents], rng.uniform(-1.5, 1.5, 8), strict=True))
    for key, answer in found.answers.items():
        assert answer.rating is not None
        found.answers[key] = replace(answer, rating=3 + 0.2 * (answer.rating - 3) + liking[answer.respondent])
    row = analyse(found, resamples=10)["reliability"]["extraversion"]
    assert row["alpha"]["estimate"] < 0.5 < 0.9 < row["alpha_centred"]["estimate"]


def test_pages_by_hand(tmp_path: Path) -> None:
    settings = Settings({"a": {"b": 1, "c": None}, "d": [1, 2]})
    assert settings.rows == [("a.b", "1"), ("d", "[1, 2]")]
    blocks = [Text("x"), None, Table(["a"], [["<b>"]]), settings]
    page = Page("t", "s", "l", [Section("One & two", blocks), None, Section("Empty", [None])], {"n": float("nan")})
    html = write_report(page, tmp_path).read_text(encoding="utf-8")
    assert "&lt;b&gt;" in html and 'href="#one-two"' in html and re.findall(r"<h2>(.*)</h2>", html) == ["One &amp; two"]
    assert json.loads((tmp_path / "report.json").read_text()) == {"n": None}
    assert "## One & two" in (tmp_path / "report.md").read_text()
    with pytest.raises(FileNotFoundError):
        write_report(replace(page, sections=[Section("p", [Picture("none.png", "none")])]), tmp_path)
    with pytest.raises(ValueError, match="2 cells under 1 headings"):
        Table(["a"], [["1", "2"]])
    assert number(float("nan")) == number(None) == "-" and number(0.123) == "0.12"
    assert bounds(Interval(1.0, 0.5, 2.0, 0.95, 10)) == bounds({"estimate": 1, "low": 0.5, "high": 2})
    assert bounds(Interval(float("nan"))) == bounds(None) == bounds({}) == "-"
    assert grouped({"a": [["1"], ["2"]], "b": [["3"]]}) == [["a", "1"], ["", "2"], ["b", "3"]]
    assert system_names([{"method": "m", "model": "a"}, {"method": "m", "model": "b"}]) == ["m, a", "m, b"]
    assert system_names([{"method": "m"}, {"method": "m"}]) == ["m (1)", "m (2)"]


def test_captions_and_pictures_on_a_phone(tmp_path: Path) -> None:
    """A caption stands outside what is scrolled, and a picture keeps a size at which its text can be read."""
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    wide = Table(["name", *(f"column {n}" for n in range(30))], [["x"] * 31], "standard deviation over everybody")
    page = Page("T", "s", "l", [Section("S", [wide, Picture("p.png", "a")])], {})
    html = write_report(page, tmp_path).read_text(encoding="utf-8")
    assert '<p class="caption">standard deviation over everybody</p>' in html and "<caption" not in html
    phone = html[html.index("@media (max-width: 640px)") :].split("@media print")[0]
    assert ".picture { overflow-x: auto; }" in phone and "width: 720px" in phone
