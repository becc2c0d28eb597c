"""What both steps share: checkpoints to continue from, the loss curve, how likely stage tokens are to be said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dpg_fast.compat.transformers_trainer import CHECKPOINT, TRAINER_STATE
from dpg_fast.personified.train.conversations import IGNORED, Row
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text

SETTINGS = "settings.json"


def last_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that is whole; one whose writing was cut short is passed over."""
    found = []
    for state in output.glob(f"{CHECKPOINT}-*/{TRAINER_STATE}"):
        try:
            json.loads(state.read_text(encoding="utf-8"))
            found.append((int(state.parent.name.split("-")[1]), str(state.parent)))
        except ValueError:
            continue
    return max(found)[1] if found else None


def claim(output: Path, settings: Any, free: Sequence[str] = ("trainer",)) -> dict[str, Any]:
    """Keep the settings beside the checkpoints; they are returned JSON-ready.

    Raises:
        ValueError: checkpoints of other settings are there, in more than the ``free`` ones; the message names them.
    """
    told: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=_plain))
    told.pop("output", None)
    file = output / SETTINGS
    if file.is_file() and last_checkpoint(output) is not None:
        before = json.loads(file.read_text(encoding="utf-8"))
        other = [name for name in told if name not in free and told[name] != before.get(name)]
        if other:
            raise DPGError(
                f"{output} holds checkpoints of other settings ({', '.join(other)} differ); choose another output or remove it"
            )
    write_text(file, json.dumps(told, indent=1) + "\n")
    return told


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def curve(trainer: Any) -> list[dict[str, float]]:
    """The trainer's log: a line for each time it logged or evaluated, rounded to six digits."""
    return [
        {name: float(f"{value:.6g}") for name, value in line.items() if isinstance(value, (int, float))}
        for line in trainer.state.log_history
    ]


@torch.inference_mode()
def token_leak(model: Any, rows: Sequence[Row], ids: Sequence[int], limit: int = 64) -> dict[str, float]:
    """How near the stage tokens come to being said: at the assistant's positions of up to ``limit`` rows.

    Returns:
        "probability": their largest probability anywhere; "chosen": share of the positions where one is likeliest.
    """
    if not ids:
        return {"probability": 0.0, "chosen": 0.0}
    training, largest, chosen, count = model.training, 0.0, 0, 0
    model.eval()
    for row in rows[:limit]:
        tokens = torch.tensor([row["input_ids"]], device=model.device)
        learnt = torch.tensor(row["labels"])[1:] != IGNORED
        logits = model(input_ids=tokens).logits[0, :-1][learnt.to(model.device)].float()
        if not len(logits):
            continue
        probability = logits.softmax(-1)[:, list(ids)]
        largest = max(largest, float(probability.max()))
        chosen += int(torch.isin(logits.argmax(-1), torch.tensor(list(ids), device=logits.device)).sum())
        count += len(logits)
    model.train(training)
    return {"probability": largest, "chosen": chosen / count if count else 0.0}
