"""Attention of packed requests is that of each request alone, also where keys lie in the cache, or only a window is seen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dpg_fast.compat.packed_attention import LENGTHS, packed_attention

HEADS, KEY_HEADS, WIDTH = 4, 2, 8


@pytest.mark.parametrize("window", [None, 6])
def test_each_request_sees_its_own_keys_alone(window: int | None) -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = [(0, 9), (7, 1), (4, 5), (0, 1), (11, 3), (30, 1), (0, 4)]
    module = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, is_causal=True)
    queries, keys, values, expected = [], [], [], []
    for before, new in lengths:
        held = before + new if window is None else min(before, window - 1) + new  # what the cache gives
        q = torch.randn(1, HEADS, new, WIDTH, generator=generator)
        k, v = (torch.randn(1, KEY_HEADS, held, WIDTH, generator=generator) for _ in range(2))
        scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3
        distance = torch.arange(held - new, held)[:, None] - torch.arange(held)
        seen = (distance >= 0) & (distance < (window or 1000))
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        expected.append((weights @ v.repeat_interleave(2, 1)).transpose(1, 2))
        queries.append(q)
        keys.append(k)
        values.append(v)
    found, _ = packed_attention(
        module,
        torch.cat(queries, 2),
        torch.cat(keys, 2),
        torch.cat(values, 2),
        None,
        scaling=0.3,
        sliding_window=window,
        **{LENGTHS: lengths},
    )
    torch.testing.assert_close(found, torch.cat(expected, 1))


def test_keys_that_belong_to_nobody_are_refused() -> None:
    module = SimpleNamespace(num_key_value_groups=1, is_causal=True)
    tokens = torch.zeros(1, 1, 3, WIDTH)
    with pytest.raises(RuntimeError, match="split"):
        packed_attention(module, tokens, tokens, tokens, None, **{LENGTHS: [(0, 2)]})
