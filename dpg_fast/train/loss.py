"""The loss of a batch: how far the model's next-token distribution is from the targets."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dpg_fast.compat.transformers import last_logits
from dpg_fast.compat.transformers_models import finish_logits, output_layer
from dpg_fast.hypernet import describe
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.description import Description
from dpg_fast.personality.scores import Personality

_AT_ONCE = 1024  # positions whose logits exist at a time
_SPLITS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # whether logits are those of the output layer alone


def target_loss(logits: Tensor, candidates: Tensor, log_target: Tensor) -> Tensor:
    """sum_k q_k (log q_k - log p_k), summed over n positions: the divergence of p from targets q.

    With one candidate of probability 1 it is the usual negative log-likelihood.

    Args:
        logits: [n, vocabulary], any floating dtype.
        candidates: int64 [n, k]. log_target: float32 [n, k], -inf where there is none.
    """
    logits = logits.float()
    log_p = logits.gather(1, candidates) - logits.logsumexp(1, keepdim=True)
    q = log_target.exp()
    difference = torch.where(q > 0, log_target.clamp_min(-1e4) - log_p, torch.zeros_like(log_p))
    return (q * difference).sum()


def batch_loss(model: PersonalityModel | Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(sum of the losses, number of positions) of a batch as :func:`dpg_fast.train.rows.collate` makes it.

    Args:
        model: the personality model, or what a trainer wrapped around it.
        batch: on the model's device.
    """
    inner = getattr(model, "module", model)
    inputs = _inputs(inner, batch)
    rows, columns = (batch["positions"] >= 0).nonzero(as_tuple=True)
    places = batch["positions"][rows, columns]
    lines = batch["line"][rows] if "line" in batch else rows
    candidates, log_target = batch["candidates"][rows, columns], batch["log_target"][rows, columns]
    if _SPLITS.get(inner) is False:
        return _whole_loss(model, inputs, lines, places, candidates, log_target)
    # The output layer is run on learnt positions alone: on a small model it is a fifth of all work.
    output = model(**inputs, use_cache=False, output_hidden_states=True, **last_logits(inner))
    last, head = output.hidden_states[-1], _Head(inner)
    if inner not in _SPLITS:
        _SPLITS[inner] = _agrees(head, last, output.logits)
        if not _SPLITS[inner]:
            return _whole_loss(model, inputs, lines, places, candidates, log_target)
    hidden = last[lines, places]
    total = hidden.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(rows), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        arguments = (head, hidden[part], candidates[part], log_target[part])
        several = len(rows) > _AT_ONCE
        total = total + (checkpoint(_head_loss, *arguments, use_reentrant=False) if several else _head_loss(*arguments))
    return total, torch.tensor(len(rows), device=total.device)


class _Head:
    """Logits of hidden states, as the output layer and known settings of the configuration give them."""

    def __init__(self, model: Any) -> None:
        self.layer, self.config = output_layer(model), model.config

    def __call__(self, hidden: Tensor) -> Tensor:
        return finish_logits(self.config, self.layer(hidden))  # type: ignore[misc]


def _agrees(head: _Head, hidden: Tensor, logits: Tensor) -> bool:
    """Whether the model's logits are those of the output layer on its last hidden state."""
    if head.layer is None:
        return False
    with torch.no_grad():
        found, exact = head(hidden[:, -1:]).float(), logits[:, -1:].detach().float()
    return float((found - exact).norm() / exact.norm().clamp_min(1e-12)) <= 0.01  # bfloat16 rounds by a third of that


def _whole_loss(
    model: Any, inputs: dict[str, Any], lines: Tensor, places: Tensor, candidates: Tensor, log_target: Tensor
) -> tuple[Tensor, Tensor]:
    """From the model's own logits of all positions."""
    logits = model(**inputs, use_cache=False).logits
    return target_loss(logits[lines, places], candidates, log_target), torch.tensor(len(lines), device=logits.device)


def _inputs(model: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments of the model's forward, the personalities in words where the hypernetwork reads words."""
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "personality": batch["personality"]}
    hypernet = getattr(model, "hypernet", None)
    if hypernet is not None and hypernet.config.reads_text:
        people = [Personality.from_scores(scores) for scores in batch["personality"].tolist()]
        wordings = batch["wording"].tolist()
        inputs["personality"] = [
            Description(describe(p, wording), p) for p, wording in zip(people, wordings, strict=True)
        ]
    if "segments" not in batch:
        return inputs | {"attention_mask": batch["attention_mask"]}
    segments = batch["segments"]
    mask = segment_mask(segments, model.dtype)
    return inputs | {"segments": segments, "position_ids": batch["position_ids"], "attention_mask": mask}


def segment_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention of packed lines as an additive mask [lines, 1, T, T]: a token sees the earlier ones of its own segment.

    Args:
        segments: int64 [lines, T], -1 for padding, which sees itself alone.
        dtype: floating; of the result.
    """
    length = segments.shape[1]
    same = (segments[:, :, None] == segments[:, None, :]) & (segments >= 0)[:, :, None]
    allowed = same.tril() | torch.eye(length, dtype=torch.bool, device=segments.device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def _head_loss(head: Any, hidden: Tensor, candidates: Tensor, log_target: Tensor) -> Tensor:
    return target_loss(head(hidden), candidates, log_target)
