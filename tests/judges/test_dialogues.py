"""Who is judged in a dialogue, what counts as an answer, and how long ones are cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpg_fast.judges.dialogues import Dialogue, Line, cut_text, halves, pieces, read_dialogue
from dpg_fast.llm import estimate_tokens
from dpg_fast.text.records import DialogueRecord, Turn


def record(*turns: tuple[str, str] | tuple[str, str, str], **more: Any) -> DialogueRecord:
    messages = [Turn(role=t[0], content=t[1], name=t[2] if len(t) > 2 else None) for t in turns]  # type: ignore[arg-type]
    return DialogueRecord(messages=messages, source="test", **more)


SCENE = (
    ("system", "Play Ron."),
    ("user", "Come!", "Harry"),
    ("assistant", "No.", "Ron"),
    ("user", "Please?", "Hermione"),
    ("user", "Let him be.", "harry"),
)


@pytest.mark.parametrize(
    ("character", "target", "expected"),
    [
        (None, None, [(1, "Come!"), (0, "No."), (2, "Please?"), (1, "Let him be.")]),
        ("Hermione", None, [(1, "Come!"), (2, "No."), (0, "Please?"), (1, "Let him be.")]),
        ("Hermione", "HARRY ", [(0, "Come!"), (1, "No."), (2, "Please?"), (0, "Let him be.")]),
        ("Somebody else", None, [(1, "Come!"), (0, "No."), (2, "Please?"), (1, "Let him be.")]),
    ],
)
def test_the_target_is_found(character: str | None, target: str | None, expected: list[tuple[int, str]]) -> None:
    found = read_dialogue(record(*SCENE, character=character), target)
    assert [(line.speaker, line.text) for line in found.lines] == expected


def test_a_target_who_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="nobody named 'Draco' speaks; named speakers: Harry, Hermione, Ron, harry"):
        read_dialogue(record(*SCENE), "Draco")
    with pytest.raises(ValueError, match="nobody speaks as the assistant"):
        read_dialogue(record(("user", "Hi")))
    with pytest.raises(ValueError, match="several speakers"):
        read_dialogue(record(("assistant", "Hi", "A"), ("assistant", "Ho", "B")))
    ron = record(("user", "Hi"), ("assistant", "Ho"), character="Ron")
    assert read_dialogue(ron, "ron").target_texts == ("Ho",)  # the assistant speaks with the character's voice


def test_answers_go_with_what_was_said_before_them() -> None:
    lines = [(0, "a"), (1, "b"), (2, "c"), (0, "d"), (0, "e"), (1, "f")]
    dialogue = Dialogue(tuple(Line(*line) for line in lines))
    assert dialogue.answers() == [("", "a"), ("b\nc", "d\ne")]
    assert read_dialogue(record(("user", "q"), ("assistant", "  "), ("assistant", "x"))).answers() == [("q", "x")]


def test_names_are_written_only_where_there_are_some() -> None:
    assert Turn(role="user", content="x").model_dump() == {"role": "user", "content": "x"}
    named = Turn(role="user", content="x", name=" Ron ")
    assert named.model_dump() == {"role": "user", "content": "x", "name": "Ron"}
    assert Turn.model_validate_json(named.model_dump_json()) == named


WORDS = st.lists(st.sampled_from(["a", "word", "sentence.", "end!\n\n", "\u4e2d\u6587", "x" * 90]), max_size=60)
TEXT = WORDS.map(" ".join).map(str.strip).filter(bool)


@given(st.lists(st.tuples(st.integers(0, 2), TEXT), max_size=8), st.integers(12, 60))
def test_pieces_lose_nothing_of_the_target_and_fit(lines: list[tuple[int, str]], budget: int) -> None:
    dialogue = [Line(*line) for line in lines]
    found = pieces(dialogue, budget, estimate_tokens, 5)
    for piece in found:
        assert sum(estimate_tokens(line.text) + 5 for line in piece) <= budget
        assert any(line.speaker == 0 for line in piece)

    def said(parts: list[Line]) -> str:
        return "".join("".join(line.text.split()) for line in parts if line.speaker == 0)

    assert said([line for piece in found for line in piece]) == said(dialogue)


def test_long_turns_are_cut_at_sentences() -> None:
    text = ("This is one sentence. " * 50).strip()
    part, rest = cut_text(text, 40, estimate_tokens)
    assert part.endswith("sentence.") and f"{part} {rest}" == text and 20 < estimate_tokens(part) <= 40
    assert cut_text("x" * 50, 5, estimate_tokens) == ("x" * 20, "x" * 30)
    lines = [Line(1, "What is it? " * 3), Line(0, text), Line(0, "Short.")]
    found = pieces(lines, 60, estimate_tokens, 5)
    assert [line.speaker for line in found[0]] == [1, 0]  # a turn that must be cut anyway begins where there is room
    assert all(line.text.endswith(".") for piece in found for line in piece[-1:]) and len(found) > 4
    whole = pieces([Line(1, "Q?"), Line(0, "A.")], 100, estimate_tokens, 5)
    assert whole == [(Line(1, "Q?"), Line(0, "A."))]
    with pytest.raises(ValueError, match="no room"):
        pieces([Line(0, "A.")], 5, estimate_tokens, 5)


@given(st.lists(st.tuples(st.integers(0, 1), TEXT), min_size=1, max_size=6))
def test_halves_are_smaller_and_lose_nothing_of_the_target(lines: list[tuple[int, str]]) -> None:
    dialogue = tuple(Line(*line) for line in lines)
    found = halves(dialogue)
    size = sum(len(line.text) for line in dialogue)
    if size > 1:
        assert all(sum(len(line.text) for line in half) < size for half in found)
    said = "".join(line.text for half in found for line in half if line.speaker == 0)
    assert "".join(said.split()) == "".join("".join(line.text.split()) for line in dialogue if line.speaker == 0)
