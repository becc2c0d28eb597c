"""What a run continues from: its last whole checkpoint, and proof that the checkpoints are of the same run.

Why: docs/decisions.md, "A run continues only its own checkpoints".
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpg_fast.compat.transformers_trainer import CHECKPOINT, TRAINER_STATE
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.fingerprint import mismatch
from dpg_fast.train.settings import TrainSettings
from dpg_fast.util import identity
from dpg_fast.util.identity import file_digest

RUN = "run.json"
_RECORDS, _BASE = "content of data.records", "base model"
_CHECKPOINT = re.compile(rf"{CHECKPOINT}-(\d+)")
#: fields of the Trainer that a run may change on the way: they do not change what is learnt from a step
FREE = ("max_steps", "num_train_epochs", "report_to", "use_cpu", "disable_tqdm", "run_name")
FREE_PREFIXES = ("save_", "logging_", "eval_", "log_", "dataloader_", "hub_", "push_")


def last_whole_checkpoint(directory: Path) -> str | None:
    """The newest checkpoint that was written to its end; a killed run may leave one behind that was not."""
    found = [(int(named.group(1)), path) for path in directory.glob(f"{CHECKPOINT}-*") if (named := _numbered(path))]
    for _, path in sorted(found, reverse=True):
        try:
            json.loads((path / TRAINER_STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def claim(settings: TrainSettings, base: Any) -> None:
    """Note in ``settings.output`` what the run depends on, or check that its checkpoints are of such a run.

    Raises:
        ValueError: they are of a run with other settings, data or another base model; the message names what differs.
    """
    file = settings.output / RUN
    digests = [file_digest(records, 64) for records in settings.data.records]
    about = {**asdict(settings), _RECORDS: digests, _BASE: artifact.describe_base(base)}
    before = identity.claim(file, about, started=last_whole_checkpoint(settings.output) is not None, free=_free)[_BASE]
    if mismatch(before["fingerprint"], base, before["name"]) is not None:  # in another dtype it is the same model
        identity.refuse(file, ["the base model's weights"])


def _numbered(path: Path) -> re.Match[str] | None:
    return _CHECKPOINT.fullmatch(path.name) if path.is_dir() else None


def _free(name: str) -> bool:
    # the digests tell records, the lessons themselves theirs
    if name in ("output", "data.records", "data.lessons") or name.startswith(f"{_BASE}."):
        return True
    field = name.removeprefix("trainer.")
    return field != name and (field in FREE or field.startswith(FREE_PREFIXES))
