"""An adapter on disk is the old one or the new one, whole, whatever stops the writing."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpg_fast import Personality, PersonalityModel
from dpg_fast.hypernet.peft_io import read_peft
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.disk import artifact
from dpg_fast.personality.scores import POLES
from tests.model.test_wrapper import personality_model
from tests.model.tiny import prompts, tiny_model
from tests.support.interruption import Interruption, lines_of, places

IDS = prompts(2, 5)
INSIDE = "/dpg_fast/"


@torch.no_grad()
def logits(model: PersonalityModel) -> Tensor:
    found: Tensor = model(IDS, personality=["E+4 N-2", "O-5"]).logits
    return found


def of_seed(seed: int) -> PersonalityModel:
    """One base with weights, neurons and strengths that differ by seed."""
    model = personality_model(tiny_model("llama"), seed=seed)
    model.calibration = Calibration({pole: 0.5 + seed for pole in POLES})
    return model


@pytest.fixture(scope="module")
def two() -> list[PersonalityModel]:
    return [of_seed(1), of_seed(2)]


@pytest.fixture
def adapter(tmp_path: Path, two: list[PersonalityModel]) -> Iterator[Path]:
    """A folder with the first adapter and a file of somebody else."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "notes.txt").write_text("mine")
    two[0].save_pretrained(tmp_path / "adapter")
    yield tmp_path / "adapter"
    assert (tmp_path / "adapter" / "notes.txt").read_text() == "mine"


def which(adapter: Path, two: list[PersonalityModel]) -> int:
    """0 or 1: the adapter in the folder; anything else, a mixture above all, fails."""
    found = logits(PersonalityModel.load(tiny_model("llama"), adapter))
    [number] = [n for n, model in enumerate(two) if torch.allclose(found, logits(model), atol=1e-5)]
    return number


def test_saving_over_an_adapter(adapter: Path, two: list[PersonalityModel]) -> None:
    for number in (1, 0, 0, 1):
        two[number].save_pretrained(adapter)
        assert which(adapter, two) == number
        assert len(list(adapter.iterdir())) == 6, "three parts, configuration, card and the other file"


@pytest.mark.parametrize("most", [20, pytest.param(10_000, marks=pytest.mark.slow)])
def test_interrupted_at_any_line(adapter: Path, two: list[PersonalityModel], most: int) -> None:
    found = places(lines_of(lambda: two[1].save_pretrained(adapter), INSIDE))
    seen = set()
    for at in random.Random(0).sample(found, min(most, len(found))):
        two[0].save_pretrained(adapter)
        with pytest.raises(Interruption):
            lines_of(lambda: two[1].save_pretrained(adapter), INSIDE, at)
        seen.add(which(adapter, two))
    print(f"{min(most, len(found))} interruptions")
    assert seen == {0, 1}
    two[1].save_pretrained(adapter)
    assert len([file for file in adapter.iterdir() if not file.name.startswith(".")]) == 6


def killed_after(seconds: float, call: Callable[[], Any]) -> None:
    """Run ``call`` in a forked process and kill it."""
    child = os.fork()
    if child == 0:
        try:
            call()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_moment(adapter: Path, two: list[PersonalityModel], kills: int) -> None:
    def save_for_ever() -> None:
        while True:
            for model in two:
                model.save_pretrained(adapter)

    for seed in range(kills):
        killed_after(random.Random(seed).uniform(0.01, 0.1), save_for_ever)
        which(adapter, two)


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_peft_folder_is_never_missing(tmp_path: Path, two: list[PersonalityModel], kills: int) -> None:
    folder = tmp_path / "lora"

    wanted = []
    for model in two:
        assert model.hypernet is not None
        wanted.append(read_peft(model.to_peft(Personality("E+5"), folder, overwrite=True)).pairs)

    def save_in_turn() -> None:
        while True:
            for model in two:
                model.to_peft(Personality("E+5"), folder, overwrite=True)

    for seed in range(kills):
        killed_after(random.Random(seed).uniform(0.01, 0.1), save_in_turn)
        found = read_peft(folder).pairs
        assert sum(all(torch.equal(found[site][1], B) for site, (_, B) in pairs.items()) for pairs in wanted) == 1


@pytest.mark.parametrize(
    ("lora", "steer", "limit"), [(True, False, 20_000), (False, True, 8_000), (True, False, 150_000)]
)
def test_a_full_disk_is_an_error_with_the_files_name(
    adapter: Path, two: list[PersonalityModel], lora: bool, steer: bool, limit: int
) -> None:
    """A real limit on the size of files, below the size of one of the parts."""
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    model = personality_model(tiny_model("llama"), seed=2, lora=lora, steer=steer)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"safetensors'|json'") as caught:
            model.save_pretrained(adapter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path(str(caught.value.filename)).parent == adapter
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before
    assert which(adapter, two) == 0


def test_a_configuration_that_cannot_be_written_leaves_the_old_adapter(
    adapter: Path, two: list[PersonalityModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(artifact, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: .*dpg_config\.json"):
        two[1].save_pretrained(adapter)
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before


@pytest.mark.parametrize("name", ["a/b\nlicense: mine", "a/b: c", "../a/b", "org/model"])
def test_the_base_models_name_is_one_value_of_the_card(tmp_path: Path, two: list[PersonalityModel], name: str) -> None:
    artifact.write(
        tmp_path, {"name": name, "fingerprint": artifact.describe_base(two[0].base)["fingerprint"]}, two[0].hypernet, None,
        Calibration(), "",
    )  # fmt: skip
    head = (tmp_path / artifact.CARD).read_text().split("---\n")[1].splitlines()
    wanted = ["base_model: org/model"] if name == "org/model" else []
    assert [line for line in head if line.startswith(("base_model", "license"))] == wanted
