"""What a search leaves on disk, so that a killed one continues and a finished one can be chosen from again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import nn
from typing_extensions import TypedDict

from dpg_fast.neurons.statistics import ActivationCounter, PoleStatistics
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.util.files import write_tensors
from dpg_fast.util.identity import claim, digest
from dpg_fast.util.reading import checked, open_tensors, read_tensors

IDENTITY = "search.json"
RUNNING = "running.safetensors"


class Checkpoint:
    """The directory of one search.

    While it runs: the counter's tables and the number of answers done, in one file, replaced atomically. Afterwards: one
    small file of statistics for each pole.

    Args:
        directory: made if needed.
        about: the search, see :func:`identity`.

    Raises:
        ValueError: the directory holds another search; the message names what differs.
    """

    def __init__(self, directory: Path, about: Mapping[str, Any]) -> None:
        self.directory = directory
        claim(directory / IDENTITY, about)

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
        write_tensors(self.directory / RUNNING, tensors, about)

    def resume(self, counter: ActivationCounter) -> int:
        """Fill the counter with what was last written; the number of answers done, 0 when nothing was."""
        file = self.directory / RUNNING
        if not file.exists():
            return 0
        with open_tensors(file) as stored:
            done = checked(_About, stored.metadata() or {}, f"{file}: metadata")["done"]
        counter.restore(read_tensors(file, counter.state()))
        return int(done)

    def finish(self, statistics: Mapping[Pole, PoleStatistics]) -> None:
        """Write every pole's statistics and remove the running tables."""
        for pole, found in statistics.items():
            found.save(self._file(pole))
        (self.directory / RUNNING).unlink(missing_ok=True)

    def _file(self, pole: Pole) -> Path:
        return self.directory / _name(pole)


class _About(TypedDict):
    done: Annotated[int, Field(ge=0)]


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
) -> dict[str, Any]:
    """Everything that a search's statistics depend on: settings, digests of the texts, a sample of the weights."""
    return {
        "settings": dict(settings),
        "questions": {trait.value: digest(list(texts), 16) for trait, texts in questions.items()},
        "descriptions": {str(pole): digest(list(texts), 16) for pole, texts in descriptions.items()},
        "weights": [float(p.detach().float().abs().mean()) for p in list(model.parameters())[:4]],
    }
