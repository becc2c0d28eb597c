"""What a run continues from: its last whole checkpoint, and proof that the checkpoints are of the same run.

Why: docs/decisions.md, "A run continues only its own checkpoints".
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpg_fast.compat.transformers_trainer import CHECKPOINT, TRAINER_STATE
from dpg_fast.model import artifact
from dpg_fast.model.fingerprint import mismatch
from dpg_fast.train.settings import TrainSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text

RUN = "run.json"
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
    about = {"settings": _flat(asdict(settings)), "records": _digests(settings.data.records)}
    about = json.loads(json.dumps(about, default=str))
    if not file.exists() or last_whole_checkpoint(settings.output) is None:
        about["base_model"] = artifact.describe_base(base)
        write_text(file, json.dumps(about, indent=1) + "\n")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    old, new = before["settings"], about["settings"]
    # settings outside "trainer" that an older version did not have are at their defaults
    names = [name for name in sorted({*old, *new}) if name in old or name.startswith("trainer.")]
    other = [name for name in names if old.get(name) != new.get(name) and not _free(name)]
    if before["records"] != about["records"]:
        other.append("the content of data.records")
    if mismatch(before["base_model"]["fingerprint"], base, before["base_model"]["name"]) is not None:
        other.append("the base model's weights")
    if other:
        raise DPGError(
            f"{settings.output} holds checkpoints of another run (other {', '.join(other)}); name another output or remove it"
        )


def _numbered(path: Path) -> re.Match[str] | None:
    return _CHECKPOINT.fullmatch(path.name) if path.is_dir() else None


def _flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{where}{name}.")
        else:
            found[where + name] = value
    return found


def _free(name: str) -> bool:
    if name in (
        "output",
        "data.records",
        "data.lessons",
    ):  # the digests below tell records, the lessons themselves theirs
        return True
    field = name.removeprefix("trainer.")
    return field != name and (field in FREE or field.startswith(FREE_PREFIXES))


def _digests(files: tuple[Path, ...]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
