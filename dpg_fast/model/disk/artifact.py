"""Adapters on disk: a directory of JSON and safetensors, without the base model. Never pickle."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.compat.transformers_models import model_name
from dpg_fast.hypernet import AdapterNetwork, from_config
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.disk.fingerprint import fingerprint, mismatch
from dpg_fast.neurons import SteeringTable
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_atomically, write_text

SCHEMA = "dpg_fast.adapter/1"
CONFIG = "dpg_config.json"
HYPERNET = "hypernet.safetensors"
NEURONS = "neurons.safetensors"
CALIBRATION = "calibration.json"
CARD = "README.md"
PEFT_CONFIG = "adapter_config.json"
FILES = (CONFIG, HYPERNET, NEURONS, CALIBRATION, CARD)
#: adapters for SmolLM2-135M-Instruct that come with the package: name -> directory in assets
PACKAGED = {"smollm2": "smollm2_personality", "smollm2-hypernet": "smollm2_hypernet"}


@dataclass(frozen=True)
class AdapterParts:
    """What an adapter directory holds."""

    hypernet: AdapterNetwork | None
    steering: SteeringTable | None
    calibration: Calibration


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
    """Write an adapter; the configuration comes last, so that a directory with one is complete.

    Args:
        directory: made if needed.
        base_model: as :func:`describe_base` gives it; for lists made elsewhere a name and an ``unsampled`` fingerprint.
        hypernet, steering: the parts, or None.
        calibration: kept beside the steering table.
        notes: Markdown for the card.
        bank_dtype: of the bank in the file; None keeps the masters' float32. Loading gives float32 masters again.
        gathered: the hypernetwork's state where this process holds a part of it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "schema": SCHEMA,
        "base_model": dict(base_model),
        "hypernet": None,
        "neurons": None,
    }
    if hypernet is not None:
        config["hypernet"] = hypernet.to_config()
        state = {
            key: value.detach().to("cpu", bank_dtype if re.search(r"(^|\.)bank\.", key) else None).contiguous()
            for key, value in (gathered or hypernet.state_dict()).items()
        }
        write_atomically(directory / HYPERNET, lambda temporary: save_file(state, temporary))
    if steering is not None:
        config["neurons"] = {str(pole): len(steering.neurons[pole]) for pole in steering.poles}
        steering.save(directory / NEURONS)
        calibration.save(directory / CALIBRATION)
    write_text(directory / CARD, _card(config, notes))
    write_text(directory / CONFIG, json.dumps(config, indent=1) + "\n")


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration of the adapter in ``directory``.

    Raises:
        ValueError: an unknown schema.
    """
    config: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    if config.get("schema") != SCHEMA:
        raise DPGError(f"{directory / CONFIG}: schema {config.get('schema')!r} is not {SCHEMA!r}")
    return config


def load_hypernet(directory: Path) -> dict[str, Tensor]:
    """The hypernetwork's weights in an adapter's directory.

    Raises:
        ValueError: it has none.
    """
    if not (directory / HYPERNET).is_file():
        raise DPGError(f"{directory} has no {HYPERNET}, so there is nothing to load or to resume from")
    return load_file(directory / HYPERNET)


def load(directory: Path, base: nn.Module, *, allow_mismatch: bool) -> AdapterParts:
    """Read an adapter for ``base``.

    Raises:
        ValueError: an unknown schema, a missing file, or an adapter for another base.
    """
    config = read_config(directory)
    made_for = config["base_model"]
    reason = mismatch(made_for["fingerprint"], base, made_for["name"])
    if reason is not None and not allow_mismatch:
        raise DPGError(
            f"the adapter {directory} was made for {made_for['name'] or 'another base model'}, which this model is not, or "
            f"not known to be: {reason}. Neurons and weights belong to one checkpoint; allow_mismatch=True loads them "
            "all the same"
        )
    for part, file in (("hypernet", HYPERNET), ("neurons", NEURONS)):
        if config[part] is not None and not (directory / file).is_file():
            raise DPGError(f"{directory} is incomplete: {file} is missing")
    hypernet: AdapterNetwork | None = None
    if config["hypernet"] is not None:
        hypernet = from_config(config["hypernet"], find_architecture(base, dense_only=True).sites)
        hypernet.load_state_dict(load_hypernet(directory))
    steering, calibration = None, Calibration()
    if config["neurons"] is not None:
        steering = SteeringTable.load(directory / NEURONS)
        if (directory / CALIBRATION).is_file():
            calibration = Calibration.load(directory / CALIBRATION)
    return AdapterParts(hypernet, steering, calibration)


def push(repo_id: str, write: Callable[[Path], None], **kwargs: Any) -> str:
    """Create a model repository if needed and upload what ``write(directory)`` puts into a directory; its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary))
        url = api.create_repo(repo_id, repo_type="model", exist_ok=True, **kwargs)
        api.upload_folder(repo_id=url.repo_id, folder_path=temporary, commit_message="Upload personality adapter")
    return str(url)


def _card(config: dict[str, Any], notes: str) -> str:
    base = config["base_model"]["name"]
    head = ["---", "library_name: dpg_fast", "tags:", "- personality", "- big-five"]
    if "/" in base and not base.startswith(("/", ".")):
        head.insert(2, f"base_model: {base}")
    lines = [*head, "---", "", f"# Personality adapter for {base or 'a causal LM'}", ""]
    lines.append("Gives each row of a batch its own Big Five personality, five numbers from -5 to 5.")
    lines += ["", "| part | contents |", "|---|---|"]
    if config["hypernet"] is not None:
        networks = [config["hypernet"]] if "config" in config["hypernet"] else list(config["hypernet"].values())
        for network in networks:
            settings = network["config"]
            size = f"{settings['codes']} {settings.get('head', 'bank')} entries of rank {settings['rank']}"
            if "names" in network:
                stages = [f"{name}/{stage}" for name, stage, *_ in network.get("stages", {}).get("tokens", [])]
                named = ", ".join(network["names"]) + (f" (stages: {', '.join(stages)})" if stages else "")
                lines.append(f"| stored characters | {named}; {size} |")
            else:
                lines.append(f"| hypernetwork | encoder {settings['encoder']}, {size} |")
    if config["neurons"] is not None:
        counts = ", ".join(f"{pole} {count}" for pole, count in config["neurons"].items())
        lines.append(f"| personality neurons (NPTI, arXiv 2410.12327) | {counts} |")
    lines += [
        "",
        "```python",
        "from dpg_fast import Personality, PersonalityModel",
        "",
        f'model = PersonalityModel.from_pretrained("{base or "BASE"}", "THIS ADAPTER")',
        'model.chat("How was your day?", personality=[Personality("E+4"), Personality("E-4 N+3"), None])',
        "```",
    ]
    if notes:
        lines += ["", notes.strip()]
    return "\n".join(lines) + "\n"
