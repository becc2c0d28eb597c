"""What a training step of the hypernetwork costs beside PEFT training one LoRA: ``python -m benchmarks.training``.

SmolLM2-135M; the same batch and the same loss on the same positions: rows with a personality each, or one for all, through the
hypernetwork, against one LoRA adapter of the same rank on the same layers for all rows. Forward, backward and the optimizer's
step, in turn, in one process; processor time is compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model

from benchmarks.turns import print_ratios, processor_seconds
from dpg_fast.hypernet import HypernetConfig
from dpg_fast.model import PersonalityModel
from dpg_fast.train.loss import target_loss
from dpg_fast.util.smollm2 import load_smollm2

PROMPT, ANSWER = 62, 44
PEFT = "PEFT, one LoRA"


def measure(dtype: torch.dtype, rank: int, codes: int, rows: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of each round and way."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40000, (rows, PROMPT + ANSWER), generator=generator)
    mask = torch.ones_like(ids)
    personality = torch.randint(-5, 6, (rows, 5), generator=generator).float()
    following = ids[:, PROMPT:].reshape(-1, 1)

    def loss(model: torch.nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
        output = model(
            input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1, output_hidden_states=True, **inputs
        )
        hidden = output.hidden_states[-1][:, PROMPT - 1 : -1].reshape(len(following), -1)
        logits = model.get_output_embeddings()(hidden)  # type: ignore[operator]
        return target_loss(logits, following, torch.zeros(len(following), 1)) / len(following)

    def step(model: torch.nn.Module, **inputs: torch.Tensor) -> Callable[[], None]:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

        def run() -> None:
            loss(model, **inputs).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    wrapped = PersonalityModel.from_model(load_smollm2(dtype=dtype)[0], hypernet=HypernetConfig(rank=rank, codes=codes))
    assert wrapped.hypernet is not None
    wrapped.hypernet.randomize_(generator)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    peft = get_peft_model(load_smollm2(dtype=dtype)[0], LoraConfig(r=rank, lora_alpha=16, target_modules=targets))
    ways = {
        PEFT: step(peft),
        "hypernetwork, one personality": step(wrapped, personality=personality[:1].expand(rows, 5)),
        "hypernetwork, mixed personalities": step(wrapped, personality=personality),
    }
    return processor_seconds(ways, rounds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--codes", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    times = measure(getattr(torch, options.dtype), options.rank, options.codes, options.rows, options.rounds)
    size = f"{options.rows} rows of {PROMPT + ANSWER} tokens, rank {options.rank}, {options.codes} codes"
    print_ratios(f"SmolLM2-135M, {options.dtype}, {size}", times, PEFT)


if __name__ == "__main__":
    main()
