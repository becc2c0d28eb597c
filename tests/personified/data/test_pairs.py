"""Preference pairs: whose answer is rejected, which questions are skipped, and what the statistics say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personified.data.pairs import (
    PairSettings,
    PreferencePair,
    length_bias,
    pair_statistics,
    personality_pairs,
    stage_pairs,
)
from dpg_fast.personified.data.record import Annotation, PersonifiedRecord, join_reply, split_reply
from dpg_fast.personified.data.retrieval import TfidfEmbedder
from dpg_fast.text.records import Turn, read_records, write_records

TOPICS = ["bees", "bridge", "ferry", "river", "bread", "tide", "brother", "winter", "letter", "bell", "stone", "money"]


def record(character: str, number: int, question: str, response: str, **change: Any) -> PersonifiedRecord:
    stage = change.pop("stage", "early")
    values: dict[str, Any] = {
        "id": f"{stage}-ordinary-{number:05d}",
        "messages": [
            Turn(role="user", content=question),
            Turn(role="assistant", content=join_reply("I think about it.", response)),
        ],
        "character": character,
        "stage": stage,
        "label": "TIME-I" if stage == "early" else "TIME-II",
        "kind": "ordinary",
        "split": "train",
        "source": f"{stage}/knowledge/a.txt#{number}",
        "stance": "neutral",
        "annotation": Annotation(model="m", prompt_version="1", embedding="e", verified=True),
    }
    return PersonifiedRecord.model_validate(values | change)


def people() -> list[PersonifiedRecord]:
    return [
        record(
            name,
            i,
            f"What do you say about the {topic} and {TOPICS[(i + 1) % 12]}?",
            f"{name} {topic} answer {i} here.",
        )
        for name in ("Ada", "Ben", "Cid")
        for i, topic in enumerate(TOPICS)
    ]


class ByHand:
    """Vectors given by a table."""

    name = "table"

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table = table

    def encoder(self, corpus: Any) -> Any:
        return lambda texts: np.array([self.table[text] for text in texts], dtype=np.float32)


def by_angle(angles: dict[str, float]) -> ByHand:
    return ByHand({text: [float(np.cos(a)), float(np.sin(a))] for text, a in angles.items()})


# --- another personality ---


@pytest.mark.parametrize("skip", [0, 5, 7])
def test_the_nearest_are_skipped(skip: int) -> None:
    records = [record("Ada", 0, "q", "Ada answers something here.")]
    records += [record("Ben", i, f"b{i}", f"Ben says a number, {i}, and no more.") for i in range(8)]
    records += [record("Ada", i, f"a{i}", f"Ada too says a number, {i}.") for i in range(1, 9)]
    angles = {f"b{i}": 0.1 * (i + 1) for i in range(8)} | {f"a{i}": 2.0 for i in range(1, 9)}
    found = personality_pairs(records, by_angle({"q": 0.0} | angles), PairSettings(skip=skip))
    (pair,) = [p for p in found.pairs if p.prompt[0].content == "q"]
    assert pair.rejected_id == f"early-ordinary-{skip:05d}" and pair.rejected_character == "Ben"
    assert pair.similarity == pytest.approx(np.cos(0.1 * (skip + 1)), abs=1e-4)


def test_as_a_search_one_by_one_finds_them() -> None:
    records = people()
    questions = [r.question for r in records]
    vectors = TfidfEmbedder().encoder(questions)(questions).toarray()
    found = personality_pairs(records, TfidfEmbedder(), PairSettings(skip=5))
    assert len(found.pairs) == len(records) and not found.without
    for i, pair in enumerate(found.pairs):
        scores = vectors @ vectors[i]
        others = [j for j, r in enumerate(records) if r.character != records[i].character]
        ranked = sorted(others, key=lambda j: (-scores[j], j))
        assert pair.similarity == pytest.approx(scores[ranked[5]], abs=1e-3)  # ties may be broken either way
        assert pair.character == records[i].character != pair.rejected_character
        assert pair.chosen[0].content == records[i].answer
        assert pair.prompt[0].content == records[i].question


def test_equal_answers_and_the_cap_are_passed_over() -> None:
    same = "We both say exactly these same few words."
    records = [
        record("Ada", 0, "q", same),
        record("Ben", 1, "b1", same),
        record("Ben", 2, "b2", "Ben says something else."),
    ]
    records.append(record("Ada", 3, "far", "Ada far away says this."))
    embedder = by_angle({"q": 0.0, "b1": 0.3, "b2": 0.6, "far": 3.0})
    found = personality_pairs(records, embedder, PairSettings(skip=0))
    assert found.pairs[0].rejected_id == "early-ordinary-00002"
    capped = personality_pairs(records, embedder, PairSettings(skip=0, highest=0.5))
    assert "none below the cap differs" in capped.without and all(p.similarity < 0.5 for p in capped.pairs)


def test_only_training_records_and_no_general_ones() -> None:
    records = people()
    records[0] = records[0].model_copy(update={"split": "test"})
    records[1] = records[1].model_copy(update={"kind": "general"})
    found = personality_pairs(records, TfidfEmbedder())
    used = {(p.character, p.chosen_id) for p in found.pairs} | {
        (p.rejected_character, p.rejected_id) for p in found.pairs
    }
    assert len(found.pairs) == len(records) - 2
    assert not used & {("Ada", records[0].id), ("Ada", records[1].id)}


def test_too_few_others_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least two characters, not of Ada"):
        personality_pairs(people()[:12], TfidfEmbedder())
    with pytest.raises(ValueError, match="for Ada the others have 5 questions, and 5 are skipped"):
        personality_pairs(people()[:17], TfidfEmbedder())


# --- another stage ---


def stages() -> tuple[list[PersonifiedRecord], list[PersonifiedRecord]]:
    own, cross = [], []
    for stage, other in (("early", "late"), ("late", "early")):
        for i, topic in enumerate(TOPICS[:4]):
            question = f"What about the {topic}, {stage}?"
            own.append(record("Ada", i, question, f"{stage} tells of the {topic} at length.", stage=stage))
            answer = record("Ada", i, question, f"{other} has another word on {topic}.", stage=other)
            cross.append(answer.model_copy(update={"id": f"{own[-1].id}@{other}", "asked_of": stage}))
    return own, cross


def test_both_directions_with_the_own_stage_chosen() -> None:
    own, cross = stages()
    found = stage_pairs(own, cross)
    assert len(found.pairs) == 16
    for pair in found.pairs:
        assert pair.kind == "stage" and pair.similarity == 1
        assert pair.stage != pair.rejected_stage and pair.character == pair.rejected_character
        assert split_reply(pair.chosen[0].content)[1].startswith(pair.stage)
        assert split_reply(pair.rejected[0].content)[1].startswith(pair.rejected_stage)
        assert pair.label == {"early": "TIME-I", "late": "TIME-II"}[pair.stage]
    assert {(p.stage, p.prompt[0].content.split()[-1]) for p in found.pairs} == {
        (label, asked) for label in ("early", "late") for asked in ("early?", "late?")
    }
    plain = stage_pairs(own, cross, PairSettings(mirrored=False))
    assert len(plain.pairs) == 8 and all(p.prompt[0].content.endswith(f"{p.stage}?") for p in plain.pairs)


def test_alike_answers_missing_and_test_ones_give_no_pair() -> None:
    own, cross = stages()
    cross[0] = cross[0].model_copy(update={"messages": own[0].messages})
    cross[1] = cross[1].model_copy(update={"split": "test"})
    found = stage_pairs([*own[:2], *own[3:]], cross)
    assert found.without == {"both stages answer alike": 1, "the own stage's answer is missing": 1}
    assert len(found.pairs) == 2 * (8 - 3)


def test_without_analyses() -> None:
    found = stage_pairs(*stages(), PairSettings(analysis=False))
    assert all("[" not in p.chosen[0].content + p.rejected[0].content for p in found.pairs)


# --- statistics ---


def pair(chosen: int, rejected: int) -> PreferencePair:
    base = stage_pairs(*stages()).pairs[0]
    sides = {"chosen": chosen, "rejected": rejected}
    return base.model_copy(update={k: [Turn(role="assistant", content="word " * n)] for k, n in sides.items()})


def test_length_bias() -> None:
    draw = np.random.default_rng(3)
    even = [pair(int(a), int(b)) for a, b in draw.integers(20, 60, (200, 2))]
    bias = length_bias(even)
    assert bias is not None and not bias.biased and bias.low < 0 < bias.high
    longer = length_bias([pair(int(a) + 15, int(b)) for a, b in draw.integers(20, 60, (200, 2))])
    assert longer is not None and longer.biased and longer.difference == pytest.approx(15, abs=5)
    assert longer.chosen_longer > 0.6
    one = length_bias([pair(10, 4)])
    assert one is not None and (one.chosen_words, one.rejected_words, one.biased) == (10, 4, False)
    ties = length_bias([pair(5, 5)] * 3)
    assert ties is not None and ties.chosen_longer == 0.5 and not ties.biased
    assert length_bias([]) is None


def test_statistics_count_kinds_and_reasons() -> None:
    found = pair_statistics([stage_pairs(*stages()), personality_pairs(people(), TfidfEmbedder())])
    assert found.counts["stage: Ada, early"] == found.counts["stage: Ada, late"] == 8
    assert found.counts["personality: Ben, early"] == 12
    assert set(found.lengths) == {"all", "stage", "personality"} and found.lengths["all"].pairs == 52
    assert found.similarity["0 %"] <= found.similarity["50 %"] <= found.similarity["100 %"]


@pytest.mark.parametrize("wrong", [{"skip": -1}, {"same": 0}, {"highest": 1.5}, {"splits": ()}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PairSettings(**wrong)


# --- the command ---


def write_folder(folder: Path, records: list[PersonifiedRecord], cross: list[PersonifiedRecord]) -> Path:
    write_records(folder / "train.jsonl", [r for r in records if r.split == "train"])
    write_records(folder / "test.jsonl", [r for r in records if r.split == "test"])
    write_records(folder / "cross.jsonl", cross)
    return folder


def test_the_command(tmp_path: Path) -> None:
    own, cross = stages()
    ada = write_folder(tmp_path / "ada", own, cross)
    ben = write_folder(tmp_path / "ben", [r for r in people() if r.character == "Ben"], [])
    runner = CliRunner()
    command = ["data", "personified", "pairs", str(ada), "--out", str(tmp_path / "pairs")]
    alone = runner.invoke(app, command, env={"COLUMNS": "200"})
    assert alone.exit_code == 0 and "no pairs between personalities" in alone.output
    both = runner.invoke(app, [*command, str(ben)], env={"COLUMNS": "200"})
    assert both.exit_code == 0, both.output
    found = list(read_records(tmp_path / "pairs" / "pairs.jsonl", PreferencePair))
    assert len(found) == 16 + 8 + 12 and {p.kind for p in found} == {"stage", "personality"}
    twice = runner.invoke(app, [*command, str(ada)])
    assert twice.exit_code == 2 and "another folder" in twice.output + twice.stderr
    nothing = runner.invoke(app, ["data", "personified", "pairs", str(tmp_path), "--out", str(tmp_path / "p")])
    assert nothing.exit_code == 2 and "has no train.jsonl" in nothing.output + nothing.stderr
    none = runner.invoke(app, ["data", "personified", "pairs", str(ben), "--out", str(tmp_path / "p")])
    assert none.exit_code == 2 and "no pairs" in none.output + none.stderr
