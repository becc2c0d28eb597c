"""From a text to a character's folder: what is found, checked, placed and left for review."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personified.data.extraction import ExtractedItem, check_item, passages
from dpg_fast.personified.data.material import load_character, read_entry
from dpg_fast.personified.data.novel import ReviewItem, Wanted, read_novel
from dpg_fast.personified.data.reading import Block
from dpg_fast.text.records import read_records
from tests.llm.server import Answer, FakeServer, serve
from tests.personified.data.annotator import Annotator, schema

for module in ("openai", "yaml", "py3langid", "sklearn"):
    pytest.importorskip(module)
runner = CliRunner()

FILLER = "The town went about its business, and nobody in it remarked upon the weather or the price of coal. " * 12


def novel(folder: Path) -> Path:
    parts = []
    for age in ("young", "old"):
        for i in range(3):
            parts.append(
                f'When Nora was {age} she sold {i + 2} boats at the harbour and kept the money in a jar. "I never liked the '
                f'number {i + 2}, whatever people say," she told everybody.'
            )
            parts += [FILLER] * 5
    path = folder / "novel.txt"
    path.write_text("\n\n".join(parts))
    return path


def run(folder: Path, server: FakeServer, *more: str, code: int = 0, text: Path | None = None) -> str:
    command = ["data", "personified", "material", str(text or novel(folder)), "--name", "Nora", "--out"]
    command += [str(folder / "nora"), "--writer-model", "m", "--writer-url", server.url, *more]
    result = runner.invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + result.stderr
    return result.output + result.stderr


def test_a_folder_to_be_reviewed(tmp_path: Path) -> None:
    with serve(Annotator()) as server:
        output = run(tmp_path, server)
        assert "set reviewed to true" in output
        paid = len(server.requests)
        assert [schema(body) for body in server.requests].count("ProposedStages") == 1
        assert "already holds a character" in run(tmp_path, server, code=2)
        character = load_character(tmp_path / "nora")
        build = [
            "data",
            "personified",
            "build",
            str(tmp_path / "nora"),
            "--out",
            str(tmp_path / "out"),
            "--writer-model",
            "m",
        ]
        build += ["--writer-url", server.url, "--items", "4", "--general", "0"]
        refused = runner.invoke(app, build)
        assert refused.exit_code == 2 and "nobody has looked through it" in refused.output + refused.stderr
        assert len(server.requests) == paid
        assert runner.invoke(app, [*build, "--unreviewed"]).exit_code == 0
        file = tmp_path / "nora" / "stages.yaml"
        file.write_text(file.read_text().replace("reviewed: false", "reviewed: true"))
        assert runner.invoke(app, build).exit_code == 0
    assert [stage.id for stage in character.stages] == ["young", "old"]
    for stage in character.stages:
        assert stage.time and len(stage.style) == 3
        for paragraph in stage.paragraphs:
            assert paragraph.origin is not None and paragraph.origin.startswith("novel.txt#")
        assert all(stage.id in p.text for p in stage.knowledge if "Nora" in p.text)
    used = [json.loads(line) for line in (tmp_path / "out" / "paragraphs.jsonl").read_text().splitlines()]
    assert used and all(row["origin"].startswith("novel.txt#") for row in used)


def test_a_dry_run_and_passages_without_the_name(tmp_path: Path) -> None:
    with serve(Annotator()) as server:
        output = run(tmp_path, server, "--dry-run")
        assert "passages" in output and not server.requests and not (tmp_path / "nora").exists()
        count = len(read_novel(novel(tmp_path), Wanted("Nora"))[0])
        assert 0 < count < len(read_novel(novel(tmp_path), Wanted("Nora", everything=True))[0])
        assert "none of the 66 paragraphs" in run(tmp_path, server, "--name", "Edwin", code=2)
        assert not server.requests


def test_invented_words_and_numbers_are_left_out(tmp_path: Path) -> None:
    plain = Annotator()

    def script(body: dict[str, Any], number: int) -> Answer:
        answer = plain(body, number)
        if schema(body) == "Extract":
            reply = json.loads(answer.content or "")
            first = reply["items"][0]["paragraphs"]
            reply["items"] += [
                {
                    "kind": "knowledge",
                    "paragraphs": first,
                    "text": "Nora owned exactly 99 ships and lost them all at cards.",
                },
                {"kind": "style", "paragraphs": first, "text": "I never said any such thing to anybody at all."},
                {
                    "kind": "knowledge",
                    "paragraphs": [999],
                    "text": "Nora sold boats at the harbour for a living there.",
                },
            ]
            answer.content = json.dumps(reply)
        return answer

    with serve(script) as server:
        run(tmp_path, server)
    rows = list(read_records(tmp_path / "nora" / "review.jsonl", ReviewItem))
    reasons = {(row.left_out or "").split(":")[0] for row in rows if row.left_out}
    assert reasons >= {"a number that the passage does not have", "not the text's words", "no such paragraph"}
    written = "".join(path.read_text() for path in (tmp_path / "nora").rglob("*.md"))
    assert "99 ships" not in written and "any such thing" not in written


def test_given_stages(tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text(
        '- {id: first, time: "It is 1800.", belongs: youth}\n- {id: second, time: "It is 1850.", belongs: age}\n'
    )
    with serve(Annotator()) as server:
        run(tmp_path, server, "--stages", str(tmp_path / "stages.yaml"))
        assert "ProposedStages" not in {schema(body) for body in server.requests}
        (tmp_path / "stages.yaml").write_text("- {id: first}\n")
        assert "wanted" in run(tmp_path, server, "--stages", str(tmp_path / "stages.yaml"), code=2)
    assert [stage.time for stage in load_character(tmp_path / "nora").stages] == ["It is 1800.", "It is 1850."]


def test_a_server_that_fails_is_continued_with(tmp_path: Path) -> None:
    plain, working = Annotator(), [False]

    def script(body: dict[str, Any], number: int) -> Answer:
        if not working[0] and plain.asked["Extract"] >= 2:
            return Answer(status=404, error="no such model")
        return plain(body, number)

    with serve(script) as server:
        assert "404" in run(tmp_path, server, "--concurrency", "1", code=1)
        working[0] = True
        before = len(server.requests)
        run(tmp_path, server, "--concurrency", "1")
        asked = [schema(body) for body in server.requests]
        assert asked[:2] == ["Extract"] * 2 and "Extract" in asked[before:]
        assert asked.count("Extract") == len(read_novel(novel(tmp_path), Wanted("Nora"))[0]) + 1
    assert json.loads((tmp_path / "nora" / "material.json").read_text())["complete"]


@pytest.mark.parametrize("content", ["", "no idea", '{"when": "never", "items": []}'])
def test_a_server_that_says_nothing_useful(tmp_path: Path, content: str) -> None:
    with serve(lambda body, number: Answer(content)) as server:
        output = run(tmp_path, server, code=1)
    assert "took nothing" in output and not (tmp_path / "nora" / "stages.yaml").exists()


@pytest.mark.parametrize("ids", [("young", "young", "old"), ("young", "old", "ancient"), ()])
def test_stages_that_are_not_what_was_asked_for(tmp_path: Path, ids: tuple[str, ...]) -> None:
    proposed = [{"id": name, "time": "It is then.", "belongs": name} for name in ids]
    with serve(Annotator(ProposedStages={"stages": proposed})) as server:
        run(tmp_path, server, code=0 if ids[:2] == ("young", "young") else 1)
    if ids:
        written = [stage.id for stage in read_entry(tmp_path / "nora").stages]
        assert written == list(dict.fromkeys(ids))
    else:
        assert "named no stage" in (tmp_path / "nora" / "material.json").read_text()


def test_wiki_pages_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    (tmp_path / "wiki").mkdir()
    (tmp_path / "wiki" / "Nora.html").write_text("<p>Nora was young and sold 4 boats at the harbour.</p>")
    (tmp_path / "wiki" / "Town.html").write_text("<p>The town has a harbour and a mayor of its own.</p>")
    found, _ = read_novel(tmp_path / "wiki", Wanted("nora"))
    assert [passage.file for passage in found] == ["Nora.html"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no text"):
        read_novel(tmp_path / "empty", Wanted("Nora"))


def test_names_are_whole_words() -> None:
    blocks = [Block("Norah and Eleanora met there."), Block("Only Nora's hat was left.")]
    (found,) = passages("a", blocks, ["Nora"])
    assert found.origin([1, 2]) == "a#1-2"
    assert passages("a", blocks[:1], ["Nora"]) == []
    assert len(passages("a", [Block("Nora said so. " * 100)] * 9, ["Nora"])) == 3


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Марта", "Он увидел Марту и засмеялся.", True),
        ("Марта", "На берегу стояла мать Марты.", True),
        ("Марта", "В марте снег ещё лежал.", True),  # a month that sounds alike costs a call
        ("Марта", "Мартышка сидела на дереве.", False),
        ("李梅", "那天李梅来了。", True),
        ("李梅", "那天王强来了。", False),
        ("ノラ", "それはノラの船です。", True),
        ("노라", "노라가 왔다.", True),
        ("Nora", "Se oli Noran vene.", True),
        ("Nora", "Das war Noras Boot.", True),
        ("Nora", "A normal day.", False),
        ("Ron", "Das waren Rons Worte.", False),  # a short name, and no apostrophe
    ],
)
def test_names_of_other_languages_are_found_with_their_endings(name: str, text: str, found: bool) -> None:
    assert bool(passages("a", [Block(text)], [name])) == found


def test_quotation_marks_do_not_make_words_anothers() -> None:
    (passage,) = passages("a", [Block("“I’m off,” said Nora, “and I’m never coming back.”")], ["Nora"])
    for text, good in (
        (" I'm off, said Nora", True),
        ("and I'm never coming back", True),
        ("I am off for good now", False),
    ):
        item = ExtractedItem(kind="style", paragraphs=[1], text=text)
        assert (check_item(item, passage) is None) is good
