"""Standard PEFT LoRA directories: reading and writing, without importing peft."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor
from typing_extensions import TypedDict

from dpg_fast.compat.peft import PARAMETER_SUFFIX, rewritten_names
from dpg_fast.personality.stages import CARD_FILE, CharacterCard, read_card
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import replace_directory, write_tensors
from dpg_fast.util.reading import MAX_WEIGHT, checked, read_json, read_tensors

__all__ = ["PeftAdapter", "PeftFormatError", "read_peft", "write_peft"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<site>.+)\.(?P<side>lora_[AB])\.weight")
_OF_ENDS = re.compile(r"\.lora_embedding_[AB]($|\.)|\.base_layer\.weight$|(lm_head|embed_tokens)\.weight$")
_TOKENS = ".token_adapter.trainable_tokens_delta"  # whole rows, not differences, in spite of the name

# Fields that change nothing about what a saved adapter computes, or that are read below.
_READ = frozenset(
    {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}
) | {"trainable_token_indices"}
_HARMLESS = frozenset(
    {
        *(
            "peft_version",
            "auto_mapping",
            "base_model_name_or_path",
            "revision",
            "task_type",
            "inference_mode",
        ),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
        *("fan_in_fan_out", "eva_config", "loftq_config", "corda_config", "lora_ga_config", "runtime_config"),
        *("megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
    }
)
_WHY = {
    "use_dora": "DoRA adapters",
    "modules_to_save": "fully trained modules",
    "target_parameters": "LoRA on bare parameters (such as fused experts)",
    "lora_bias": "trained LoRA biases",
    "layer_replication": "replicated layers",
    "use_qalora": "QALoRA adapters",
    "alora_invocation_tokens": "activated LoRA",
}
# These start from changed base weights, so the adapter is not a change to the original model.
_PLAIN_INIT = (True, False, None, "gaussian", "eva", "orthogonal")


# PEFT's patterns are regular expressions: those that could take exponential time are not run, and all together have a limit.
_RISKY = re.compile(r"\)[*+{]|\{|\(\?(?!:)|\\[1-9]")
_MAX_REPEATS = 3
_MAX_NAME = 256
_SECONDS = 5.0

Number = Annotated[float, Field(gt=-1e6, lt=1e6)]
Rank = Annotated[int, Field(ge=1)]


@with_config(ConfigDict(strict=True, extra="allow"))
class _Stated(TypedDict, total=False):
    """Fields of `adapter_config.json` that are read."""

    base_model_name_or_path: str | None
    r: Rank
    lora_alpha: Number
    use_rslora: bool | None
    rank_pattern: dict[str, Rank] | None
    alpha_pattern: dict[str, Number] | None
    target_parameters: list[str] | None
    trainable_token_indices: list[int] | dict[str, list[int]] | None


class PeftFormatError(DPGError):
    """A directory is not a PEFT LoRA adapter, or uses something that is not supported here."""


@dataclass(frozen=True)
class PeftAdapter:
    """One LoRA adapter as read: y = W x + B (A x), the scaling already multiplied into B.

    Attributes:
        pairs: module name in the base model -> (A [r, in_features], B [out_features, r]), float32.
        base_model: the base model's name or path as the adapter states it, or None.
        card: of a tuned character, its `character.json`; None of other adapters.
        tokens: id -> trained embedding row [width], float32, of the card's stage tokens.
        embedding: path of the embedding that the rows belong to; empty without rows.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    base_model: str | None
    card: CharacterCard | None = None
    tokens: dict[int, Tensor] = field(default_factory=dict)
    embedding: str = ""


def write_peft(
    directory: str | os.PathLike[str],
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    *,
    alpha: float,
    base_model: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    tokens: Mapping[int, Tensor] | None = None,
    embedding: str = "",
    more: Callable[[Path], object] | None = None,
    model_type: str | None = None,
    transposed: bool = False,
) -> Path:
    """Write a PEFT LoRA adapter that `PeftModel.from_pretrained` loads. The directory appears whole or not at
    all.

    Args:
        directory: the directory to make; parents are made too.
        pairs: module name -> (A [r, in_features], B [out_features, r]); one rank r for all.
        alpha: `lora_alpha`; PEFT scales by alpha / r.
        base_model: written as `base_model_name_or_path`.
        dtype: floating dtype of the stored weights.
        overwrite: replace an existing directory.
        tokens: id -> embedding row [width] of trained tokens (`trainable_token_indices`).
        embedding: path of the embedding module that they belong to.
        more: puts other files into the directory before it appears.
        model_type: the base model's `config.model_type`. For some mixtures of experts PEFT takes the names of dense layers for
            those of experts; such layers are written as `target_parameters`, which it leaves alone.
        transposed: the layers are GPT-2's `Conv1D` (`fan_in_fan_out`); the pairs are the same.

    Returns:
        The directory's path.

    Raises:
        FileExistsError: the directory exists and `overwrite` is false.
        ValueError: no pairs, or pairs of different ranks.
    """
    target = Path(directory)
    ranks = {a.shape[0] for a, _ in pairs.values()} | {b.shape[1] for _, b in pairs.values()}
    if len(ranks) != 1:
        raise DPGError(f"an adapter needs pairs of one rank, not of {sorted(ranks) or 'none'}")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; pass overwrite=True to replace it")
    rewritten = rewritten_names(model_type)
    bare = [name for name in pairs if name.rpartition(".")[2] in rewritten]
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in pairs.items():
        for side, weight in (("lora_A", a), ("lora_B", b)):
            tensors[f"{_PREFIX}{name}.{side}.weight"] = weight.detach().to("cpu", dtype).contiguous()
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": os.fspath(base_model),
        "revision": None,
        "inference_mode": True,
        "r": ranks.pop(),
        "lora_alpha": int(alpha) if float(alpha).is_integer() else float(alpha),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": [name for name in pairs if name not in bare],  # whole names, so that no other layer matches
    }
    if bare:
        config["target_parameters"] = [name + PARAMETER_SUFFIX for name in bare]
    if tokens:
        ids = sorted(tokens)
        rows = torch.stack([tokens[number].detach() for number in ids])
        tensors[f"{_PREFIX}{embedding}{_TOKENS}"] = rows.to("cpu", dtype).contiguous()
        config["trainable_token_indices"] = {embedding.rpartition(".")[2]: ids}

    def write(fresh: Path) -> None:
        write_tensors(fresh / _WEIGHTS, tensors, {"format": "pt"})
        (fresh / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if more is not None:
            more(fresh)

    replace_directory(target, write)
    return target


def read_peft(directory: str | os.PathLike[str]) -> PeftAdapter:
    """Read a PEFT LoRA directory.

    Handled: lora_alpha, rslora, rank_pattern, alpha_pattern, any floating dtype; of a tuned character (`character.json`), the
    trained rows of its stage tokens.

    Raises:
        FileNotFoundError: no such directory, or a file of it is missing.
        ValueError: a `character.json` that `read_card` refuses.
        PeftFormatError: not LoRA on linear layers, or a feature that cannot be expressed as B (A x): DoRA,
        biases,
            modules_to_save, trained tokens that are not the stage tokens of a `character.json`, stage tokens without their
            rows, an initialisation that changes the base weights (PiSSA, OLoRA,
            ...), or a field not known here that is set.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"no directory {folder}; a PEFT adapter is a local directory holding {_CONFIG}")
    config = _read_config(folder)
    if not (folder / _WEIGHTS).is_file():
        hint = ""
        if (folder / "adapter_model.bin").is_file():
            hint = "; adapter_model.bin is a pickle and is not read: save the adapter again as safetensors"
        raise FileNotFoundError(f"{folder} has no {_WEIGHTS}{hint}")
    _refuse_unsupported(config, folder)
    tensors = read_tensors(folder / _WEIGHTS, largest=MAX_WEIGHT)
    card = read_card(folder) if (folder / CARD_FILE).is_file() else None
    tokens, embedding = _take_tokens(tensors, config, card, folder)
    sides = _sort_tensors(tensors, folder)
    ranks, alphas = (_Patterns(config, name, folder) for name in ("rank_pattern", "alpha_pattern"))
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for site, found in sides.items():
        if set(found) != {"lora_A", "lora_B"}:
            raise PeftFormatError(f"{folder}: {site} has only {next(iter(found))}")
        a, b = found["lora_A"].float(), found["lora_B"].float()
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            raise PeftFormatError(
                f"{folder}: {site} has A {list(a.shape)} and B {list(b.shape)}; only linear layers, "
                f"A [r, in] and B [out, r], are supported"
            )
        rank = a.shape[0]
        if (stated := ranks.of(site, config.get("r", 8))) != rank:
            raise PeftFormatError(f"{folder}: {site} has rank {rank}, but {_CONFIG} states {stated}")
        alpha = float(alphas.of(site, config.get("lora_alpha", 8)))
        scaled = b * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
        if scaled.numel() and float(scaled.abs().max()) > MAX_WEIGHT:
            raise PeftFormatError(f"{folder}: {site}: with lora_alpha {alpha:g} its weights are above {MAX_WEIGHT:g}")
        pairs[site] = (a, scaled)
    return PeftAdapter(pairs, config.get("base_model_name_or_path") or None, card, tokens, embedding)


def _take_tokens(
    tensors: dict[str, Tensor], config: dict[str, Any], card: CharacterCard | None, folder: Path
) -> tuple[dict[int, Tensor], str]:
    """Take the trained token rows out of `tensors`: id -> row, and the embedding's path."""
    stated = config.get("trainable_token_indices") or []
    groups = list(stated.values()) if isinstance(stated, dict) else [stated] if stated else []
    wanted = {number: token for token, number in card.tokens.items()} if card is not None else {}
    keys = [key for key in tensors if key.endswith(_TOKENS)]
    rows = [tensors.pop(key) for key in keys]
    if len(groups) > 1 or len(rows) > 1:
        raise PeftFormatError(f"{folder}: trained tokens of several embeddings are not supported")
    ids = [int(number) for number in groups[0]] if groups else []
    other = sorted(set(ids) - set(wanted))
    if other:
        what = f"they are not stage tokens of its {CARD_FILE}" if card is not None else f"there is no {CARD_FILE}"
        raise PeftFormatError(f"{folder}: trained token embeddings {other} are not supported: {what}")
    found = rows[0].float() if rows else torch.empty(0, 0)
    if found.dim() != 2 or len(found) != len(ids):
        raise PeftFormatError(f"{folder}: {len(ids)} trained tokens, but rows of shape {list(found.shape)}")
    missing = [f"{token} (id {number})" for number, token in wanted.items() if number not in ids]
    if missing:
        raise PeftFormatError(
            f"{folder}: {CARD_FILE} names the stage tokens {', '.join(missing)}, whose trained embedding rows are not in the "
            "adapter; without them the character has no stages (was it saved without trainable_token_indices?)"
        )
    path = keys[0].removeprefix(_PREFIX).removesuffix(_TOKENS) if keys else ""
    return {number: found[i] for i, number in enumerate(ids)}, path


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {_CONFIG}: it is not a PEFT adapter")
    try:
        return dict(checked(_Stated, read_json(path), path))
    except DPGError as error:
        raise PeftFormatError(str(error)) from error


def _refuse_unsupported(config: dict[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise PeftFormatError(f"{folder}: peft_type is {kind!r}; only LORA adapters are supported")
    if config.get("bias", "none") != "none":
        raise PeftFormatError(f"{folder}: bias={config['bias']!r}; trained biases are not supported")
    init = config.get("init_lora_weights", True)
    if init not in _PLAIN_INIT:
        raise PeftFormatError(
            f"{folder}: init_lora_weights={init!r} changes the base weights; convert the adapter to a "
            f"plain LoRA with peft's save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    for name, value in config.items():
        if name == "target_parameters" and all(str(entry).endswith(PARAMETER_SUFFIX) for entry in value or ()):
            continue  # the weights of linear layers, as `write_peft` names them
        if name not in _READ | _HARMLESS | {"bias"} and value:
            what = _WHY.get(name)
            reason = f"{what} are not supported" if what else "this field is not supported"
            raise PeftFormatError(f"{folder}: {name}={value!r}: {reason}")


def _sort_tensors(tensors: dict[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key.removeprefix(_PREFIX))
        if match is None and _OF_ENDS.search(key):
            raise PeftFormatError(
                f"{folder}: adapters of the output head or the embeddings are not supported, and tensor {key!r} belongs to one "
                "(or to a head or embedding that was saved whole); train the adapter without them in its target_modules"
            )
        if match is None:
            raise PeftFormatError(f"{folder}: tensor {key!r} is not a LoRA weight of a linear layer")
        sides.setdefault(match["site"], {})[match["side"]] = tensor
    if not sides:
        raise PeftFormatError(f"{folder}: {_WEIGHTS} holds no tensor")
    return sides


class _Patterns:
    """A field of patterns by PEFT's rule: the first that matches a name, or its last components, as a regular expression."""

    def __init__(self, config: Mapping[str, Any], field: str, folder: Path) -> None:
        self._where, self._seconds = f"{folder / _CONFIG}: {field}", 0.0
        self._found = [(self._compiled(pattern), value) for pattern, value in (config.get(field) or {}).items()]

    def _compiled(self, pattern: str) -> re.Pattern[str]:
        repeats = pattern.count("*") + pattern.count("+")
        if _RISKY.search(pattern) or repeats > _MAX_REPEATS or len(pattern) > _MAX_NAME:
            raise PeftFormatError(
                f"{self._where}: the pattern {pattern[:80]!r} is not run: it repeats a group, counts, looks around, or has more "
                f"than {_MAX_REPEATS} repetitions or {_MAX_NAME} characters"
            )
        try:
            return re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise PeftFormatError(f"{self._where}: {pattern[:80]!r} is not a pattern ({error})") from error

    def of(self, site: str, default: Any) -> Any:
        """The value for a layer."""
        if len(site) > _MAX_NAME:
            raise PeftFormatError(f"{self._where}: the name of a layer is longer than {_MAX_NAME} characters")
        for pattern, value in self._found:
            started = time.perf_counter()
            matches = pattern.match(site)
            self._seconds += time.perf_counter() - started
            if matches:
                return value
            if self._seconds > _SECONDS:
                raise PeftFormatError(f"{self._where}: these patterns take more than {_SECONDS:g} seconds")
        return default
