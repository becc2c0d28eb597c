"""NPTI's way to steer (arXiv 2410.12327), written anew from a description of its released code.

One personality for the whole process. Its neurons are lists of indices; at every call of every layer the opposite pole's
neurons are gathered, capped and put back, a random tenth of the pole's own neurons is left out (drawn on the CPU), and the
rest are gathered, raised and put back. Boolean selections make the device wait for the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.gated_case import GatedCase, PoleList
from benchmarks.kernels.shapes import Work
from benchmarks.kernels.way import Call, Way

KEEP = 0.9
"""NPTI redraws at each call which of the pole's neurons it raises."""


def steered(
    gate: Tensor,
    up: Tensor,
    raised: Sequence[PoleList],
    capped: Sequence[PoleList],
    gamma: Sequence[float],
    keep: float,
) -> Tensor:
    """gate, up [T, I] -> h; caps first, then one addition for each raised pole (NPTI itself steers one trait)."""
    act = F.silu(gate)
    for pole in capped:
        index = pole.index.long()
        act[:, index] = torch.minimum(act[:, index], torch.zeros((), dtype=act.dtype, device=act.device))
    for pole, strength in zip(raised, gamma, strict=True):
        kept = (torch.rand(len(pole.index)) <= keep).to(act.device)
        index, p95, diff = pole.index.long()[kept], pole.p95[kept], pole.diff[kept]
        addition = p95 * strength * torch.sigmoid(10 * (diff - 0.15))
        act[:, index] = (act[:, index] + addition).to(act.dtype)
    return act * up


def _build(traits: int, keep: float) -> object:
    def build(c: GatedCase) -> Call:
        strengths = c.steering.strengths[0].tolist()
        active = [p for p, strength in enumerate(strengths) if strength > 0][:traits]
        lists = [PoleList(c.poles[p].index.int(), c.poles[p].p95, c.poles[p].diff) for p in range(len(c.poles))]
        raised, capped = [lists[p] for p in active], [lists[p ^ 1] for p in active]
        gamma = [strengths[p] for p in active]
        return lambda: steered(c.gate, c.up, raised, capped, gamma, keep)

    return build


def ways(work: Work) -> list[Way[GatedCase]]:
    """One trait, as published, and five traits one after another; one personality for all tokens."""
    one, five = _build(1, KEEP), _build(5, KEEP)
    alone = work.people == 1
    suffix = "" if alone else " (one personality)"
    return [
        Way(f"NPTI's indexing, one trait{suffix}", one, same=False, graph=False),  # type: ignore[arg-type]
        Way(
            f"NPTI's indexing, five traits{suffix}",
            five,  # type: ignore[arg-type]
            same=alone,
            graph=False,
            to_check=_build(5, 1.0),  # type: ignore[arg-type]
        ),
    ]
