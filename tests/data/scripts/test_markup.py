"""Final Draft and TEI."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpg_fast.data.scripts import Direction, Script, Speech, read_script

CASES = Path(__file__).parent / "cases"
FDX = """<?xml version="1.0" encoding="UTF-8" standalone="no" ?>
<FinalDraft DocumentType="Script" Template="No" Version="1">
<Content>
<Paragraph Number="12A" Type="Scene Heading"><SceneProperties Length="1/8"/>
<Text>INT. KITCHEN</Text><Text> - DAY</Text></Paragraph>
<Paragraph Type="Action"><Text>Rosa waits.</Text></Paragraph>
<Paragraph Type="Character"><Text>ROSA (V.O.)</Text></Paragraph>
<Paragraph Type="Dialogue"><Text>Did you </Text><Text Style="Italic">feed</Text><Text> the cat?</Text></Paragraph>
<Paragraph><DualDialogue>
<Paragraph Type="Character"><Text>KARL</Text></Paragraph>
<Paragraph Type="Parenthetical"><Text>(smiling)</Text></Paragraph>
<Paragraph Type="Dialogue"><Text>Yes &amp; no.</Text>
<ScriptNote><Paragraph Type="Dialogue"><Text/></Paragraph></ScriptNote></Paragraph>
<Paragraph Type="Character"><Text>ROSA</Text></Paragraph>
<Paragraph Type="Dialogue"><Text>What?</Text></Paragraph>
</DualDialogue></Paragraph>
<Paragraph Type="Transition"><Text>CUT TO:</Text></Paragraph>
<Paragraph Type="Dialogue"><Text>Nobody's.</Text></Paragraph>
<Paragraph Type="Character"><Text>OTTO</Text></Paragraph>
</Content>
<TitlePage><Content><Paragraph Type="Character"><Text>A FILM</Text></Paragraph></Content></TitlePage>
</FinalDraft>
"""
TEI = """<?xml version="1.0" encoding="utf-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><profileDesc><particDesc><listPerson>
<person xml:id="rosa"><persName>Rosa Lind</persName></person><person xml:id="karl"/>
</listPerson></particDesc></profileDesc></teiHeader>
<text><front><castList><castItem>ROSA, a cook</castItem></castList></front><body>
<div type="act"><head>ACT 1</head><div type="scene"><head>Scene 1</head>
<stage>Rosa enters.</stage>
<sp who="#rosa"><speaker>Ros.</speaker><l>Did you feed</l><l>the cat<note>a cat</note>?</l></sp>
<sp who="#karl"><speaker>KARL.</speaker><p>Yes, <stage>(laughs)</stage>
<choice><sic>twise</sic><corr>twice</corr></choice>.</p></sp>
</div><div type="scene"><head>Scene 2</head>
<sp who="#rosa"><speaker>Rosa.</speaker><ab><w>Who</w><pc>,</pc>
<c> </c>
<w>me</w><pc>?</pc><lb/><w>Well</w></ab></sp>
<sp who="#rosa #karl"><speaker>BOTH</speaker><p>Ha!</p></sp>
</div></div></body></text></TEI>
"""


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


def test_final_draft(tmp_path: Path) -> None:
    file = tmp_path / "a.fdx"
    file.write_text(FDX, encoding="utf-8")
    script = read_script(file)
    assert said(script) == [("ROSA", "Did you feed the cat?"), ("KARL", "Yes & no."), ("ROSA", "What?"), ("OTTO", "")]
    first, second, third, _ = list(script.speeches())
    assert first.extensions == ("V.O.",) and second.parentheticals == ["smiling"]
    assert (first.dual, second.dual, third.dual) == (False, True, True)
    assert [(scene.heading, scene.label) for scene in script.scenes] == [("INT. KITCHEN - DAY", "12A")]
    kinds = [e.kind for e in script.scenes[0].elements if isinstance(e, Direction)]
    assert kinds == ["action", "transition", "action"]
    assert len(script.problems) == 2  # dialogue without a character, a character without dialogue
    assert said(read_script(CASES / "07_folder_with_stray_text" / "draft.fdx")) == [
        ("ROSA", "Did you feed the cat?"),
        ("KARL", "Yes, twice."),
    ]


@pytest.mark.parametrize("name", ["a.xml", "a.tei"])
def test_tei(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TEI, encoding="utf-8")
    script = read_script(tmp_path / name)
    assert said(script) == [
        ("ROSA LIND", "Did you feed the cat?"),
        ("KARL", "Yes, twice."),
        ("ROSA LIND", "Who, me? Well"),
        ("BOTH", "Ha!"),
    ]
    assert [scene.heading for scene in script.scenes] == ["ACT 1, Scene 1", "ACT 1, Scene 2"]
    speech = script.scenes[0].elements[2]
    assert isinstance(speech, Speech) and speech.parentheticals == ["laughs"]
    assert script.problems == []


def test_an_encoding_that_the_head_declares(tmp_path: Path) -> None:
    text = FDX.replace("UTF-8", "iso-8859-2").replace("feed", "žluťoučký")
    (tmp_path / "a.fdx").write_bytes(text.encode("iso-8859-2"))
    script = read_script(tmp_path / "a.fdx")
    assert said(script)[0][1] == "Did you žluťoučký the cat?" and script.problems[0].line > 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.fdx", "<FinalDraft><Content>", "not well-formed XML"),
        ("a.xml", "<rss/>", "neither TEI nor Final Draft nor TTML"),
        ("a.tei", "<TEI><text>&bomb;</text></TEI>", "not well-formed XML"),
    ],
)
def test_what_is_no_script_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_script(tmp_path / name)
