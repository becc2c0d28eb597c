"""Settings of a training run: a YAML file, then overrides from the command line. Checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dpg_fast.hypernet import HypernetConfig
from dpg_fast.train.lessons import LessonSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED
from dpg_fast.util.reading import parse_yaml, read_yaml, refusing

T = TypeVar("T")
DTYPES = ("float32", "bfloat16", "float16")
# YAML reads 3e-3 as text, for want of a point.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class DataSettings:
    """What is learnt from: lessons of the teacher, recorded dialogue, or both.

    Args:
        lessons: directory that keeps the teacher's lessons; made on the way if they are not there. None: no lessons.
        records: JSON Lines files of dialogue records with a personality.
        strength: of the teacher in the targets (its own ``strength`` is only that of the texts).
        redraw: share of the visits of an answer at other levels than it was given at.
        visits: how often each answer or dialogue is seen.
        max_length: tokens of a recorded dialogue.
        pack: tokens of a line into which several answers of a batch are packed, attention kept apart (not for flash
            attention); 0: each has a line of its own.
    """

    lessons: Path | None = None
    records: tuple[Path, ...] = ()
    strength: float = 1.5
    redraw: float = 0.5
    visits: int = 4
    max_length: int = 1024
    pack: int = 0

    def __post_init__(self) -> None:
        if self.lessons is None and not self.records:
            raise DPGError("data: name a directory of lessons or files of records")
        if not 0 <= self.redraw <= 1 or self.strength < 0 or self.visits < 1 or self.max_length < 2 or self.pack < 0:
            raise DPGError(
                "data: redraw lies in 0..1, strength and pack are at least 0, visits at least 1, max_length at least 2"
            )


@dataclass(frozen=True)
class TrainSettings:
    """Everything that a run depends on.

    Args:
        output: directory of checkpoints and, at the end, of the adapter (``output/adapter``).
        data: what is learnt from.
        model: Hub id or directory; "smollm2" is the bundled one.
        dtype: of the base model and the products; the hypernetwork's masters are float32.
        hypernet: its sizes.
        teaching: how lessons are made.
        trainer: fields of transformers' ``TrainingArguments``, checked by it (report_to, learning_rate, fsdp ...).
        grouped_attention: on a CPU, attention that does not copy keys and values.
        plain_lora: train the baseline instead: one ordinary LoRA adapter of this rank, the scores written in the instruction
            (lessons only). It is written to ``output/lora`` in PEFT's format.
    """

    output: Path
    data: DataSettings
    model: str = BUNDLED
    dtype: str = "bfloat16"
    hypernet: HypernetConfig = field(default_factory=HypernetConfig)
    teaching: LessonSettings = field(default_factory=LessonSettings)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    grouped_attention: bool = True
    plain_lora: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise DPGError(f"dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if "output_dir" in self.trainer:
            raise DPGError("trainer.output_dir is called output here")
        if self.plain_lora and self.data.records:
            raise DPGError("plain_lora learns from lessons alone; leave data.records out")


def load_settings(file: Path | None, overrides: Sequence[str] = ()) -> TrainSettings:
    """Settings of a hypernetwork's training; see `read_settings`."""
    return read_settings(TrainSettings, file, overrides)


def read_settings(kind: type[T], file: Path | None, overrides: Sequence[str] = ()) -> T:
    """Settings of a YAML file with ``section.name=value`` overrides, whose values are YAML too.

    Relative paths are relative to the working directory.

    Args:
        kind: dataclass of the settings; sections are dataclasses again.
        file: YAML, or None.
        overrides: replace what the file says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown name, a value of the wrong kind or out of range; the message names it.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = read_yaml(file)
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise DPGError(f"{file} holds no settings")
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign or not name:
            raise DPGError(f"an override is written name=value, not {override!r}")
        *sections, last = name.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise DPGError(f"{override!r}: {section} is not a section")
        place[last] = parse_yaml(text, override)
    with refusing(file) if file is not None else nullcontext():
        return _build(kind, _numbers(values), "")


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A settings class from plain values; nested classes from nested mappings."""
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise DPGError(f"unknown settings {', '.join(where + str(n) for n in unknown)}; accepted: {', '.join(names)}")
    try:
        found = {name: _convert(hints[name], value, where + name) for name, value in values.items()}
        return kind(**found)
    except TypeError as error:
        raise DPGError(f"{where or 'settings: '}{error}") from None


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise DPGError(f"{name} is a section, not {value!r}")
        return _build(hint, value, f"{name}.")
    if hint in (Path, Path | None):
        return None if value is None and hint != Path else Path(_of(value, str, name))
    if hint == tuple[Path, ...]:
        return tuple(Path(_of(item, str, name)) for item in (value if isinstance(value, list) else [value]))
    if hint is float:
        return float(_of(value, (int, float), name))
    if hint == tuple[str, ...]:
        return tuple(_of(item, str, name) for item in (value if isinstance(value, list) else [value]))
    if hint in (int, bool, str):
        return _of(value, hint, name)
    if isinstance(value, list):
        return tuple(value)
    return value


def _of(value: Any, kind: Any, name: str) -> Any:
    wrong = isinstance(value, bool) and kind is not bool
    if wrong or not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise DPGError(f"{name} must be {' or '.join(k.__name__ for k in kinds)}, not {value!r}")
    return value
