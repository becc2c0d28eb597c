"""What a hypernetwork costs: parameters, bytes, work for each token, and the time to generate a personality's weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from dpg_fast.hypernet import AdapterNetwork
from dpg_fast.hypernet.wording import reference_people
from dpg_fast.model.wide import SLOTS
from dpg_fast.model.wrapper import PersonalityModel
from dpg_fast.util.errors import DPGError

__all__ = ["HypernetCost", "hypernet_cost", "time_to_generate"]


@dataclass(frozen=True)
class HypernetCost:
    """Counted, not measured; a multiplication and an addition are two operations.

    Attributes:
        trunk, bank: parameters that train; `fixed`: values that do not (the maps of text encoders).
        file_bytes: of the saved network, bank in bfloat16.
        served_bytes: of the weights that decoding reads, in the model's dtype, at `personalities` distinct personalities.
        flops_per_token: of the LoRA, for one token at so many distinct personalities.
        base_flops_per_token: of the adapted layers' own products, to compare with.
        flops_to_generate: trunk and, for a wide head, the materialised weights of one personality; reading a text not included.
        personalities: see above.
    """

    trunk: int
    bank: int
    fixed: int
    file_bytes: int
    served_bytes: int
    flops_per_token: int
    base_flops_per_token: int
    flops_to_generate: int
    personalities: int

    def __str__(self) -> str:
        share = self.flops_per_token / self.base_flops_per_token
        return (
            f"{self.bank:,} parameters in the bank and {self.trunk:,} in the trunk, "
            f"{self.fixed:,} fixed; {self.file_bytes / 1e6:.1f} MB saved, {self.served_bytes / 1e6:.1f} MB read per step; "
            f"{self.flops_per_token / 1e6:.2f} MFLOP a token at {self.personalities} personalities ({share:.1%} of the adapted "
            f"layers'), {self.flops_to_generate / 1e6:.1f} MFLOP to generate one"
        )


def hypernet_cost(
    network: AdapterNetwork, *, personalities: int = 8, dtype: torch.dtype = torch.bfloat16
) -> HypernetCost:
    """Count the cost of a network.

    A compact bank multiplies every token with its K entries, whatever the number of personalities; a wide head with one entry for
    each slot (8, 16, 32 ...).

    Args:
        network: on a model or not.
        personalities: distinct ones in the batch, at least 1.
        dtype: of the model that serves.

    Raises:
        ValueError: personalities below 1.
    """
    if personalities < 1:
        raise DPGError(f"personalities is at least 1, not {personalities}")
    config = network.config
    wide = config.head == "wide"
    entries = config.codes
    if wide:
        entries = SLOTS
        while entries < personalities:
            entries *= 2
    sizes = sum(site.in_features + site.out_features for site in network.sites) * config.rank
    bank = sum(parameter.numel() for parameter in network.bank.parameters())
    trunk = sum(parameter.numel() for parameter in network.parameters()) - bank
    fixed = sum(buffer.numel() for buffer in network.buffers())
    return HypernetCost(
        trunk=trunk,
        bank=bank,
        fixed=fixed,
        file_bytes=2 * bank + 4 * (trunk + fixed),
        served_bytes=entries * sizes * dtype.itemsize,
        flops_per_token=2 * entries * sizes,
        base_flops_per_token=sum(2 * site.in_features * site.out_features for site in network.sites),
        flops_to_generate=2 * trunk + (2 * config.codes * sizes if wide else 0),
        personalities=personalities,
    )


@torch.no_grad()
def time_to_generate(model: PersonalityModel, repeats: int = 5) -> float:
    """Median seconds until a personality that was never asked for is ready to speak, reading its text included.

    Args:
        model: with a hypernetwork of any encoder but "stored".
        repeats: personalities that are timed, at least 1, after one that is not.
    """
    people = reference_people(repeats + 1, seed=int(time.time_ns() % 2**32))[: repeats + 1]
    times = []
    for person in people:
        begin = time.perf_counter()
        with model.speaking(person, 1):
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    return median(times[1:])
