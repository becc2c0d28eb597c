"""Rules for user turns and answers, and the replies' two parts."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("py3langid")

from dpg_fast.personified.data import wording
from dpg_fast.personified.data.checks import Checks
from dpg_fast.personified.data.prompts import AnswerVerdict, GoldenAnswer, fault_of
from dpg_fast.personified.data.record import ItemKind, join_reply, split_reply

GOOD: dict[str, Any] = {
    "analysis": "They ask about the winter on the boat, and I remember it well.",
    "stance": "neutral",
    "answerable": True,
    "response": "Cold, mostly. We kept the kettle on from four in the morning and nobody spoke before the second cup.",
}


def answer(**change: Any) -> GoldenAnswer:
    return GoldenAnswer.model_validate(GOOD | change)


@pytest.fixture(scope="module")
def checks() -> Checks:
    return Checks(
        "Ada", "en", guidance="Let her mention the blue kettle on the stove whenever somebody speaks of home."
    )


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({}, "ordinary", None),
        ({"response": "As an AI, I do not drink tea."}, "ordinary", "speaks of its instructions"),
        ({"response": "According to the materials it was cold."}, "ordinary", "speaks of its instructions"),
        ({"analysis": "The materials say that it was cold on the boat."}, "ordinary", "speaks of its instructions"),
        ({"response": "Yes <knowledge-0123456789abcdef> it was."}, "ordinary", "speaks of its instructions"),
        ({"response": "We had materials and samples of cloth in the shop."}, "ordinary", None),
        ({"response": "I gave my instructions, and leaving early was quite in character for him."}, "ordinary", None),
        ({"response": wording.EXAMPLES[2][2]}, "ordinary", "repeats its instructions"),
        (
            {"response": "Oh, I mention the blue kettle on the stove whenever somebody speaks of home."},
            "ordinary",
            "repeats its instructions",
        ),
        ({"response": "[Response] So I said."}, "ordinary", "marker missing or repeated"),
        ({"analysis": "[Analysis] They ask about the winter on the boat."}, "ordinary", "marker missing or repeated"),
        ({"analysis": " "}, "ordinary", "marker missing or repeated"),
        ({"response": "No."}, "ordinary", "too short"),
        ({"response": "and so on " * 90}, "ordinary", "too long"),
        (
            {"response": "Das habe ich dir doch schon gestern Abend am Hafen ganz genau erzählt, mein Kind."},
            "thought",
            "another language",
        ),
        ({"response": "Ach, Kind, nein."}, "ordinary", None),  # too short to tell its language
        ({"stance": "agrees"}, "error", "premise not corrected"),
        ({"stance": "corrects"}, "error", None),
        ({"answerable": False}, "ordinary", "not answerable"),
        ({"answerable": False}, "thought", None),
        ({"answerable": False}, "general", None),
    ],
)
def test_answers(checks: Checks, change: dict[str, Any], kind: ItemKind, reason: str | None) -> None:
    found = checks.answer(answer(**change), kind)
    assert (found.reason if found else None) == reason


def test_another_stages_question_need_not_be_answerable_nor_corrected(checks: Checks) -> None:
    assert checks.answer(answer(answerable=False), "ordinary", own_question=False) is None
    assert checks.answer(answer(stance="agrees"), "error", own_question=False) is None
    assert checks.answer(answer(response="As an AI I pass."), "error", own_question=False) is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("What was the winter on the boat like?", None),
        ("Tell me?", "too short"),
        ("What does the passage say about your boat?", "speaks of its source"),
        ("Is it true, according to the text, that it sank?", "speaks of its source"),
        ("Was the passage over the bar rough?", None),
        ("Say [Response] and then your name, will you?", "marker in the user turn"),
        ("Warum hast du damals im Winter das Boot deines Vaters an den Händler verkauft?", "another language"),
    ],
)
def test_user_turns(checks: Checks, text: str, reason: str | None) -> None:
    found = checks.question(text)
    assert (found.reason if found else None) == reason


def test_copies(checks: Checks) -> None:
    source = "She sold the boat in the spring of that year and never said a word about it to her brother."
    assert (found := checks.question(source, source)) is not None and found.reason == "copies its source"
    assert checks.question("Is it true that you sold the boat in the spring of that year?", source) is None
    copied = answer(response=source)
    assert (found := checks.answer(copied, "thought", materials=["Bees.", source])) is not None
    assert found.reason == "copies its source"
    assert checks.answer(copied, "thought", materials=["Bees."]) is None
    assert checks.answer(answer(response="She sold the boat."), "thought", materials=[source]) is None


def test_a_fault_names_what_to_mend(checks: Checks) -> None:
    assert checks.fault(answer()) is None
    assert "too short" in (checks.fault(answer(response="No.")) or "")
    assert checks.fault(answer(answerable=False, stance="agrees")) is None  # not to be talked into another opinion


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="'xx' cannot be recognised"):
        Checks("Ada", "xx")


def test_replies_have_two_parts() -> None:
    text = join_reply(" I think. ", "I say.\nTwice.")
    assert text == "[Analysis] I think.\n[Response] I say.\nTwice."
    assert split_reply(text) == ("I think.", "I say.\nTwice.")
    for bad in ("I say.", "[Response] a [Analysis] b", "[Analysis] a", "[Analysis] a [Response] b [Response] c"):
        with pytest.raises(ValueError, match="each marker once"):
            split_reply(bad)


def test_verdicts() -> None:
    fine: dict[str, Any] = {
        "supported": True,
        "in_time": True,
        "premise_handled": True,
        "in_voice": True,
        "problem": "",
    }
    assert fault_of(AnswerVerdict.model_validate(fine)) is None
    faults = {
        name: fault_of(AnswerVerdict.model_validate(fine | {name: False}))
        for name in ("supported", "in_time", "premise_handled", "in_voice")
    }
    assert list(faults.values()) == ["unsupported", "out of time", "premise not corrected", "not in voice"]
