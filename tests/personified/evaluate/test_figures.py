"""The figures of an evaluation by hand and against the ones they generalise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from dpg_fast.personified.evaluate.answering import response_of, wanted_answers
from dpg_fast.personified.evaluate.bleu import bleu_of, distinction_intervals, distinction_table, sentence_statistics
from dpg_fast.personified.evaluate.cast import Person, load_cast, load_person
from dpg_fast.personified.evaluate.offline import StageIndex, overlap, overlap_figures, premise_figures, stage_figures
from dpg_fast.text.records import write_records
from tests.personified.evaluate.people import STAGES, record, write_people

TEXTS = [
    "the ferry goes six times a day and a seventh for the ill",
    "the bridge was opened on a Friday, and I cheered",
    "I do not know what a router is",
    "she took sixty-one people off the island in the dark",
]


def pair_bleu(a: list[str], b: list[str]) -> float:
    """Corpus BLEU, mean of both directions."""
    return float(np.mean([sacrebleu.corpus_bleu(x, [y]).score for x, y in ((a, b), (b, a))]))


def test_bleu_is_sacrebleus() -> None:
    others = [TEXTS[1], TEXTS[1][:20], TEXTS[2] + " at all", TEXTS[3].replace("she", "I")]
    pair = sentence_statistics(TEXTS, others)
    assert bleu_of(pair) == pytest.approx(pair_bleu(TEXTS, others), abs=1e-9)
    twice = np.array([2, 0, 1, 1])
    drawn = ([TEXTS[i] for i in (0, 0, 2, 3)], [others[i] for i in (0, 0, 2, 3)])
    assert bleu_of(pair, twice) == pytest.approx(pair_bleu(*drawn), abs=1e-9)
    assert bleu_of(sentence_statistics(TEXTS, TEXTS)) == pytest.approx(100)


def test_distinction_is_corpus_bleu_of_the_answers(tmp_path: Path) -> None:
    cast = load_cast(write_people(tmp_path, tests=2))
    rng = np.random.default_rng(0)
    words = [
        "the",
        "ferry",
        "bridge",
        "tide",
        "bell",
        "rope",
        "fog",
        "river",
        "I",
        "you",
        "never",
        "told",
        "her",
        "about",
        "it",
    ]
    answers = {key: " ".join(rng.choice(words, 9)) for key, _ in wanted_answers(cast)}
    table = distinction_table(cast, answers).figures()
    for person in cast:
        names = [f"{person.name}: {q.id}" for q in person.questions]

        def said(who: Person, stage: str, sample: int = 0, names: list[str] = names) -> list[str]:
            return [answers[who.name, stage, name, sample] for name in names]

        other = next(p for p in cast if p is not person)
        wanted = {
            "intra": [pair_bleu(said(person, s), said(person, s, 1)) for s in STAGES],
            "stage": [pair_bleu(*(said(person, s) for s in STAGES))],
            "inter": [pair_bleu(said(person, s), said(other, s)) for s in STAGES],
        }
        for measure, values in wanted.items():
            assert table[person.name][measure] == pytest.approx(np.mean(values))
    assert table["mean"]["gap"] == pytest.approx(table["mean"]["intra"] - table["mean"]["stage"])


def test_differences_are_paired(tmp_path: Path) -> None:
    cast = load_cast(write_people(tmp_path, tests=2))
    rng = np.random.default_rng(1)
    answers = {
        key: " ".join(rng.choice(["tide", "bell", "rope", "fog", "a", "the"], 12)) for key, _ in wanted_answers(cast)
    }
    same = {"one": distinction_table(cast, answers), "two": distinction_table(cast, answers)}
    found, differences = distinction_intervals(same, "one", resamples=20)
    assert differences["two"]["mean"]["gap"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert found["one"] == found["two"] and found["one"]["mean"]["intra"]["low"] < found["one"]["mean"]["intra"]["high"]
    assert set(differences) == {"two"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[Analysis] a\n[Response] Good day. ", "Good day."),
        ("Good day.", "Good day."),
        ("[Analysis] and so on", ""),
    ],
)
def test_the_response_of_an_answer(text: str, wanted: str) -> None:
    assert response_of(text) == wanted


def test_everybody_is_asked_everything_that_is_compared(tmp_path: Path) -> None:
    cast = load_cast(write_people(tmp_path))
    wanted = wanted_answers(cast)
    # two people, six questions each: own answers at two stages twice, the other's at two stages once
    assert len(wanted) == len({key for key, _ in wanted}) == 2 * 6 * (2 * 2 + 2)


def test_overlap_by_hand() -> None:
    assert overlap("The ferry waits.", "A ferry waits for nobody.") == pytest.approx(2 * 2 / (2 + 3))
    assert overlap("", "x") == 0.0 and overlap("And the", "a of the") == 0.0


def test_golden_answers_score_best(tmp_path: Path) -> None:
    cast = load_cast(write_people(tmp_path))
    golden = [(p, q, q.reference) for p in cast for q in p.questions]
    wrong = [(p, q, "Everything is fine.") for p in cast for q in p.questions]
    assert overlap_figures(golden, 10, 0)["all"]["estimate"] == pytest.approx(1)
    assert overlap_figures(wrong, 10, 0)["all"]["estimate"] == 0
    assert {k: v["count"] for k, v in overlap_figures(golden, 10, 0).items()} == {
        "knowledge": 8,
        "attitude": 4,
        "all": 12,
    }
    stages = stage_figures(golden, {}, 10, 0)
    assert stages["nearest"]["estimate"] == stages["references"]["estimate"] == 1.0
    swapped = [(p, q, next(o.reference for o in p.questions if o.stage != q.stage)) for p in cast for q in p.questions]
    assert stage_figures(swapped, {}, 10, 0)["nearest"]["estimate"] == 0.0
    assert stage_figures(wrong, {}, 10, 0)["nearest"]["estimate"] == 0.5  # nothing in common with either


def test_premises_and_likelihoods_by_hand(tmp_path: Path) -> None:
    cast = load_cast(write_people(tmp_path))
    said = [(p, q, q.reference) for p in cast for q in p.questions]
    judged = ["disagrees" if q.kind == "error" else "agrees" for _, q, _ in said]
    likely = {
        (p.name, q.id): {
            "correction": 1.0 if q.kind == "error" else 0.0,
            "stages": {s: -2.0 if s == q.stage else -2.5 for s in STAGES},
        }
        for p, q, _ in said
    }
    found = premise_figures(said, judged, likely, 50, 0)  # type: ignore[arg-type]
    assert found["resisted"]["estimate"] == 1 and found["contradicted otherwise"]["estimate"] == 0
    assert found["likelihood"]["estimate"] == 1 and found["likelihood"]["count"] == [4, 4]
    assert found["resisted"]["count"] == 4 and found["unjudged"] == 0
    none = premise_figures(said, [None] * len(said), {}, 50, 0)
    assert none == {"unjudged": 8}
    stages = stage_figures(said, likely, 50, 0)
    assert stages["likelihood"]["estimate"] == 1 and stages["margin"]["estimate"] == pytest.approx(0.5)


def test_stage_index_reads_training_answers(tmp_path: Path) -> None:
    ada = load_person(write_people(tmp_path)[0])
    found = StageIndex(ada).nearest(["the turbine and the congress", "the pony"])
    assert found["late"][0] > found["early"][0] and found["early"][1] > found["late"][1]


def test_folders(tmp_path: Path) -> None:
    ada, bo = write_people(tmp_path, tests=3)
    person = load_person(ada, limit=2, seed=1)
    assert len(person.questions) == 4 and [s.label for s in person.stages.values()] == ["TIME-I", "TIME-II"]
    assert load_person(ada, limit=2, seed=1).questions == person.questions
    assert person.same("ada_brook") and not person.same("ada")
    with pytest.raises(ValueError, match="different characters"):
        load_cast([ada, ada])
    with pytest.raises(FileNotFoundError, match=r"no train\.jsonl"):
        load_person(tmp_path)
    write_records(bo / "test.jsonl", [record("Bo Lind", "early", "ordinary", 0, "test")])
    with pytest.raises(ValueError, match="no test question of Bo Lind's stage late"):
        load_person(bo)
    write_records(bo / "test.jsonl", [record("Ada Brook", "early", "ordinary", 0, "test")])
    with pytest.raises(ValueError, match="one character"):
        load_person(bo)
