"""Turns in JSON, tables and apps' exports: who speaks, in which conversation, and what nobody says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpg_fast.data.scripts import Direction, Script, read_script
from dpg_fast.data.scripts.chats import read_chats, read_table
from dpg_fast.text.messages import message_text

CASES = Path(__file__).parent / "cases"


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


def notes(script: Script) -> list[str]:
    return [e.text for scene in script.scenes for e in scene.elements if isinstance(e, Direction)]


def chats(value: Any) -> Script:
    return read_chats(json.dumps(value, indent=1, ensure_ascii=False).split("\n"), "test")


def rows(*values: Any) -> Script:
    return read_chats([json.dumps(value) for value in values], "test")


@pytest.mark.parametrize(
    ("file", "scenes", "expected"),
    [
        ("05_dialog_list.jsonl", 2, [("MARTA", "Did you feed it?"), ("OTTO", "Yes."), ("OTTO", "Yes.")]),
        ("05_discord_export.json", 1, [("MARTA", "Did you feed the cat?"), ("OTTO", "Yes.")]),
        (
            "05_other_keys.jsonl",
            1,
            [("MARTA", "Did you feed the cat?"), ("OTTO", "Yes."), ("MARTA", "Good."), ("OTTO", "Bye.")],
        ),
        ("05_sharegpt_array.json", 1, [("HUMAN", "Did you feed the cat?"), ("GPT", "Yes, twice.")]),
        ("05_table.csv", 1, [("MARTA", "Did you feed the cat, Otto?"), ("OTTO", "Yes, twice.")]),
        ("05_telegram_export.json", 1, [("MARTA", "Did you feed the cat?"), ("OTTO", "Yes, twice.")]),
    ],
)
def test_the_chats_that_people_have(file: str, scenes: int, expected: list[tuple[str, str]]) -> None:
    script = read_script(CASES / file)
    assert said(script) == expected
    assert len(script.scenes) == scenes
    assert script.problems == []


def test_sillytavern() -> None:
    script = rows(
        {"user_name": "Marta", "character_name": "Otto", "create_date": "2025-2-3", "chat_metadata": {}},
        {"name": "Otto", "is_user": False, "is_system": False, "mes": "Hello *waves*", "swipes": ["Hello", "Ho"]},
        {"name": "System", "is_system": True, "mes": "Checkpoint saved."},
        {"name": "Marta", "is_user": True, "mes": "Hi."},
    )
    assert said(script) == [("OTTO", "Hello *waves*"), ("MARTA", "Hi.")]
    assert notes(script) == ["Checkpoint saved."] and script.problems == []


def test_openai_messages_with_parts_and_tools() -> None:
    picture = {"type": "image_url", "image_url": {"url": "x"}}
    script = rows(
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "What is"}, picture, {"type": "text", "text": "this?"}],
                },
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": "a cat"},
                {"role": "assistant", "tool_calls": [{"id": "2"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "output_text", "text": "A cat."}],
                },
            ]
        }
    )
    assert said(script) == [("USER", "What is this?"), ("ASSISTANT", "A cat.")]
    assert notes(script) == ["Be kind.", "a cat"]
    assert script.problems == []


def test_chatgpt_export_follows_the_branch_that_was_kept() -> None:
    def node(parent: str | None, role: str, text: str, kind: str = "text") -> dict[str, Any]:
        content = {"content_type": kind, "parts": [text]}
        return {
            "parent": parent,
            "children": [],
            "message": {"author": {"role": role, "name": None}, "content": content},
        }

    tree = {
        "title": "Cat",
        "current_node": "d",
        "mapping": {
            "root": {"parent": None, "children": ["a"], "message": None},
            "d": node("c", "assistant", "Yes."),
            "c": node("a", "user", "Sure?"),
            "b": node("a", "user", "Edited away."),
            "a": node("root", "user", "Fed the cat?"),
            "t": node("a", "assistant", "thought", "thoughts"),
        },
    }
    script = chats([tree, tree | {"title": "Dog", "current_node": "a"}])
    assert said(script) == [
        ("USER", "Fed the cat?"),
        ("USER", "Sure?"),
        ("ASSISTANT", "Yes."),
        ("USER", "Fed the cat?"),
    ]
    assert [scene.heading for scene in script.scenes] == ["Cat", "Dog"]


@pytest.mark.parametrize(
    "value",
    [
        {"chats": {"list": [{"name": "x", "messages": [{"type": "message", "from": "A", "text": "Hi"}]}]}},
        {"histories": {"histories": [{"msgs": [{"src": {"name": "A", "is_human": True}, "text": "Hi"}]}]}},
        [{"id": 1, "data": {"dialogue": [{"author": "A", "text": "Hi"}]}}],
        [{"uuid": "u", "name": "n", "chat_messages": [{"sender": "A", "text": "Hi", "content": []}]}],
        [{"type": "message", "user": "U1", "user_profile": {"real_name": "A"}, "text": "Hi", "ts": "1700000000.1"}],
        [{"conversation": [{"human": [], "assistant": ""}, {"speaker": "A", "text": "Hi"}]}],
        {"messages": [{"creator": {"name": "A", "email": "x"}, "text": "Hi"}]},
        {
            "messages": [
                {"type": "GuildMemberJoin", "author": {"name": "B"}, "content": "Joined."},
                {"author": {"name": "A"}, "content": "Hi"},
            ]
        },
        {
            "messages": [
                {"type": "service", "actor": "B", "text": "called"},
                {"from": "A", "text": ["H", {"type": "bold", "text": "i"}]},
            ]
        },
    ],
    ids=[
        "telegram, all chats",
        "character.ai",
        "label studio",
        "claude",
        "slack",
        "a pair without words",
        "google chat",
        "discord",
        "telegram",
    ],
)
def test_conversations_are_found_where_an_export_has_them(value: Any) -> None:
    assert said(chats(value)) == [("A", "Hi")]


def test_instagram_is_turned_and_its_letters_are_put_right() -> None:
    texts = ["Später", "Ja", "Hast du die Katze gefüttert?"]  # newest first
    messages = [
        {
            "sender_name": "Jürgen".encode().decode("latin-1"),
            "timestamp_ms": 9 - i,
            "content": t.encode().decode("latin-1"),
        }
        for i, t in enumerate(texts)
    ]
    script = chats({"participants": [{"name": "J"}], "messages": messages, "title": "t"})
    assert said(script) == [("JÜRGEN", text) for text in reversed(texts)]


def test_prompts_and_answers() -> None:
    script = rows(
        {"prompt": "Fed it?", "completion": "Yes."},
        {"instruction": "Translate.", "input": "Katze", "output": "cat"},
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Ho"}],
            "rejected": "No",
        },
    )
    assert said(script) == [
        ("USER", "Fed it?"),
        ("ASSISTANT", "Yes."),
        ("USER", "Translate. Katze"),
        ("ASSISTANT", "cat"),
        ("USER", "Hi"),
        ("ASSISTANT", "Ho"),
    ]
    assert len(script.scenes) == 3 and script.problems == []
    moss = rows(
        {"conversation": [{"human": "Fed it?", "assistant": "Yes."}, {"human": "Sure?", "assistant": "Quite."}]}
    )
    assert said(moss) == [("USER", "Fed it?"), ("ASSISTANT", "Yes."), ("USER", "Sure?"), ("ASSISTANT", "Quite.")]


def test_conversations_are_kept_apart_however_their_rows_are_mixed() -> None:
    """As ConvoKit's utterances.jsonl: ids of conversations, answers before what they answer."""
    drawn = random.Random(0)
    expected, mixed = [], []
    for conversation in range(12):
        name = f"c{conversation}"
        ids = [f"{name}.{turn}" for turn in range(drawn.randint(1, 6))]
        texts = [f"turn {turn} of {name}" for turn in range(len(ids))]
        expected.append((name, texts))
        for turn, text in enumerate(texts):
            reply = ids[turn - 1] if turn else None
            mixed.append(
                {"id": ids[turn], "conversation_id": name, "speaker": f"s{turn % 2}", "text": text, "reply-to": reply}
            )
    order = [row["conversation_id"] for row in mixed]
    for _ in range(20):
        drawn.shuffle(mixed)
        script = rows(*mixed)
        assert len(script.scenes) == 12
        found = {scene.heading: [speech.words for speech in scene.speeches] for scene in script.scenes}
        assert found == dict(expected)
    assert sorted(order) == sorted(row["conversation_id"] for row in mixed)


def test_a_change_of_episode_or_scene_opens_a_scene() -> None:
    lines = ["season,episode,scene,speaker,line", "1,1,1,A,a", "1,1,1,B,b", "1,1,2,A,c", "1,2,2,A,d", "2,2,2,B,e", ""]
    script = read_table(lines, "t")
    assert [[speech.words for speech in scene.speeches] for scene in script.scenes] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert script.scenes[0].heading == "season 1, episode 1, scene 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            ',Character,Dialogue,EpisodeNo\n0,ANN,"Do you, Ben?",1\n1,BEN,"He said ""no"".\nTwice.",1\n',
            ["Do you, Ben?", 'He said "no". Twice.'],
        ),
        ("Character;Sentence\nANN;Do you, Ben?\nBEN;No.", ["Do you, Ben?", "No."]),
        ('speaker\ttext\nANN\t"Do you, Ben?\nBEN\tNo.', ['"Do you, Ben?', "No."]),
        ("id,raw_text,raw_character_text,spoken_words\n1,Ann: Hi,Ann,Hi\n2,(Street),,\n3,Ben: Ho,Ben,Ho", ["Hi", "Ho"]),
        ("Sr No.,Utterance,Speaker,Dialogue_ID\n1,Hi,ANN,0\n2,Ho,BEN,0", ["Hi", "Ho"]),
        ("text,speaker,season,episode,scene,utterance\nHi,ANN,1,1,1,1\nHo,BEN,1,1,1,2", ["Hi", "Ho"]),
        (
            "L20 +++$+++ u1 +++$+++ m0 +++$+++ ANN +++$+++ Fine.\nL13 +++$+++ u2 +++$+++ m0 +++$+++ BEN +++$+++ Ho\n"
            "L12 +++$+++ u1 +++$+++ m0 +++$+++ ANN +++$+++ Hi",
            ["Hi", "Ho", "Fine."],
        ),
    ],
    ids=["quotes", "semicolons", "bare quotes", "simpsons", "meld", "friends", "cornell"],
)
def test_tables(text: str, expected: list[str]) -> None:
    assert [words for _, words in said(read_table(text.split("\n"), "t"))] == expected


def test_a_table_without_the_columns_says_which_are_wanted() -> None:
    with pytest.raises(ValueError, match=r"needs a header that names who speaks .*; its columns are when, what"):
        read_table(["when,what", "1,2"], "t")


def test_a_broken_value_is_said_once(tmp_path: Path) -> None:
    file = tmp_path / "cut.json"
    file.write_text(json.dumps([{"conversations": [{"from": "human", "value": "Hi"}]}] * 3, indent=1)[:-90])
    script = read_script(file)
    assert [(problem.line, problem.what[:8]) for problem in script.problems] == [(15, "not JSON")]
    assert said(script) == [("HUMAN", "Hi")]


NAMES = st.text("abcdefgh", min_size=1, max_size=8)
WORDS = st.text("abc äß漢 \u2028\"',;\t", min_size=1, max_size=30).filter(lambda text: bool(text.strip()))
TURNS = st.lists(st.tuples(NAMES, WORDS), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    TURNS,
    st.sampled_from(["speaker", "Sender_Name", "author", "from"]),
    st.sampled_from(["text", "Message", "mes", "line"]),
)
def test_no_turn_is_lost_in_any_form(turns: list[tuple[str, str]], who: str, what: str) -> None:
    import csv
    import io

    expected = [" ".join(text.split()) for _, text in turns]
    values = [{who: name, what: text} for name, text in turns]
    table = io.StringIO()
    writer = csv.DictWriter(table, [who, what])
    writer.writeheader()
    writer.writerows(values)
    for script in (
        rows(*values),
        chats(values),
        chats({"chats": [{"messages": values}]}),
        rows({"dialog": values}),
        read_table(table.getvalue().split("\n"), "t"),
    ):
        assert [words for _, words in said(script)] == expected


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.sampled_from(["messages", "text", "from", "mapping", "content", "parts", "type", "id"]),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read(value: Any) -> None:
    for script in (chats(value), rows(value)):
        assert all(speech.words and speech.speaker for speech in script.speeches())
    message_text(value)
