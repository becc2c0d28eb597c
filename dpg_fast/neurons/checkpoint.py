"""What a search leaves on disk, so that a killed one continues and a finished one can be chosen from again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from dpg_fast.neurons.statistics import ActivationCounter, PoleStatistics
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_atomically, write_text

IDENTITY = "search.sha256"
RUNNING = "running.safetensors"


class Checkpoint:
    """The directory of one search.

    While it runs: the counter's tables and the number of answers done, in one file, replaced atomically. Afterwards: one
    small file of statistics for each pole.

    Args:
        directory: made if needed.
        key: of the search, see :func:`identity`.

    Raises:
        ValueError: the directory holds another search.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.directory = directory
        marker = directory / IDENTITY
        if not marker.exists():
            write_text(marker, key)
        elif marker.read_text().strip() != key:
            raise DPGError(f"{directory} holds another search (other model, texts or settings); use an empty directory")

    def finished(self, poles: Sequence[Pole]) -> dict[Pole, PoleStatistics] | None:
        """The statistics of a search that ran to its end, or None."""
        files = {pole: self._file(pole) for pole in poles}
        if not all(file.exists() for file in files.values()):
            return None
        return {pole: PoleStatistics.load(file) for pole, file in files.items()}

    def save(self, counter: ActivationCounter, done: int) -> None:
        """Write the tables after ``done`` answers."""
        tensors = {name: table.cpu() for name, table in counter.state().items()}
        about = {"done": str(done)}
        write_atomically(self.directory / RUNNING, lambda temporary: save_file(tensors, temporary, about))

    def resume(self, counter: ActivationCounter) -> int:
        """Fill the counter with what was last written; the number of answers done, 0 when nothing was."""
        file = self.directory / RUNNING
        if not file.exists():
            return 0
        with safe_open(file, framework="pt") as stored:
            counter.restore({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
            return int(stored.metadata()["done"])

    def finish(self, statistics: Mapping[Pole, PoleStatistics]) -> None:
        """Write every pole's statistics and remove the running tables."""
        for pole, found in statistics.items():
            found.save(self._file(pole))
        (self.directory / RUNNING).unlink(missing_ok=True)

    def _file(self, pole: Pole) -> Path:
        return self.directory / _name(pole)


def remove_checkpoint(directory: Path) -> None:
    """Delete a search's files, and the directory if nothing else is in it."""
    for name in (IDENTITY, RUNNING, *map(_name, POLES)):
        (directory / name).unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()


def _name(pole: Pole) -> str:
    return f"{pole.trait.value}_{'high' if pole.high else 'low'}.safetensors"


def identity(
    model: nn.Module,
    questions: Mapping[Trait, Sequence[str]],
    descriptions: Mapping[Pole, Sequence[str]],
    settings: Mapping[str, Any],
) -> str:
    """A digest of everything that a search's statistics depend on: texts, generation settings, a sample of the weights."""
    texts = [{str(k): list(v) for k, v in m.items()} for m in (questions, descriptions)]
    weights = [float(p.detach().float().abs().mean()) for p in list(model.parameters())[:4]]
    return hashlib.sha256(json.dumps([texts, dict(settings), weights], sort_keys=True).encode()).hexdigest()
