"""Inventories and their scoring; IPIP-NEO against five-factor-e."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import (
    Inventory,
    bundled_inventory,
    load_inventory,
    parse_inventory,
    read_answers,
    read_questions,
)
from dpg_fast.questionnaire.norms import percentiles
from dpg_fast.questionnaire.published import find_inventory, ipip50_key, load_published, neo_key
from dpg_fast.questionnaire.scoring import keyed, score_answers, to_level, to_personality
from dpg_fast.text.facets import FACETS
from tests.support.shared import shared_data

HEADER = '{"format": "dpg-fast-inventory", "version": 1, "name": "x"}\n'
ITEM = '{"id": "a", "text": "I sing.", "trait": "E", "key": "+"}\n'


def ipip_neo() -> Path:
    """The folder of IPIP-NEO files."""
    return shared_data("ipip_neo")


# ------------------------------------------------------------------ five-factor-e


@pytest.mark.parametrize("items", [120, 300])
def test_raw_scores_equal_five_factor_e(items: int) -> None:
    folder = ipip_neo()
    scorer_package = pytest.importorskip("ipipneo", reason="five-factor-e is not installed")
    from ipipneo.reverse import ReverseScored120, ReverseScored300
    from ipipneo.utility import organize_list_json

    sheet = json.loads((folder / f"answers_{items}.json").read_text())
    reverse = ReverseScored120 if items == 120 else ReverseScored300
    scorer = scorer_package.IpipNeo(question=items)
    theirs = scorer.score(answers=organize_list_json(answers=reverse(answers=sheet)))
    domains = scorer.domain(score=theirs)

    inventory = load_published(f"ipip-neo-{items}", folder / f"questions_{items}.json")
    scores = score_answers(inventory, read_answers(folder / f"answers_{items}.json"))
    assert {trait.letter: scores.sums[trait] for trait in Trait} == domains
    assert len(scores.facet_sums) == 30
    for position in range(30):
        trait, facet, _ = neo_key(position + 1, items)
        assert scores.facet_sums[trait, facet] == theirs[position + 1], (trait, facet)


@pytest.mark.parametrize(("items", "sex", "age"), [(120, "M", 40), (300, "F", 25), (300, "N", 18)])
def test_percentiles_equal_five_factor_e(items: int, sex: Any, age: int) -> None:
    folder = ipip_neo()
    scorer = pytest.importorskip("ipipneo", reason="five-factor-e is not installed").IpipNeo(question=items)
    sheet = json.loads((folder / f"answers_{items}.json").read_text())
    result = scorer.compute(sex=sex, age=age, answers=sheet)["person"]["result"]["personalities"]
    found = percentiles(read_answers(folder / f"answers_{items}.json"), sex=sex, age=age)
    for entry in result:
        ((name, content),) = entry.items()
        trait = Trait.parse(name)
        assert found.traits[trait] == content[trait.letter]
        for row, facet in zip(content["traits"], FACETS[trait], strict=True):
            assert found.facets[trait, facet.name] == row[facet.name.replace(" ", "_").replace("-", "_")]


def test_percentiles_refuse_incomplete_sheets() -> None:
    pytest.importorskip("ipipneo", reason="five-factor-e is not installed")
    with pytest.raises(ValueError, match="all 120 or all 300"):
        percentiles({"1": 3})
    whole = {str(number): 3.4 for number in range(1, 121)}
    assert 1 <= percentiles(whole).traits[Trait.OPENNESS] <= 99  # expected values
    with pytest.raises(ValueError, match=r"age 10 to 110"):
        percentiles(whole, age=5)
    with pytest.raises(ValueError, match=r"item 3: the rating 6 is not in 1..5"):
        percentiles(whole | {"3": 6})


# ------------------------------------------------------------------ keys


def test_neo_keys_are_balanced_over_facets() -> None:
    for items, reversed_items in ((120, 55), (300, 148)):
        keys = [neo_key(number, items) for number in range(1, items + 1)]
        assert sum(reverse for _, _, reverse in keys) == reversed_items
        for trait in Trait:
            for facet in FACETS[trait]:
                assert sum(key[:2] == (trait, facet.name) for key in keys) == items // 30
    with pytest.raises(ValueError, match="120 or 300"):
        neo_key(121, 120)


def test_fifty_items_and_the_twenty_of_mini_ipip(tmp_path: Path) -> None:
    assert sum(reverse for _, reverse in map(ipip50_key, range(1, 51))) == 5 + 4 + 4 + 2 + 3
    assert [ipip50_key(n) for n in (4, 9, 38, 48)] == [
        (Trait.NEUROTICISM, False),
        (Trait.NEUROTICISM, True),
        (Trait.CONSCIENTIOUSNESS, True),
        (Trait.CONSCIENTIOUSNESS, False),
    ]
    file = tmp_path / "fifty.txt"
    file.write_text("".join(f"Text number {n}.\n" for n in range(1, 51)))
    with pytest.raises(ValueError, match="not the wording of item 1"):
        load_published("ipip-50", file)
    mini = load_published("mini-ipip", file, rephrased=True)
    # Donnellan et al. (2006): E A C N O in turn; reversed are 6-10 and 15-20
    assert "".join(item.trait.letter for item in mini.items) == "EACNO" * 4
    assert [n for n, item in enumerate(mini.items, 1) if item.reverse] == [6, 7, 8, 9, 10, 15, 16, 17, 18, 19, 20]
    assert mini.items[2].text == "Text number 23."
    with pytest.raises(ValueError, match="do not come with this package"):
        find_inventory("ipip-50")


def test_texts_of_the_fifty_are_recognised(tmp_path: Path) -> None:
    """Two of Mini-IPIP's items, exchanged, are noticed; the rest of the check needs no further text."""
    folder = ipip_neo()
    texts = {text for _, text in read_questions(folder / "questions_300.json")[0]}
    assert {"Worry about things.", "Have a vivid imagination."} <= texts
    file = tmp_path / "twenty.txt"
    file.write_text("I am the life of the party.\n" + "Worry about things.\n" * 19)
    with pytest.raises(ValueError, match="not the wording of item 17"):
        load_published("mini-ipip", file)


# ------------------------------------------------------------------ the bundled one


def test_bundled_inventory_is_balanced() -> None:
    inventory = bundled_inventory()
    assert len(inventory.items) == 60
    for trait in Trait:
        items = inventory.of_trait(trait)
        assert len(items) == 12 and sum(item.reverse for item in items) == 6
        for facet in FACETS[trait]:
            assert sorted(item.reverse for item in items if item.facet == facet.name) == [False, True]
    assert len({item.text for item in inventory.items}) == 60


def test_bundled_statements_are_our_own() -> None:
    from dpg_fast.data.similarity import near_duplicates

    folder = ipip_neo()
    published = [text for n in (120, 300) for _, text in read_questions(folder / f"questions_{n}.json")[0]]
    ours = [item.text for item in bundled_inventory().items]
    assert near_duplicates([*published, *ours], threshold=0.2, n=2, keep=len(published)) == []


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["inventory.json", "inventory.jsonl"])
def test_files_read_back(name: str, tmp_path: Path) -> None:
    inventory = replace(bundled_inventory(), stem="I", source="here")
    inventory.save(tmp_path / name)
    assert load_inventory(tmp_path / name) == inventory
    assert find_inventory(str(tmp_path / name)) == inventory


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'f, line 1: an inventory begins with {"format"'),
        (ITEM, "f, line 1: an inventory begins with"),
        (HEADER.replace("1,", "9,"), "f, line 1: version 9 is unknown"),
        (HEADER.replace("name", "nome"), "f, line 1: unknown key 'nome'"),
        (HEADER, "f, line 1: inventory 'x' has no items"),
        (HEADER + "\n" + ITEM[:20], "f, line 3: not JSON"),
        (HEADER + ITEM.replace("+", "?"), """f, line 2: "key" is "+" or "-", not '?'"""),
        (HEADER + ITEM.replace('"E"', '"X"'), "f, line 2: unknown trait 'X'"),
        (HEADER + ITEM + "\n\n" + ITEM, "f, line 5: the id 'a' was used on line 2"),
        (HEADER + ITEM.replace("I sing.", " "), 'f, line 2: needs "text" with a text'),
        (HEADER + "[1]\n", "f, line 2: an item is an object, not [1]"),
        (HEADER.replace("}", ', "options": ["yes"]}') + ITEM, "2 to 9 different options"),
        ('{"format": "dpg-fast-inventory", "version": 1, "name": "x",\n "items": [\n' + ITEM + ",\n{}]}", "f, line 5"),
    ],
)
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_inventory(text, "f")
    assert message in str(error.value)


def test_five_factor_e_files(tmp_path: Path) -> None:
    file = tmp_path / "q.json"
    file.write_text(
        '{"questions": [{"id": 1, "text": "A."}], "select": [{"id": 1, "text": "no"}, {"id": 3, "text": "yes"}]}'
    )
    with pytest.raises(ValueError, match='the ids of "select" must be 1 to 2'):
        read_questions(file)
    file.write_text('{"questions": [{"id": 1, "text": "A."}], "select": [{"id": 1, "text": "no"}]}')
    assert read_questions(file) == ([(1, "A.")], ("no",))
    with pytest.raises(ValueError, match="1 item and 1 option; IPIP-NEO-120 has 120 and 5"):
        load_published("ipip-neo-120", file)
    file.write_text("{\n,")
    with pytest.raises(ValueError, match=r"q.json, line 2: not JSON"):
        read_questions(file)
    file.write_text('{"answers": [{"id_question": 1, "id_select": 2}, {"id_question": 1, "id_select": 2}]}')
    with pytest.raises(ValueError, match="answered twice"):
        read_answers(file)


def test_download_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "120").mkdir()
    (tmp_path / "120" / "questions.json").write_text("{}")
    with pytest.raises(ValueError, match="do not have the checksum"):
        load_published("ipip-neo-120", base_url=tmp_path.as_uri())
    folder = ipip_neo()
    (tmp_path / "120" / "questions.json").write_bytes((folder / "questions_120.json").read_bytes())
    inventory = load_published("ipip-neo-120", base_url=tmp_path.as_uri())
    assert inventory.statement(inventory.items[0]) == "I worry about things."


# ------------------------------------------------------------------ scoring


@given(st.data())
def test_reversing_every_rating_mirrors_every_score(data: st.DataObject) -> None:
    inventory = bundled_inventory()
    ratings = {item.id: data.draw(st.integers(1, 5)) for item in inventory.items}
    scores = score_answers(inventory, ratings)
    mirrored = score_answers(inventory, {name: 6 - value for name, value in ratings.items()})
    for trait in Trait:
        assert scores.means[trait] + mirrored.means[trait] == pytest.approx(6)
        assert scores.sums[trait] == pytest.approx(12 * scores.means[trait])
    assert scores.acquiescence == pytest.approx(-mirrored.acquiescence)
    assert scores.extreme == mirrored.extreme


@given(st.permutations(range(60)), st.integers(1, 5))
def test_yea_saying_is_acquiescence_and_no_trait(order: list[int], value: int) -> None:
    inventory = bundled_inventory()
    scores = score_answers(inventory, {inventory.items[i].id: value for i in order})
    assert scores.acquiescence == pytest.approx(value - 3)
    assert all(mean == pytest.approx(3) for mean in scores.means.values())
    assert to_personality(scores, 5).is_neutral


@pytest.mark.parametrize("value", ["3", None, True, 0.99, 5.01, [3], 1 + 0j])
def test_ratings_are_numbers(value: Any) -> None:
    inventory = bundled_inventory()
    with pytest.raises(ValueError, match=r"is not a number in 1\.\.5"):
        score_answers(inventory, {inventory.items[0].id: value})
    assert score_answers(inventory, {inventory.items[0].id: np.int64(3)}).answered == 1


def test_an_ideal_respondent_scores_at_the_end() -> None:
    inventory = bundled_inventory()
    ratings = {item.id: keyed(item, 5 if item.trait == Trait.EXTRAVERSION else 1, 5) for item in inventory.items}
    assert to_personality(score_answers(inventory, ratings), 5).scores == (-5, -5, 5, -5, -5)
    assert to_level(3.5, 5) == 1.25
    some = {inventory.of_trait(Trait.OPENNESS)[0].id: 4}
    partial = score_answers(inventory, some)
    assert partial.sums == {} and partial.answered == 1 and partial.acquiescence is None
    with pytest.raises(ValueError, match="not measured: conscientiousness"):
        to_personality(partial, 5)
    with pytest.raises(ValueError, match=r"no item 'zz'"):
        score_answers(inventory, {"zz": 1})
    with pytest.raises(ValueError, match=r"not a number in 1\.\.5"):
        score_answers(inventory, {"o01": float(np.nan)})


def test_inventories_check_themselves() -> None:
    item = bundled_inventory().items[0]
    with pytest.raises(ValueError, match="used twice"):
        Inventory("x", (item, item))
