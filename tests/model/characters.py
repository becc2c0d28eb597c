"""Small tuned characters: PEFT LoRA directories with stage tokens, written by PEFT itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dpg_fast.model.disk.fingerprint import fingerprint
from dpg_fast.personality.stages import CharacterCard, stage_token, write_card

STAGES = {"early": "TIME-I", "late": "TIME-II"}


def write_character(
    base: Any,
    directory: Path,
    name: str,
    seed: int,
    *,
    stages: Mapping[str, str] | None = None,
    rank: int = 4,
    targets: tuple[str, ...] = ("q_proj", "v_proj", "down_proj"),
    tokenizer: Any = None,
    std: float = 0.1,
) -> Any:
    """An adapter of ``base`` with random weights; the PEFT model that it is a save of, for comparison.

    Stage tokens get ids behind the base's vocabulary, or, with a tokenizer, behind that of the tokenizer.
    """
    import peft

    stages = STAGES if stages is None else stages
    grown = copy.deepcopy(base)
    first = base.get_input_embeddings().num_embeddings
    if tokenizer is not None:
        from transformers import AddedToken

        tokenizer = copy.deepcopy(tokenizer)
        new = [AddedToken(stage_token(label), normalized=False, special=True) for label in stages.values()]
        tokenizer.add_tokens(new, special_tokens=True)
        ids = [tokenizer.convert_tokens_to_ids(stage_token(label)) for label in stages.values()]
    else:
        ids = [first + i for i in range(len(stages))]
    if ids and max(ids) >= first:
        grown.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=3 * rank,
        target_modules=list(targets),
        trainable_token_indices=ids or None,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(grown, config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key or "trainable_tokens" in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * (std if "lora_B" in key else 0.3))
            elif "lora_A" in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
    model.save_pretrained(str(directory), save_embedding_layers=False)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    tokens = {stage_token(label): number for label, number in zip(stages.values(), ids, strict=True)}
    write_card(directory, CharacterCard(name, dict(stages), tokens, "base", fingerprint(base)))
    return model
