"""Attention of packed requests, one after the other, for transformers' continuous batching.

Its own ``sdpa`` is one product of all tokens with all keys of the batch under a mask, whose work grows with the square of the
number of requests. Here each request's queries meet its own keys alone, in the same call as in :meth:`generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["LENGTHS", "NAME", "register"]

NAME = "dpg_fast_packed"
"""Name of the attention implementation."""

LENGTHS = "dpg_fast_lengths"
"""Keyword of the model's forward: (tokens cached before, tokens) of each request, in their order."""


def register() -> None:
    """Make :data:`NAME` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of requests that lie side by side; without :data:`LENGTHS`, as in ``generate``, that of ``sdpa``.

    Args:
        module: the layer.
        query: [1, heads, T, d].
        key, value: [1, key heads, K, d], all that each request has in the cache, the new tokens last; before 5.18 of the
            new tokens alone, to be put into ``kwargs["cache"]``.
        attention_mask: what ``sdpa`` takes; not read with :data:`LENGTHS`.
        scaling, dropout: of the scores.
        sliding_window: how many keys a query sees, itself one of them; None for all.
        kwargs: of the model's forward, with :data:`LENGTHS`.

    Returns:
        [1, T, heads, d], None.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    lengths: Sequence[tuple[int, int]] | None = kwargs.pop(LENGTHS, None)
    if lengths is None:
        output: tuple[Tensor, None] = attend(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    if (cache := kwargs.pop("cache", None)) is not None:
        key, value = cache.update(key, value, module.layer_idx, kwargs["read_index"], kwargs["write_index"])
        key, value = key.transpose(0, 1).unsqueeze(0), value.transpose(0, 1).unsqueeze(0)
    kwargs.pop("is_causal", None)
    queries = [tokens for _, tokens in lengths]
    kept = [(before if sliding_window is None else min(before, sliding_window - 1)) + n for before, n in lengths]
    found = []
    for q, k, v in zip(query.split(queries, 2), key.split(kept, 2), value.split(kept, 2), strict=True):
        mask = _mask(q.shape[2], k.shape[2], sliding_window, q.device)
        found.append(attend(module, q, k, v, mask, dropout=dropout, scaling=scaling, is_causal=True, **kwargs)[0])
    return torch.cat(found, 1), None


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which keys the last ``queries`` of ``keys`` tokens see, [1, 1, queries, keys]; None where being causal says it all."""
    if queries == 1 or (queries == keys and (window is None or keys <= window)):
        return None  # the cache holds no more than a window for one query
    own = torch.arange(keys - queries, keys, device=device)[:, None]
    other = torch.arange(keys, device=device)[None]
    seen = other <= own
    if window is not None:
        seen &= other > own - window
    return seen[None, None]
