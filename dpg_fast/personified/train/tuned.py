"""Tuned characters as models: stage tokens and their rows, LoRA adapters of PEFT, loading, merging.

A stage's token is a new row of the embeddings. Where input and output embeddings are tied, the row is one of the output as well;
generation is told never to choose it (``suppress_tokens``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dpg_fast.compat.peft import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DEFAULT_ADAPTER,
    TRAINED_TOKEN_IDS,
    TRAINED_TOKENS,
    WRAPPED_MODULE,
    adapters,
)
from dpg_fast.model.disk.fingerprint import mismatch
from dpg_fast.model.stage_embedding import check_stage_tokens
from dpg_fast.personality.stages import CharacterCard, read_card, stage_token, write_card
from dpg_fast.personified.train.settings import LoraSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import replace_directory, write_text
from dpg_fast.util.models import load_base
from dpg_fast.util.reading import checked, open_tensors, read_json

TRAINING = "training.json"


def add_stages(base: Any, tokenizer: Any, labels: Iterable[str]) -> dict[str, int]:
    """Add the tokens of temporal labels to the tokenizer, and rows for them to the model; token -> id.

    Tokens that are there already keep their rows.

    Raises:
        UnsupportedArchitectureError: the model looks tokens up in more than one embedding.
    """
    from transformers import AddedToken

    tokens = [stage_token(label) for label in labels]
    known = tokenizer.get_vocab()
    new = [AddedToken(token, normalized=False, special=True) for token in tokens if token not in known]
    if new:
        check_stage_tokens(base)
        tokenizer.add_tokens(new, special_tokens=True)
        enlarge(base, [tokenizer.convert_tokens_to_ids(token.content) for token in new])
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokens}


def enlarge(base: Any, ids: Iterable[int]) -> None:
    """Give the tokens ``ids`` rows of their own, in the embeddings and the output.

    A new row is drawn around the mean of all rows, by its id alone: two models of one base get the same. Some models have spare
    rows, which are used.
    """
    ids = list(ids)
    rows = base.get_input_embeddings().weight.shape[0]
    if max(ids, default=0) >= rows:
        base.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    head = base.get_output_embeddings()
    weights = {
        w.data_ptr(): w
        for w in (base.get_input_embeddings().weight, head.weight if head is not None else None)
        if w is not None
    }
    for weight in weights.values():
        with torch.no_grad():
            old = weight[: min(ids, default=rows)].float()
            mean, spread = old.mean(0), old.std(0)
            for index in ids:
                noise = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(index))
                weight[index] = (mean + spread * noise.to(mean.device)).to(weight.dtype)


def suppress(model: Any, ids: Iterable[int]) -> None:
    """Tell ``generate`` never to choose these tokens."""
    config = model.generation_config
    config.suppress_tokens = sorted({*(config.suppress_tokens or []), *ids})


def add_lora(base: Any, lora: LoraSettings, tokens: Mapping[str, int]) -> Any:
    """A PEFT model with a fresh LoRA adapter whose rows for the stage tokens are trained as well."""
    from peft import LoraConfig, get_peft_model

    targets = lora.targets[0] if lora.targets == ("all-linear",) else list(lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        trainable_token_indices=sorted(tokens.values()) or None,
        task_type="CAUSAL_LM",
    )
    return with_plain_head(get_peft_model(base, config))


def with_plain_head(model: Any) -> Any:
    """TRL reads the output layer's bias, which PEFT's wrapper of trained rows does not pass on (trl 1.16, peft 0.21).

    Raises:
        ValueError: the wrapped layer has a bias, which PEFT leaves out of its products (peft issue 3649).
    """
    head = model.get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        if getattr(getattr(head, WRAPPED_MODULE, None), "bias", None) is not None:
            raise DPGError("the output layer is tied to the embeddings and has a bias: PEFT cannot train tokens of it")
        head.bias = None
    return model


def save_tuned(directory: Path, model: Any, tokenizer: Any, card: CharacterCard, training: Mapping[str, Any]) -> None:
    """Write a tuned character, whole or not at all: adapter (or model), tokenizer, ``character.json``, ``training.json``.

    Args:
        directory: is replaced.
        model: a PEFT model, whose adapter "default" is written, or a whole model.
        tokenizer: with the stage tokens.
        card: of the character.
        training: how it was trained and what came out, JSON-ready.
    """

    def write(fresh: Path) -> None:
        if adapters(model) is not None:
            model.save_pretrained(fresh, selected_adapters=[DEFAULT_ADAPTER], save_embedding_layers=False)
            (fresh / "README.md").unlink(missing_ok=True)  # PEFT's blank form
        else:
            suppress(model, card.tokens.values())
            model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        write_text(fresh / TRAINING, json.dumps(training, indent=1) + "\n")
        write_card(fresh, card)

    replace_directory(directory, write)


def is_adapter(directory: Path) -> bool:
    """Whether ``directory`` holds an adapter rather than a whole model."""
    return (directory / ADAPTER_CONFIG).is_file()


def read_training(directory: Path) -> dict[str, Any]:
    """``training.json`` of a tuned character; empty where there is none."""
    file = directory / TRAINING
    return checked(dict[str, Any], read_json(file), file) if file.is_file() else {}


def check_tuned(directory: Path) -> tuple[CharacterCard, Any]:
    """Card and tokenizer of a tuned character, checked to fit each other and the trained rows.

    Raises:
        FileNotFoundError: no ``character.json``.
        ValueError: the tokenizer lacks the stage tokens, has them under other ids, or their rows are missing.
    """
    from transformers import AutoTokenizer

    card = read_card(directory)
    if card.tokens and not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise DPGError(f"{directory} has no tokenizer, so the stage tokens {', '.join(card.tokens)} are unknown")
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    check_tokenizer(tokenizer, card)
    if is_adapter(directory):
        _check_rows(directory, card)
    return card, tokenizer


def check_tokenizer(tokenizer: Any, card: CharacterCard) -> None:
    """Refuse a tokenizer that does not have a character's stage tokens.

    Raises:
        ValueError: tokens are missing; the message names them.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in card.tokens if token not in known]
    if missing:
        raise DPGError(
            f"the tokenizer does not know {', '.join(missing)} of {card.character}: take the one in the character's directory, "
            "not the base model's"
        )
    moved = {token: known[token] for token, index in card.tokens.items() if known[token] != index}
    if moved:
        raise DPGError(f"{card.character} was trained with {card.tokens}, but the tokenizer has {moved}")


def _check_rows(directory: Path, card: CharacterCard) -> None:
    config = checked(dict[str, Any], read_json(directory / ADAPTER_CONFIG), directory / ADAPTER_CONFIG)
    listed = config.get(TRAINED_TOKEN_IDS) or []
    if isinstance(listed, dict):
        listed = [index for indices in listed.values() for index in indices]
    if not (directory / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"{directory} has no {ADAPTER_WEIGHTS}")
    with open_tensors(directory / ADAPTER_WEIGHTS) as file:
        counts = [file.get_slice(key).get_shape()[0] for key in file.keys() if TRAINED_TOKENS in key]  # noqa: SIM118
    absent = sorted(token for token, index in card.tokens.items() if index not in listed)
    if absent or (card.tokens and set(counts) != {len(listed)}):
        raise DPGError(
            f"{directory}: the trained rows of the stage tokens {', '.join(absent or sorted(card.tokens))} are missing from the "
            "adapter, and without them the stages mean nothing"
        )


def load_tuned(
    directory: str | Path,
    base: Any = None,
    *,
    dtype: torch.dtype = torch.float32,
    merge: bool = False,
    trainable: bool = False,
) -> tuple[Any, Any, CharacterCard]:
    """(model, tokenizer, card) of a tuned character, as PEFT and transformers have it; stage tokens are never generated.

    Args:
        directory: ``adapter`` or ``model`` of a run.
        base: for an adapter, its base model or its name; it is enlarged in place.
        dtype: of models that are loaded here.
        merge: give a plain model with the adapter merged into its weights.
        trainable: the adapter is to be trained on.

    Raises:
        FileNotFoundError: not a tuned character's directory.
        ValueError: tokens or their rows are missing, or the base model is another one.
    """
    directory = Path(directory)
    card, tokenizer = check_tuned(directory)
    if not is_adapter(directory):
        model, _ = load_base(str(directory), dtype)
        if model.get_input_embeddings().weight.shape[0] <= max(card.tokens.values(), default=-1):
            raise DPGError(f"{directory}: the model has no rows for the stage tokens {', '.join(card.tokens)}")
        suppress(model, card.tokens.values())
        return model, tokenizer, card
    from peft import PeftModel

    if base is None or isinstance(base, str):
        base, _ = load_base(base or card.base_model, dtype)
    if card.fingerprint is not None:
        reason = mismatch(card.fingerprint, base, card.base_model)
        if reason is not None:
            raise DPGError(f"{directory} was trained for {card.base_model or 'another model'}, not this one: {reason}")
    enlarge(base, card.tokens.values())
    model = with_plain_head(PeftModel.from_pretrained(base, str(directory), is_trainable=trainable))
    if merge:
        model = model.merge_and_unload()
    suppress(model, card.tokens.values())
    return model.eval(), tokenizer, card
