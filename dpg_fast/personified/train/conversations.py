"""Personified records as rows of tokens: whose they are, stage tokens, what the loss counts, and general conversations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.personality.stages import label_messages, stage_token
from dpg_fast.personified.data.general import INSTRUCTIONS
from dpg_fast.personified.data.record import ANALYSIS, PersonifiedRecord, split_reply
from dpg_fast.personified.data.writing import TEST, TRAIN
from dpg_fast.personified.train.settings import ConversationSettings
from dpg_fast.text.answers import write_tokens
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.text.records import DialogueRecord, Turn, read_records, write_records
from dpg_fast.train.rows import assistant_tokens
from dpg_fast.util.errors import DPGError

IGNORED = -100  # of the loss, as transformers has it
_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
Row = dict[str, list[int]]


@dataclass(frozen=True)
class Conversations:
    """A character's records.

    Attributes:
        character: name, as the records have it.
        stages: stage -> temporal label, in the order of time as far as the labels tell it.
        train, test: the two parts.
    """

    character: str
    stages: dict[str, str]
    train: list[PersonifiedRecord]
    test: list[PersonifiedRecord]


def load_conversations(settings: ConversationSettings) -> Conversations:
    """Read the records that ``settings`` name.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no record, several characters and none chosen, or a stage with two labels.
    """
    records: list[PersonifiedRecord] = []
    for place in settings.records:
        for file in _files(place):
            records += read_records(file, PersonifiedRecord)
    people = sorted({record.character or "" for record in records})
    wanted = settings.character or (people[0] if len(people) == 1 else "")
    if wanted not in people or not wanted:
        raise DPGError(
            f"data.character: choose one of {', '.join(people) or 'none (the files hold no record)'}"
            + (f"; there is no {wanted!r}" if wanted else "")
        )
    own = [record for record in records if record.character == wanted]
    stages: dict[str, str] = {}
    for record in own:
        if record.stage is None:
            raise DPGError(f"record {record.id} of {wanted} has no stage")
        if stages.setdefault(record.stage, record.label) != record.label:
            raise DPGError(f"stage {record.stage} of {wanted} is labelled {stages[record.stage]} and {record.label}")
    train, test = ([r for r in own if r.split == split] for split in ("train", "test"))
    if not train:
        raise DPGError(f"the files hold no record of {wanted} to train on (split train)")
    return Conversations(wanted, dict(sorted(stages.items(), key=lambda item: _time(item[1]))), train, test)


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        if not (place / TRAIN).is_file():
            raise FileNotFoundError(f"{place} has no {TRAIN}: make it with `dpg-fast data personified build`")
        return [place / name for name in (TRAIN, TEST) if (place / name).is_file()]
    if not place.is_file():
        raise FileNotFoundError(f"there is no file or folder {place}")
    return [place]


def _time(label: str) -> int:
    number = label.removeprefix("TIME-")
    return _NUMERALS.index(number) if number in _NUMERALS else len(_NUMERALS)  # others keep their order


def short_name(name: str) -> str:
    """A name to ask for a character by: "Marit Oss" -> "marit_oss"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or name


def spoken(turns: Sequence[Turn], analysis: bool) -> list[dict[str, str]]:
    """Messages of a conversation, without the analyses unless they are wanted. Answers without markers stay as they are.

    Raises:
        ValueError: analyses are wanted, and an answer has none.
    """
    messages = []
    for turn in turns:
        text = turn.content
        if turn.role == "assistant":
            marked = text.startswith(ANALYSIS)
            if analysis and not marked:
                raise DPGError(f"analysis=true, but an answer has none: {text[:60]!r}")
            if marked and not analysis:
                text = split_reply(text)[1]
        messages.append({"role": turn.role, "content": text})
    return messages


def row_of(tokenizer: Any, messages: Sequence[dict[str, str]], token: str | None) -> Row:
    """``input_ids`` and ``labels``: the assistant's tokens and its end of turn, everything else `IGNORED`."""
    tokens, learnt = assistant_tokens(tokenizer, label_messages(messages, token))
    return {"input_ids": tokens.tolist(), "labels": tokens.masked_fill(~learnt, IGNORED).tolist()}


def personified_rows(tokenizer: Any, records: Sequence[PersonifiedRecord], analysis: bool) -> list[Row]:
    """A row for each record, with its stage's token before every user turn."""
    return [row_of(tokenizer, spoken(r.messages, analysis), stage_token(r.label)) for r in records]


def mixed(own: Sequence[Row], general: Sequence[Row], repeat: int, share: float) -> list[Row]:
    """Each own row ``repeat`` times, and as many general rows, in turn, as make up ``share`` of everything."""
    rows = [row for _ in range(repeat) for row in own]
    if general and share:
        count = round(len(rows) * share / (1 - share))
        rows += [general[i % len(general)] for i in range(count)]
    return rows


def general_rows(tokenizer: Any, file: Path) -> list[Row]:
    """Rows of general conversations, without a stage token.

    Raises:
        ValueError: the file holds none with an assistant's turn.
    """
    rows = [row_of(tokenizer, spoken(r.messages, False), None) for r in read_records(file, DialogueRecord)]
    rows = [row for row in rows if any(label != IGNORED for label in row["labels"])]
    if not rows:
        raise DPGError(f"{file} holds no conversation with an assistant's turn")
    return rows


def make_general(base: Any, tokenizer: Any, file: Path, max_new_tokens: int = 100, batch: int = 40) -> None:
    """Write the base model's own answers to general instructions: what tuning should leave as it is.

    Greedy. An answer that is not finished after ``max_new_tokens`` ends with its last whole sentence, or is left out.

    Raises:
        ValueError: no answer is left.
    """
    found = []
    end = tokenizer.eos_token_id
    for start in range(0, len(INSTRUCTIONS), batch):
        asked = INSTRUCTIONS[start : start + batch]
        prompts = [chat_prompt(tokenizer, [{"role": "user", "content": text}]) for text in asked]
        answers = write_tokens(base, tokenizer, prompts, max_new_tokens=max_new_tokens)
        for text, answer in zip(asked, answers.tolist(), strict=True):
            said = tokenizer.decode(answer, skip_special_tokens=True).strip()
            if end not in answer:
                said = said[: max(said.rfind(mark) for mark in ".!?") + 1]
            if said:
                turns = [Turn(role="user", content=text), Turn(role="assistant", content=said)]
                found.append(DialogueRecord(messages=turns, source="answered by the base model"))
    if not found:
        raise DPGError(
            f"data.general: the base model finished no sentence within {max_new_tokens} tokens; name a file of conversations"
        )
    write_records(file, found)
