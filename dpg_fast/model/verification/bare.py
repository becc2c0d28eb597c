"""Logits of an unwrapped model along fixed tokens, and how much they differ from themselves: what `verify` compares with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.compat.transformers import MASK_NAME

#: bounds are this many times the bare model's own difference
MARGIN = 4.0


class _Forced:
    """A logits processor that makes ``generate`` write the given tokens, int64 [rows, N], after ``start`` tokens."""

    def __init__(self, tokens: Tensor, start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = self.tokens[:, input_ids.shape[1] - self.start, None]
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)


def forced_logits(model: Any, ids: Tensor, tokens: Tensor, vocabulary: int | None = None, **kwargs: Any) -> Tensor:
    """Logits float64 [rows, N, V] of a generation that writes ``tokens`` [rows or 1, N] after the prompts ``ids``."""
    tokens = tokens.expand(len(ids), -1)
    kwargs.setdefault(MASK_NAME, torch.ones_like(ids))
    output = model.generate(
        ids,
        logits_processor=[_Forced(tokens, ids.shape[1])],
        max_new_tokens=tokens.shape[1],
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
    found = torch.stack(output.logits, 1)[..., :vocabulary]
    if found.shape[1] != tokens.shape[1] or not torch.equal(output.sequences[:, ids.shape[1] :], tokens):
        raise RuntimeError("generate() did not write the tokens that a logits processor forced on it")
    return found.cpu().double()


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest relative difference of logit vectors [..., V]; infinite where one is not finite and the other is."""
    found, wanted = torch.broadcast_tensors(found, wanted)
    finite = torch.isfinite(found) & torch.isfinite(wanted)
    if not torch.equal(torch.where(finite, 0.0, found), torch.where(finite, 0.0, wanted)):
        return float("inf")
    count = finite.sum(-1, keepdim=True).clamp_min(1)
    a, b = (
        torch.where(finite, x - torch.where(finite, x, 0.0).sum(-1, keepdim=True) / count, 0.0) for x in (found, wanted)
    )
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-30)).max())


class BareLogits:
    """Logits of the unwrapped model, and its own differences: in a batch, without a cache, padded, rounded."""

    def __init__(self, base: Any, prompts: Sequence[Tensor], tokens: int, rows: int) -> None:
        self.base, self.prompts, self.rows = base, list(prompts), rows
        self.tokens = [
            base.generate(ids, max_new_tokens=tokens, do_sample=False, **{MASK_NAME: torch.ones_like(ids)})[
                :, ids.shape[1] :
            ]
            for ids in self.prompts
        ]
        self.logits = [forced_logits(base, ids, new) for ids, new in zip(self.prompts, self.tokens, strict=True)]
        ids, new = self.prompts[0], self.tokens[0]
        self.vocabulary = self.logits[0].shape[-1]
        batch = forced_logits(base, ids.repeat(rows, 1), new)
        self.batch = difference(batch, self.logits[0])
        self.uncached = difference(uncached(base, ids.repeat(rows, 1), new), batch)
        self.padded = difference(
            forced_logits(base, *self.layout(), self.vocabulary, **self.mask()), torch.cat(self.wanted(self.logits))
        )
        self.rounding = self._rounding()

    def bound(self, own: float, margin: float = MARGIN) -> float:
        return margin * max(own, self.rounding)

    def layout(self) -> tuple[Tensor, Tensor]:
        """All prompts in turn in one batch of ``rows``, padded on the left, and the tokens that follow each."""
        width = max(ids.shape[1] for ids in self.prompts) + 3
        which = [row % len(self.prompts) for row in range(self.rows)]
        pad = int(self.base.generation_config.pad_token_id)
        ids = [
            torch.nn.functional.pad(self.prompts[i], (width - self.prompts[i].shape[1], 0), value=pad) for i in which
        ]
        return torch.cat(ids), torch.cat([self.tokens[i] for i in which])

    def mask(self) -> dict[str, Tensor]:
        ids, _ = self.layout()
        lengths = torch.tensor([self.prompts[row % len(self.prompts)].shape[1] for row in range(self.rows)])
        position = torch.arange(ids.shape[1])
        return {MASK_NAME: (position >= ids.shape[1] - lengths[:, None]).long().to(ids.device)}

    def wanted(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """From logits [rows or 1, N, V] for each prompt, those of the rows of `layout`, [1, N, V] each."""
        chosen = [logits[row % len(logits)] for row in range(self.rows)]
        return [own[min(row, len(own) - 1)][None] for row, own in enumerate(chosen)]

    def _rounding(self) -> float:
        """What a random rounding error in each value of the embeddings does to the logits."""
        ids, new = self.prompts[0], self.tokens[0]
        generator = torch.Generator().manual_seed(0)

        def move(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            sign = torch.randint(0, 2, output.shape, generator=generator).to(output.device) * 2 - 1
            return (output * (1 + sign * torch.finfo(output.dtype).eps)).to(output.dtype)

        handle = self.base.get_input_embeddings().register_forward_hook(move)
        try:
            moved = forced_logits(self.base, ids, new)
        finally:
            handle.remove()
        return max(difference(moved, self.logits[0]), float(torch.finfo(self.base.dtype).eps))


def uncached(model: Any, ids: Tensor, tokens: Tensor, **kwargs: Any) -> Tensor:
    """The logits of `forced_logits` by one forward over prompt and tokens."""
    whole = torch.cat([ids, tokens.expand(len(ids), -1)[:, :-1]], 1)
    logits: Tensor = model(input_ids=whole, **{MASK_NAME: torch.ones_like(whole)}, **kwargs).logits
    return logits[:, ids.shape[1] - 1 :].cpu().double()
