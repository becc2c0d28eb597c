"""The loss of a batch: how far the model's next-token distribution is from the targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dpg_fast.model import PersonalityModel

_AT_ONCE = 1024  # positions whose logits exist at a time
_CHANGED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


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
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "personality")}
    rows, columns = (batch["positions"] >= 0).nonzero(as_tuple=True)
    places = batch["positions"][rows, columns]
    candidates, log_target = batch["candidates"][rows, columns], batch["log_target"][rows, columns]
    head = inner.get_output_embeddings()
    config = inner.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _CHANGED_LOGITS):
        logits = model(**inputs, use_cache=False).logits
        return target_loss(logits[rows, places], candidates, log_target), torch.tensor(len(rows))
    # The output layer is run on learnt positions alone: on a small model it is a fifth of all work.
    output = model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=True)
    hidden = output.hidden_states[-1][rows, places]
    total = hidden.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(rows), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        arguments = (head, hidden[part], candidates[part], log_target[part])
        several = len(rows) > _AT_ONCE
        total = total + (checkpoint(_head_loss, *arguments, use_reentrant=False) if several else _head_loss(*arguments))
    return total, torch.tensor(len(rows), device=total.device)


def _head_loss(head: Any, hidden: Tensor, candidates: Tensor, log_target: Tensor) -> Tensor:
    return target_loss(head(hidden), candidates, log_target)
