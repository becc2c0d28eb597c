"""Inventories as they are published and typed: other layouts, names of traits, keys, byte order marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import Inventory, load_inventory
from dpg_fast.questionnaire.published import find_inventory

MPI = """label_raw,text,label_ocean,key
Worry,Fret over small things,N,1
Trust,"Trust others, always",A,1
Order,Leave a mess,C,-1
"""
BENCH = [
    {
        "name": "Empathy",
        "questions": {"1": "I care."},
        "reverse": [],
        "scale": 8,
        "categories": [{"cat_name": "Overall", "cat_questions": [1]}],
    },
    {
        "name": "BFI",
        "questions": {"1": "Is loud.", "2": "Is quiet.", "3": "Is tense."},
        "prompt": "1 denotes strongly disagree, 2 denotes a little disagree, 3 denotes neither, "
        "4 denotes little agree, 5 denotes agree.",
        "scale": 6,
        "reverse": [2],
        "categories": [
            {"cat_name": "Extroversion", "cat_questions": [1, 2]},
            {"cat_name": "Neuroticism", "cat_questions": [3]},
        ],
    },
]
TRAIT = {
    "behavior": {
        "extraversion": {"high": ["Being loud."], "low": ["Being quiet.", "Hiding."]},
        "psychopathy": {"high": ["Being cruel."], "low": ["Being kind."]},
    },
    "linguistic": {"Extraversion": {"high": ["Talks."], "low": []}},
}


def keys(inventory: Inventory) -> list[tuple[str, str, str]]:
    return [(item.text, item.trait.letter, "-" if item.reverse else "+") for item in inventory.items]


def test_the_case_with_a_byte_order_mark() -> None:
    inventory = find_inventory(str(Path(__file__).parent / "22_inventory_bom.jsonl"))
    assert keys(inventory) == [("I talk to everybody.", "E", "+"), ("I like to be left alone.", "E", "-")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_mpi(mark: str, tmp_path: Path) -> None:
    (tmp_path / "mpi.csv").write_text(mark + MPI, encoding="utf-8")
    inventory = find_inventory(str(tmp_path / "mpi.csv"))
    assert keys(inventory) == [
        ("Fret over small things", "N", "+"),
        ("Trust others, always", "A", "+"),
        ("Leave a mess", "C", "-"),
    ]
    assert inventory.name == "mpi" and inventory.levels == 5 and inventory.items[0].facet == "Worry"
    assert inventory.statement(inventory.items[0]) == "You fret over small things"


def test_psychobench(tmp_path: Path) -> None:
    (tmp_path / "questionnaires.json").write_text(json.dumps(BENCH))
    inventory = load_inventory(tmp_path / "questionnaires.json")
    assert keys(inventory) == [("Is loud.", "E", "+"), ("Is quiet.", "E", "-"), ("Is tense.", "N", "+")]
    assert inventory.name == "BFI" and inventory.options[0] == "strongly disagree" and inventory.levels == 5
    assert inventory.statement(inventory.items[0]) == "I see myself as someone who is loud."
    (tmp_path / "questionnaires.json").write_text(json.dumps(BENCH[:1]))
    with pytest.raises(ValueError, match=r"no questionnaire with categories of the Big Five alone \(Empathy\)"):
        load_inventory(tmp_path / "questionnaires.json")


def test_trait(tmp_path: Path) -> None:
    (tmp_path / "bfi.json").write_text(json.dumps(TRAIT))
    assert keys(load_inventory(tmp_path / "bfi.json")) == [
        ("Being loud.", "E", "+"),
        ("Being quiet.", "E", "-"),
        ("Hiding.", "E", "-"),
    ]


@pytest.mark.parametrize(
    ("key", "reverse"),
    [
        ("+", False),
        ("-", True),
        (1, False),
        (-1, True),
        ("1", False),
        ("-1", True),
        ("Reverse", True),
        ("\u2212", True),
        ("positive", False),
    ],
)
@pytest.mark.parametrize(
    ("name", "trait", "opposite"),
    [
        ("E", Trait.EXTRAVERSION, False),
        ("Extroversion", Trait.EXTRAVERSION, False),
        ("Emotional Stability", Trait.NEUROTICISM, True),
        ("emotional_stability", Trait.NEUROTICISM, True),
        ("Openness to Experience", Trait.OPENNESS, False),
        ("Intellect", Trait.OPENNESS, False),
        ("Negative Emotionality", Trait.NEUROTICISM, False),
    ],
)
def test_spellings_of_keys_and_traits(
    key: object, reverse: bool, name: str, trait: Trait, opposite: bool, tmp_path: Path
) -> None:
    header = {"format": "dpg-fast-inventory", "version": 1, "name": "mine"}
    row = {"id": 1, "text": "I sing.", "trait": name, "key": key}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    (item,) = load_inventory(tmp_path / "a.jsonl").items
    assert (item.id, item.trait, item.reverse) == ("1", trait, reverse != opposite)
    (tmp_path / "a.csv").write_text(f"item;domain;keyed\nI sing.;{name};{key}\n")
    (item,) = load_inventory(tmp_path / "a.csv").items
    assert (item.id, item.trait, item.reverse) == ("1", trait, reverse != opposite)


def test_a_column_that_says_reversed(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\tstatement\ttrait\treverse\nx\tI sing.\tE\tTRUE\ny\tI hum.\tE\t0\n")
    assert keys(load_inventory(tmp_path / "a.tsv")) == [("I sing.", "E", "-"), ("I hum.", "E", "+")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,key\nI sing.,1\n", r"a\.csv: the table has no column trait; accepted: trait as trait, label_ocean"),
        ("text,trait,key\nI sing.,E,maybe\n", 'a.csv, line 2: "key" is "\\+" or "-", not \'maybe\''),
        ("text,trait,key\nI sing.,Honesty,1\n", r"a\.csv, line 2: unknown trait 'Honesty'"),
        ("text,trait,key\n", "has no items"),
        ("just words", "not JSON"),
        ('{"dark": {"high": ["x"], "low": []}}', "none of its traits is of the Big Five: dark"),
    ],
)
def test_what_is_no_inventory_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_inventory(tmp_path / "a.csv")
