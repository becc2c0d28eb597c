"""Two invented people as folders of personified data, small enough for every test."""

from __future__ import annotations

from pathlib import Path

from dpg_fast.personified.data.record import Annotation, ItemKind, PersonifiedRecord, join_reply
from dpg_fast.personified.data.writing import ParagraphRecord
from dpg_fast.text.records import Turn, write_records

STAGES = {"early": ("TIME-I", "It is 1900."), "late": ("TIME-II", "It is 1930.")}
KINDS: tuple[ItemKind, ...] = ("ordinary", "thought", "error")
WORDS = {
    ("Ada Brook", "early"): ("orchard", "pony", "schoolroom"),
    ("Ada Brook", "late"): ("turbine", "reservoir", "congress"),
    ("Bo Lind", "early"): ("anvil", "smithy", "horseshoe"),
    ("Bo Lind", "late"): ("senate", "speech", "ballot"),
}


def record(name: str, stage: str, kind: ItemKind, number: int, split: str) -> PersonifiedRecord:
    """A record whose texts hold the stage's own words."""
    one, two, three = WORDS[name, stage]
    word = (one, two, three)[number % 3]
    questions = {
        "ordinary": f"What did you do with the {word} number {number}?",
        "thought": f"I think that a {word} is worth nothing, {number} times over.",
        "error": f"Why did you burn the {word} number {number} down?",
    }
    reply = f"No, that is not so. The {word} stands" if kind == "error" else f"I kept the {word} beside the {one}"
    source = "style" if kind == "thought" else "knowledge"
    return PersonifiedRecord(
        messages=[
            Turn(role="user", content=questions[kind]),
            Turn(
                role="assistant", content=join_reply("They ask.", f"{reply}, and I told {name} about {two} {number}.")
            ),
        ],
        character=name,
        stage=stage,
        source=f"{stage}/{source}/texts.txt#{number % 2 + 1}",
        id=f"{stage}-{kind}-{split}{number}",
        kind=kind,
        split="test" if split == "test" else "train",
        label=STAGES[stage][0],
        time=STAGES[stage][1],
        stance="corrects" if kind == "error" else "neutral",
        annotation=Annotation(model="written", prompt_version="1", embedding="none", verified=False),
    )


def write_people(folder: Path, tests: int = 1) -> list[Path]:
    """Folders of Ada Brook and Bo Lind, with ``tests`` test questions of each kind and stage."""
    found = []
    for name in ("Ada Brook", "Bo Lind"):
        place = folder / name.split()[0].lower()
        for split, count in (("train", 2), ("test", tests)):
            rows = [record(name, s, kind, n, split) for s in STAGES for kind in KINDS for n in range(count)]
            write_records(place / f"{split}.jsonl", rows)
        write_records(place / "cross.jsonl", [])
        texts = [
            ParagraphRecord(
                id=f"{stage}/{kind}/texts.txt#{n}",
                kind=kind,
                text=f"{name} and the {' and the '.join(WORDS[name, stage])}, {n}.",
            )
            for stage in STAGES
            for kind in ("knowledge", "style")
            for n in (1, 2)
        ]
        write_records(place / "paragraphs.jsonl", texts)
        found.append(place)
    return found
