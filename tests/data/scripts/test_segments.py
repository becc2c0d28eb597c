"""Segments around a character."""

from __future__ import annotations

import pytest

from dpg_fast.data.scripts.fountain import read_fountain
from dpg_fast.data.scripts.script import Script
from dpg_fast.data.scripts.segments import SegmentSettings, merged_turns, segments


def script_of(scene: str, heading: str = "INT. ROOM") -> Script:
    """A speech for each "NAME words"."""
    speeches = "".join(f"{line.split(' ', 1)[0]}\n{line.split(' ', 1)[1]}\n\n" for line in scene.strip().split("\n"))
    return read_fountain(f"{heading}\n\n{speeches}".split("\n"), "test")


SCENE = """A one
B two
A three
A four
C five
B six
A seven
ALL eight
B nine
A ten
"""


def test_turns_of_one_speaker_are_merged_also_over_directions() -> None:
    turns = merged_turns(script_of(SCENE).scenes[0])
    assert [(turn.speaker, turn.words) for turn in turns] == [
        ("A", "one"),
        ("B", "two"),
        ("A", "three four"),
        ("C", "five"),
        ("B", "six"),
        ("A", "seven"),
        ("ALL", "eight"),
        ("B", "nine"),
        ("A", "ten"),
    ]
    assert turns[2].lines == (9, 13)


def test_segments_end_with_the_character_and_do_not_overlap() -> None:
    found = [
        s for s in segments(script_of(SCENE), SegmentSettings(turns=4, before=1, min_words=1)) if s.character == "A"
    ]
    assert [[turn.words for turn in s.turns] for s in found] == [
        ["one", "two", "three four"],
        ["six", "seven", "eight"][:2],
        ["nine", "ten"],
    ]


def test_groups_are_nobodys_personality() -> None:
    assert {s.character for s in segments(script_of(SCENE), SegmentSettings(min_words=1))} == {"A", "B", "C"}


def test_few_words_are_left_out() -> None:
    assert {s.character for s in segments(script_of(SCENE), SegmentSettings(min_words=3))} == {"A", "B"}


def test_messages_and_what_the_judge_sees() -> None:
    (segment,) = [
        s
        for s in segments(script_of("B hi there\nA hello\nC well\nA no"), SegmentSettings(min_words=1))
        if s.character == "A"
    ]
    assert [(turn.role, turn.content) for turn in segment.messages()] == [
        ("user", "[INT. ROOM]\nB: hi there"),
        ("assistant", "hello"),
        ("user", "C: well"),
        ("assistant", "no"),
    ]
    assert segment.answer == "hello\nno"
    assert "hello" not in segment.situation and "B: hi there" in segment.situation and "\nA:" not in segment.situation


def test_a_conversation_begins_with_the_user_whoever_speaks_first() -> None:
    found = list(segments(script_of("A hello", heading="x"), SegmentSettings(min_words=1)))
    assert [turn.role for turn in found[0].messages()] == ["user", "assistant"]
    assert all(turn.content for turn in found[0].messages())


def test_ids_depend_on_the_words_alone() -> None:
    one, two = (
        next(segments(script_of(text), SegmentSettings(min_words=1))).id for text in ("A hello", "A hello\nB hi")
    )
    other = next(segments(script_of("A hello there"), SegmentSettings(min_words=1))).id
    assert one == two != other


@pytest.mark.parametrize("values", [(0, 0, 1), (2, 2, 1), (2, -1, 1), (2, 0, 0)])
def test_bad_settings_are_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SegmentSettings(*values)
