"""Random arguments for the kernels, and the unfused torch computations they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpg_fast.kernels import POLES, GatedLora, Steering, isas

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ISAS = isas()

# (tokens, K, rank, d_in, d_out): odd widths, empty and single batches, every tile remainder.
SIZES = (
    (60, 1, 1, 1, 1),
    (1, 6, 8, 63, 130),
    (0, 6, 8, 63, 63),
    (3, 6, 8, 63, 193),
    (8, 6, 8, 576, 193),
    (7, 5, 3, 193, 63),
    (15, 7, 5, 17, 33),
    (33, 2, 16, 130, 127),
    (37, 64, 2, 31, 47),
    (20, 3, 64, 65, 16),
    (40, 13, 1, 100, 257),
    (9, 3, 130, 33, 47),
    (5, 2, 512, 31, 20),
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(g: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=g).to(dtype)


def random_slots(g: torch.Generator, tokens: int, slots: int) -> Tensor:
    """Slots from -1 up; the base model's -1 appears whenever there are two tokens or more."""
    s = torch.randint(0, slots, (tokens,), generator=g, dtype=torch.int32)
    s[1::3] = -1
    return s


@dataclass
class Lora:
    """Arguments of lora_add, with four slots."""

    y: Tensor
    x: Tensor
    A: Tensor
    B: Tensor
    codes_a: Tensor
    codes_b: Tensor
    slots: Tensor
    scale: float = 0.7

    def to(self, dtype: torch.dtype) -> Lora:
        """The same values in another dtype (codes in its side dtype)."""
        side = torch.float64 if dtype == torch.float64 else torch.float32
        y, x, A, B = (t.to(dtype) for t in (self.y, self.x, self.A, self.B))
        return Lora(y, x, A, B, self.codes_a.to(side), self.codes_b.to(side), self.slots, self.scale)


def lora_case(tokens: int, K: int, rank: int, d_in: int, d_out: int, dtype: torch.dtype, seed: int = 0) -> Lora:
    g = generator(seed)
    return Lora(
        randn(g, tokens, d_out, dtype=dtype),
        randn(g, tokens, d_in, dtype=dtype),
        (randn(g, K, rank, d_in) / d_in**0.5).to(dtype),
        (randn(g, K, rank, d_out) / rank**0.5).to(dtype),
        randn(g, 4, K),
        randn(g, 4, K),
        random_slots(g, tokens, 4),
    )


def token_codes(codes: Tensor, slots: Tensor) -> Tensor:
    return codes[slots.clamp(min=0).long()] * (slots >= 0)[:, None]


def unfused_shrink(c: Lora) -> Tensor:
    """One dense product, then the combination by codes, every step in the dtype of x."""
    K, r, d = c.A.shape
    products = (c.x @ c.A.reshape(K * r, d).t()).view(-1, K, r)
    return (products * token_codes(c.codes_a, c.slots).to(c.x.dtype)[:, :, None]).sum(1)


def unfused_add(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> Tensor:
    """One dense product of width K r in the dtype of y, scaled and added."""
    K, r, d = B.shape
    spread = (token_codes(codes, slots)[:, :, None] * u.float()[:, None, :]).to(y.dtype).reshape(-1, K * r)
    return y + (spread @ B.reshape(K * r, d)) * scale


def gated_case(
    tokens: int, K: int, rank: int, width: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, GatedLora, Steering]:
    """gate and up as the halves of one merged tensor, lora, steering (some tokens without active poles)."""
    g = generator(seed)
    merged = randn(g, tokens, 2 * width, dtype=dtype) * 2
    gate, up = merged[:, :width], merged[:, width:]
    lora = GatedLora(
        randn(g, tokens, rank),
        (randn(g, K, rank, width) / (rank * K) ** 0.5).to(dtype),
        randn(g, tokens, rank),
        (randn(g, K, rank, width) / (rank * K) ** 0.5).to(dtype),
        randn(g, 4, K),
        random_slots(g, tokens, 4),
        0.7,
    )
    strengths = randn(g, 5, POLES).clamp(min=0)
    strengths[3] = 0
    mask = torch.randint(0, 1 << POLES, (2, width), generator=g)
    steering = Steering(
        (mask[0] & mask[1]).to(torch.int16),
        randn(g, POLES, width),
        strengths,
        random_slots(g, tokens, 5).flip(0).contiguous(),
    )
    return gate, up, lora, steering


def unfused_gated(gate: Tensor, up: Tensor, act: str, lora: GatedLora | None, steering: Steering | None) -> Tensor:
    """The same as separate torch operations in the dtype of gate."""
    if lora is not None:
        assert lora.u_up is not None
        gate = unfused_add(gate, lora.u_gate, lora.B_gate, lora.codes, lora.slots, lora.scale)
        up = unfused_add(up, lora.u_up, lora.B_up, lora.codes, lora.slots, lora.scale)
    v = F.silu(gate) if act == "silu" else F.gelu(gate, approximate="tanh" if act == "gelu_tanh" else "none")
    if steering is not None:
        strengths = token_codes(steering.strengths, steering.slots)
        for p in range(POLES):
            hit = (strengths[:, p] > 0)[:, None] & ((steering.clamp_mask >> p) & 1).bool()[None, :]
            v = torch.where(hit, v.clamp(max=0), v)
        v = v + (strengths @ steering.add).to(v.dtype)
    return v * up


def double(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


def double_lora(lora: GatedLora | None) -> GatedLora | None:
    return None if lora is None else GatedLora(*(double(t) if isinstance(t, Tensor) else t for t in lora))


def double_steering(steering: Steering | None) -> Steering | None:
    return None if steering is None else Steering(*(double(t) for t in steering))
