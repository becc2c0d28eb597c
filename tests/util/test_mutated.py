"""Damaged artifacts of every kind: read and right, or refused by name; no other exception, no hang, no number out of range."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast import Calibration, Personality, PersonalityModel
from dpg_fast.hypernet import from_peft
from dpg_fast.judges.dialogues import read_dialogue
from dpg_fast.llm.cache import Reply, ReplyCache
from dpg_fast.model.disk import artifact
from dpg_fast.neurons.npti import export_lists, find_files, import_lists
from dpg_fast.neurons.statistics import PoleStatistics
from dpg_fast.personality.stages import CharacterCard, read_card, write_card
from dpg_fast.personified.data.material import read_entry
from dpg_fast.simulate.scenario import load_scenario
from dpg_fast.text.records import DialogueRecord, read_records
from dpg_fast.train.settings import load_settings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import claim
from dpg_fast.util.store import Store, read_rows
from tests.model.test_wrapper import personality_model
from tests.model.tiny import prompts, tiny_model
from tests.support import ROOT
from tests.support.corpus import CORPUS, replay
from tests.support.mutation import sweep

IDS = prompts(1, 4)
LEVELS = [Personality("E+5 N-5"), Personality("O-5 A+5 C-3")]


@dataclass(frozen=True)
class Kind:
    """A folder of good files, and how they are read."""

    make: Callable[[Path], object]
    names: Sequence[str]
    read: Callable[[Path], object]
    count: int


def reads_finite(adapter: Path) -> None:
    model = PersonalityModel.load(BASE, adapter)
    try:
        with torch.no_grad():
            for level in LEVELS:
                assert model(IDS, personality=level).logits.isfinite().all(), "logits"
    finally:
        model.unload()


def reads_peft(folder: Path) -> None:
    network = from_peft({"one": folder})
    for tensor in network.state_dict().values():
        assert tensor.isfinite().all(), "weights"
    if len(network.sites) == 2:
        try:
            model = PersonalityModel.from_model(BASE, hypernet=network)
        except DPGError as error:
            assert "model of other sizes" in str(error) or "no layer" in str(error), (
                error
            )  # of the network, not the file
            return
        try:
            with torch.no_grad():
                from dpg_fast import Character

                assert model(IDS, personality=Character("one")).logits.isfinite().all(), "logits"
        finally:
            model.unload()


def make_adapter(folder: Path) -> None:
    personality_model(tiny_model("llama")).save_pretrained(folder, notes="measured")


def make_stored(folder: Path) -> None:
    make_peft(folder.with_name("peft_of_stored"))
    network = from_peft({"one": folder.with_name("peft_of_stored"), "two": folder.with_name("peft_of_stored")})
    PersonalityModel.from_model(tiny_model("llama"), hypernet=network).save_pretrained(folder)


def reads_stored(adapter: Path) -> None:
    from dpg_fast import Character

    model = PersonalityModel.load(BASE, adapter)
    try:
        with torch.no_grad():
            for name in model.hypernet.names:  # type: ignore[union-attr, operator]
                assert model(IDS, personality=Character(name)).logits.isfinite().all(), "logits"
    finally:
        model.unload()


def make_peft(folder: Path) -> None:
    from dpg_fast.hypernet.peft_io import write_peft

    torch.manual_seed(0)
    pairs = {
        f"model.layers.{layer}.self_attn.q_proj": (torch.randn(2, 48) / 9, torch.randn(48, 2) / 9) for layer in range(2)
    }
    write_peft(folder, pairs, alpha=4, base_model="tiny")
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"rank_pattern": {"layers.[01].self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 4}}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_card(folder: Path) -> None:
    folder.mkdir()
    write_card(folder, CharacterCard("Ada", {"early": "TIME-I"}, {"<TIME-I>": 96}, "tiny"))


def make_lists(folder: Path) -> None:
    folder.mkdir()
    table = personality_model(tiny_model("llama", num_hidden_layers=1, intermediate_size=12)).steering
    assert table is not None
    files = export_lists(table, folder)
    for number, file in enumerate(files):
        if number > 1:
            file.unlink()


def make_calibration(folder: Path) -> None:
    folder.mkdir()
    from dpg_fast.model.calibration import PoleCurve
    from dpg_fast.personality.scores import Pole

    curve = PoleCurve(((0.0, 0.0), (2.0, 0.5), (5.0, 1.5)), {"guard": 1.2})
    Calibration({Pole.parse("E+"): 1.2}, {Pole.parse("O-"): curve}).save(folder / "calibration.json")


def reads_calibration(folder: Path) -> None:
    found = Calibration.load(folder / "calibration.json")
    assert all(0 <= strength < 1e5 for level in LEVELS for strength in found.strengths(level)), "strengths"


def make_store(folder: Path) -> None:
    with Store(folder / "s.jsonl", {"seed": 1, "inner": {"a": [1, 2]}}, ("id", "trait")) as store:
        store.append({"id": n, "trait": "openness", "score": n / 2, "text": "tea\u2028" * n} for n in range(8))


def reads_store(folder: Path) -> None:
    before = (folder / "s.jsonl").read_bytes() if (folder / "s.jsonl").is_file() else b""
    kept = len(list(read_rows(folder / "s.jsonl"))) if before else 0
    with Store(folder / "s.jsonl", {"seed": 1, "inner": {"a": [1, 2]}}, ("id", "trait")) as store:
        assert len(store) <= kept or not before, "rows"
        store.append([{"id": "new", "trait": "openness"}])
    assert before.startswith((folder / "s.jsonl").read_bytes()[: min(len(before), 30)][:25]), "another file"


def make_cache(folder: Path) -> None:
    folder.mkdir()
    with ReplyCache(folder / "c.sqlite") as cache:
        for number in range(20):
            cache.put(f"k{number}", Reply(content="word " * 50), model="m", prompt_version="1")
            cache.add_failure(f"f{number}", item="i", prompt_version="1", kind="k", detail="d")


def reads_cache(folder: Path) -> None:
    with ReplyCache(folder / "c.sqlite") as cache:
        len(cache)
        for number in range(20):
            cache.get(f"k{number}")
        cache.failures()
        cache.put("new", Reply(content="a"), model="m", prompt_version="1")


def make_dialogues(folder: Path) -> None:
    folder.mkdir()
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello.", "name": "Ada"}]
    row = {"source": "t", "character": "Ada", "messages": turns, "personality": [1, 2, 3, 4, -5]}
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(3)))


def reads_dialogues(folder: Path) -> None:
    for record in read_records(folder / "d.jsonl", DialogueRecord):
        with contextlib.suppress(DPGError):  # nobody to judge: a fault of the record, which its reader's caller names
            read_dialogue(record)


def make_stages(folder: Path) -> None:
    folder.mkdir()
    (folder / "stages.yaml").write_text(
        "name: Ada\naliases: [A]\nlanguage: en\nstages:\n  - {id: early, time: It is 1936.}\n  - {id: late, time: It is 1960.}\n"
    )


def make_scenario(folder: Path) -> None:
    folder.mkdir()
    source = next(iter(sorted((ROOT / "recipes" / "scenarios").glob("*.yaml"))))
    (folder / "s.yaml").write_text(source.read_text())


def make_recipe(folder: Path) -> None:
    folder.mkdir()
    source = next(file for file in sorted((ROOT / "recipes").rglob("*.yaml")) if "hypernet:" in file.read_text())
    (folder / "r.yaml").write_text(source.read_text())


def make_statistics(folder: Path) -> None:
    folder.mkdir()
    counts = torch.randint(0, 9, (2, 5))
    PoleStatistics(9, counts, torch.rand(2, 5), 3, torch.rand(2, 5), torch.rand(2, 5)).save(folder / "p.safetensors")
    claim(folder / "search.json", {"settings": {"seed": 1}, "weights": [0.5]})


def reads_statistics(folder: Path) -> None:
    PoleStatistics.load(folder / "p.safetensors")
    claim(folder / "search.json", {"settings": {"seed": 1}, "weights": [0.5]})


BASE: Any = tiny_model("llama")
ADAPTER = (artifact.CONFIG, artifact.HYPERNET, artifact.NEURONS, artifact.CALIBRATION)
PEFT = ("adapter_config.json", "adapter_model.safetensors")
LISTS = ("Openness_dict.json", "Openness_reversed_dict.json")
KINDS = {
    "adapter": Kind(make_adapter, ADAPTER, reads_finite, 1400),
    "stored": Kind(make_stored, ADAPTER[:2], reads_stored, 700),
    "peft": Kind(make_peft, PEFT, reads_peft, 1400),
    "card": Kind(make_card, ["character.json"], lambda folder: read_card(folder), 900),
    "lists": Kind(make_lists, LISTS, lambda folder: import_lists(find_files([str(folder)]), 1, 12), 900),
    "calibration": Kind(make_calibration, ["calibration.json"], reads_calibration, 900),
    "store": Kind(make_store, ["s.jsonl"], reads_store, 900),
    "cache": Kind(make_cache, ["c.sqlite"], reads_cache, 500),
    "dialogues": Kind(make_dialogues, ["d.jsonl"], reads_dialogues, 900),
    "stages": Kind(make_stages, ["stages.yaml"], lambda folder: read_entry(folder), 600),
    "scenario": Kind(make_scenario, ["s.yaml"], lambda folder: load_scenario(folder / "s.yaml"), 600),
    "recipe": Kind(make_recipe, ["r.yaml"], lambda folder: load_settings(folder / "r.yaml"), 600),
    "search": Kind(make_statistics, ["p.safetensors", "search.json"], reads_statistics, 600),
}


def check(kind: str, count: int, seed: int, work: Path) -> None:
    chosen = KINDS[kind]
    chosen.make(work / "good")
    chosen.read(work / "good")
    found = sweep(work / "good", chosen.names, chosen.read, count, seed, work)
    print(f"{kind}: {dict(found.counts)}")
    assert not found.faults, json.dumps(found.faults, indent=1)
    assert found.counts["refused"] > count / 4, "the damage is seen"


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_damaged_files(kind: str, tmp_path: Path) -> None:
    check(kind, 24, 1, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_fuzzing_keeps(kind: str, tmp_path: Path) -> None:
    chosen = KINDS[kind]
    chosen.make(tmp_path / "good")
    assert not replay(CORPUS / kind, tmp_path / "good", chosen.names, chosen.read, tmp_path)


def test_a_kept_file_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.json").write_text("1")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "7-a.json").write_text("{")
    found = replay(
        tmp_path / "kept",
        tmp_path / "good",
        ["a.json"],
        lambda place: json.loads((place / "a.json").read_text()),
        tmp_path,
    )
    assert list(found) == ["7-a.json"] and found["7-a.json"].startswith("JSONDecodeError")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(kind: str, tmp_path: Path) -> None:
    check(kind, KINDS[kind].count, 2, tmp_path)


def test_ten_thousand_are_tried() -> None:
    assert sum(kind.count for kind in KINDS.values()) >= 10_000
