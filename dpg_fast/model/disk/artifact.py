"""Adapters on disk: a directory of JSON and safetensors, without the base model. Never pickle.

The configuration names the other files and is written last, in one step. A new adapter's files get names that the one in place
does not use, so the directory holds the old adapter or the new one, whole, whatever stops the writing.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NotRequired

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.compat.transformers_models import model_name
from dpg_fast.hypernet import AdapterNetwork, from_config
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.disk.card import card
from dpg_fast.model.disk.fingerprint import Fingerprint, fingerprint, mismatch
from dpg_fast.neurons import SteeringTable
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_tensors, write_text
from dpg_fast.util.reading import MAX_WEIGHT, STRICT, checked, read_json, read_tensors, refusing

SCHEMA = "dpg_fast.adapter/1"
CONFIG = "dpg_config.json"
HYPERNET = "hypernet.safetensors"
NEURONS = "neurons.safetensors"
CALIBRATION = "calibration.json"
CARD = "README.md"
PEFT_CONFIG = "adapter_config.json"
Part = Literal["hypernet", "neurons", "calibration"]
#: part -> the two names that its file may have
NAMES: dict[Part, tuple[str, str]] = {
    "hypernet": (HYPERNET, "hypernet.1.safetensors"),
    "neurons": (NEURONS, "neurons.1.safetensors"),
    "calibration": (CALIBRATION, "calibration.1.json"),
}
FILES = (CONFIG, CARD, *(name for names in NAMES.values() for name in names))
#: adapters for SmolLM2-135M-Instruct that come with the package: name -> directory in assets
PACKAGED = {"smollm2": "smollm2_personality", "smollm2-hypernet": "smollm2_hypernet"}


@with_config(STRICT)
class BaseEntry(TypedDict):
    """What a configuration says of the base model."""

    name: str
    fingerprint: Fingerprint


@with_config(ConfigDict(strict=True, extra="allow"))
class Configuration(TypedDict):
    """``dpg_config.json``. Without ``files``, as in earlier ones, the parts have their first names."""

    schema: str
    base_model: BaseEntry
    hypernet: dict[str, Any] | None
    neurons: dict[str, int] | None
    files: NotRequired[dict[Part, str]]
    notes: NotRequired[str]


@dataclass(frozen=True)
class AdapterParts:
    """What an adapter directory holds."""

    hypernet: AdapterNetwork | None
    steering: SteeringTable | None
    calibration: Calibration
    notes: str


def packaged(name: str) -> Path:
    """Directory of an adapter that comes with the package: of `PACKAGED`."""
    return Path(str(resources.files("dpg_fast").joinpath("assets", PACKAGED[name])))


def locate(adapter: str | Path) -> Path:
    """A local directory for ``adapter``: itself, one of the package's by name, or a download of that Hub repository.

    Raises:
        ValueError: it is none of them.
    """
    directory = Path(adapter)
    if adapter in PACKAGED and not directory.is_dir():
        return packaged(str(adapter))
    if directory.is_dir():
        return _checked(directory, adapter)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(str(adapter), allow_patterns=[*FILES, PEFT_CONFIG]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DPGError(
            f"{adapter} is neither a directory, nor one of {', '.join(PACKAGED)}, nor a repository on the Hub ({error})"
        ) from error
    return _checked(found, adapter)


def _checked(directory: Path, adapter: str | Path) -> Path:
    """``directory`` if it holds an adapter of ours."""
    if (directory / CONFIG).is_file():
        return directory
    if (directory / PEFT_CONFIG).is_file():
        raise DPGError(
            f"{adapter} is a PEFT adapter, which speaks as a character: wrap the base model alone, by from_pretrained(base), "
            f'and call add_characters({{"name": directory}}), or give from_model() characters={{"name": directory}}'
        )
    raise DPGError(f"{adapter} is not an adapter: it has no {CONFIG}")


def describe_base(base: nn.Module) -> dict[str, Any]:
    """Name and fingerprint of a base model, as the configuration stores them."""
    return {"name": model_name(base), "fingerprint": fingerprint(base)}


def write(
    directory: Path,
    base_model: Mapping[str, Any],
    hypernet: AdapterNetwork | None,
    steering: SteeringTable | None,
    calibration: Calibration,
    notes: str,
    bank_dtype: torch.dtype | None = None,
    gathered: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter, in place of the one that the directory may hold.

    Args:
        directory: made if needed.
        base_model: as :func:`describe_base` gives it; for lists made elsewhere a name and an ``unsampled`` fingerprint.
        hypernet, steering: the parts, or None.
        calibration: kept beside the steering table.
        notes: Markdown for the card, kept in the configuration too.
        bank_dtype: of the bank in the file; None keeps the masters' float32. Loading gives float32 masters again.
        gathered: the hypernetwork's state where this process holds a part of it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    present = {"hypernet": hypernet, "neurons": steering, "calibration": steering}
    parts: list[Part] = [part for part in NAMES if present[part] is not None]
    files = {part: _free(directory, part) for part in parts}
    config: dict[str, Any] = {
        "schema": SCHEMA,
        "base_model": dict(base_model),
        "hypernet": None,
        "neurons": None,
        "files": files,
        "notes": notes,
    }
    try:
        if hypernet is not None:
            config["hypernet"] = hypernet.to_config()
            state = {
                key: value.detach().to("cpu", bank_dtype if re.search(r"(^|\.)bank\.", key) else None).contiguous()
                for key, value in (gathered or hypernet.state_dict()).items()
            }
            write_tensors(directory / files["hypernet"], state)
        if steering is not None:
            config["neurons"] = {str(pole): len(steering.neurons[pole]) for pole in steering.poles}
            steering.save(directory / files["neurons"])
            calibration.save(directory / files["calibration"])
        write_text(directory / CONFIG, json.dumps(config, indent=1) + "\n")
    finally:
        _remove_unused(directory)
    write_text(directory / CARD, card(config, calibration, notes))


def _remove_unused(directory: Path) -> None:
    """Remove parts that the adapter in place, if there is one, does not use."""
    try:
        used = set(_files(read_config(directory)).values())
    except (OSError, DPGError):
        return
    for name in {name for names in NAMES.values() for name in names} - used:
        (directory / name).unlink(missing_ok=True)


def _free(directory: Path, part: Part) -> str:
    """The first name of a part's file that the adapter in ``directory`` does not use."""
    first, second = NAMES[part]
    try:
        used = _files(read_config(directory)).get(part)
    except (OSError, DPGError):  # no adapter, or none that could be loaded
        used = None
    return second if used == first else first


def _files(config: Mapping[str, Any]) -> dict[Part, str]:
    there: list[Part] = [part for part, key in _KEYS.items() if config[key] is not None]
    return {part: config.get("files", {}).get(part, NAMES[part][0]) for part in there}


_KEYS: dict[Part, str] = {"hypernet": "hypernet", "neurons": "neurons", "calibration": "neurons"}


def part_file(directory: Path, part: Part) -> Path | None:
    """The file of a part of the adapter in ``directory``; None if it has no such part. Errors as `read_config`."""
    name = _files(read_config(directory)).get(part)
    return None if name is None else directory / name


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration of the adapter in ``directory``.

    Raises:
        ValueError: an unknown schema, or a field that is missing or not what it should be.
    """
    path = directory / CONFIG
    config: dict[str, Any] = read_json(path)
    found = config.get("schema") if isinstance(config, dict) else None
    if found != SCHEMA:
        raise DPGError(f"{path}: schema {found!r} is not {SCHEMA!r}")
    checked(Configuration, config, path)
    for part, name in config.get("files", {}).items():
        if name not in NAMES[part]:
            raise DPGError(f"{path}: files.{part} is {name!r}, not one of {', '.join(NAMES[part])}")
    return config


def load_hypernet(directory: Path, network: AdapterNetwork) -> None:
    """Put the weights in an adapter's directory into a network, which may lie on the meta device.

    Raises:
        ValueError: it has none, or they are of another network.
    """
    file = part_file(directory, "hypernet") if (directory / CONFIG).is_file() else None
    if file is None or not file.is_file():
        raise DPGError(f"{directory} has no {HYPERNET}, so there is nothing to load or to resume from")
    state = network.state_dict()
    network.load_state_dict(
        read_tensors(file, state, largest=MAX_WEIGHT), assign=any(tensor.is_meta for tensor in state.values())
    )


def load(directory: Path, base: nn.Module, *, allow_mismatch: bool) -> AdapterParts:
    """Read an adapter for ``base``.

    Raises:
        ValueError: an unknown schema, a missing or damaged file, or an adapter for another base.
    """
    config = read_config(directory)
    files = {part: directory / name for part, name in _files(config).items()}
    made_for = config["base_model"]
    reason = mismatch(made_for["fingerprint"], base, made_for["name"])
    if reason is not None and not allow_mismatch:
        raise DPGError(
            f"the adapter {directory} was made for {made_for['name'] or 'another base model'}, which this model is not, or "
            f"not known to be: {reason}. Neurons and weights belong to one checkpoint; allow_mismatch=True loads them "
            "all the same"
        )
    for part, file in files.items():
        if part != "calibration" and not file.is_file():
            raise DPGError(f"{directory} is incomplete: {file.name} is missing")
    architecture = find_architecture(base, dense_only=True)
    hypernet: AdapterNetwork | None = None
    if config["hypernet"] is not None:
        with refusing(f"{directory / CONFIG}: hypernet"), torch.device("meta"):  # no memory before the file is compared
            hypernet = from_config(config["hypernet"], architecture.sites)
        load_hypernet(directory, hypernet)
    steering, calibration = None, Calibration()
    if config["neurons"] is not None:
        steering = SteeringTable.load(files["neurons"], (architecture.num_layers, architecture.intermediate))
        if files["calibration"].is_file():
            calibration = Calibration.load(files["calibration"])
    return AdapterParts(hypernet, steering, calibration, config.get("notes", ""))


def push(repo_id: str, write: Callable[[Path], None], **kwargs: Any) -> str:
    """Create a model repository if needed and upload what ``write(directory)`` puts into a directory; its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary))
        url = api.create_repo(repo_id, repo_type="model", exist_ok=True, **kwargs)
        api.upload_folder(repo_id=url.repo_id, folder_path=temporary, commit_message="Upload personality adapter")
    return str(url)
