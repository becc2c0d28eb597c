"""What both steps share: checkpoints to continue from, the loss curve, how likely stage tokens are to be said."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dpg_fast.personified.train.conversations import IGNORED, Row
from dpg_fast.train.resume import last_whole_checkpoint
from dpg_fast.util import identity
from dpg_fast.util.identity import plain

SETTINGS = "settings.json"


def claim(output: Path, settings: Any) -> dict[str, Any]:
    """Keep the settings beside the checkpoints; they are returned JSON-ready.

    Raises:
        ValueError: checkpoints of other settings, those of the trainer aside, are there; the message names them.
    """
    told = plain(dataclasses.asdict(settings))
    told.pop("output", None)
    started = last_whole_checkpoint(output) is not None
    identity.claim(output / SETTINGS, told, started=started, free=lambda name: name.startswith("trainer"))
    return told


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
