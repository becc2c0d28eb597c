"""Two people with two stages each, written by hand, for tiny models: records, pairs, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dpg_fast.personified.data.pairs import Pairs, PairSettings, personality_pairs, stage_pairs
from dpg_fast.personified.data.record import Annotation, PersonifiedRecord, join_reply
from dpg_fast.personified.data.retrieval import TfidfEmbedder
from dpg_fast.text.records import DialogueRecord, Turn, write_records

QUESTIONS = ["boat?", "work?", "home?", "food?", "rain?", "money?", "sleep?", "song?"]
LABELS = {"early": "TIME-I", "late": "TIME-II"}
ANSWERS = {
    ("Ada Moor", "early"): "aye {}",
    ("Ada Moor", "late"): "no {} now",
    ("Bo Hale", "early"): "sir {}",
    ("Bo Hale", "late"): "my {} sir",
}


def record(character: str, stage: str, number: int, answered_in: str | None = None) -> PersonifiedRecord:
    """One exchange; ``answered_in`` is another stage that answers this stage's question."""
    word = QUESTIONS[number][:-1]
    speaks = answered_in or stage
    said = join_reply("think", ANSWERS[character, speaks].format(word))
    name = f"{stage}-ordinary-{number:05d}"
    return PersonifiedRecord(
        id=name if answered_in is None else f"{name}@{answered_in}",
        messages=[Turn(role="user", content=QUESTIONS[number]), Turn(role="assistant", content=said)],
        character=character,
        stage=speaks,
        label=LABELS[speaks],
        kind="ordinary",
        split="test" if number == 7 else "train",
        source=f"{stage}/knowledge/a.txt#{number}",
        stance="neutral",
        asked_of=None if answered_in is None else stage,
        annotation=Annotation(model="m", prompt_version="1", embedding="e", verified=True),
    )


def write_people(folder: Path) -> None:
    """``records.jsonl`` of both, ``pairs.jsonl`` and ``general.jsonl``."""
    own = [record(person, stage, i) for person, stage in ANSWERS for i in range(len(QUESTIONS))]
    cross = [
        record(person, stage, i, "late" if stage == "early" else "early")
        for person, stage in ANSWERS
        for i in range(len(QUESTIONS))
    ]
    write_records(folder / "records.jsonl", own)
    settings = PairSettings(skip=1)
    found: list[Pairs] = [personality_pairs(own, TfidfEmbedder(), settings), stage_pairs(own, cross, settings)]
    write_records(folder / "pairs.jsonl", [pair for part in found for pair in part.pairs])
    turns = [Turn(role="user", content="two and two?"), Turn(role="assistant", content="four")]
    write_records(folder / "general.jsonl", [DialogueRecord(messages=turns, source="test")])


def write_project(folder: Path, base: Any, tokenizer: Any) -> Path:
    """Base model, data and settings ``sft.yaml`` and ``dpo.yaml`` of short runs."""
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    write_people(folder)
    trainer = {"logging_steps": 1, "use_cpu": True, "disable_tqdm": True, "save_steps": 2, "max_steps": 6}
    shared = {"model": str(folder / "base"), "dtype": "float32"}
    sft = shared | {
        "output": str(folder / "sft"),
        "data": {
            "records": str(folder / "records.jsonl"),
            "character": "Ada Moor",
            "repeat": 2,
            "general": str(folder / "general.jsonl"),
        },
        "lora": {"rank": 4, "alpha": 8},
        "trainer": trainer | {"learning_rate": 0.01, "per_device_train_batch_size": 8},
    }
    dpo = shared | {
        "output": str(folder / "dpo"),
        "sft": str(folder / "sft" / "adapter"),
        "pairs": {"files": str(folder / "pairs.jsonl"), "held_out": 0.2},
        "trainer": trainer | {"learning_rate": 0.003, "per_device_train_batch_size": 4},
    }
    (folder / "sft.yaml").write_text(yaml.safe_dump(sft))
    (folder / "dpo.yaml").write_text(yaml.safe_dump(dpo))
    return folder
