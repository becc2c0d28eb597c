"""A backward pass that could teach the hypernetwork nothing is an error, not a step without effect.

Why: docs/decisions.md, "A `PersonalityModel` under trainers that are not ours".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.utils import _pytree as pytree

from dpg_fast.util.errors import DPGError

NOTHING = (
    "nothing would be trained: the hypernetwork is trained through calls that give a personality=, and this call of the model "
    "in training mode gave none. A Trainer hands over what its data collator puts into the batch: keep a column "
    "`personality` (five numbers from -5 to 5, or a string such as 'E+4', for each row) as far as there. "
    "dpg_fast.train.HypernetTrainer does all of it. Reference passes of the base model belong under torch.no_grad() or eval()"
)


class _Anchor(Function):
    """The tensor itself, depending on the parameters: with a gradient of zero, or with an error in the backward pass."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, given: bool, *parameters: Tensor) -> Tensor:
        ctx.given = given
        ctx.save_for_backward(*parameters)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if not ctx.given:
            raise DPGError(NOTHING)
        needed = ctx.needs_input_grad[2:]
        zeros = [p.new_zeros(p.shape) if needs else None for p, needs in zip(ctx.saved_tensors, needed, strict=True)]
        return gradients[0], None, *zeros


def anchored(output: Any, parameters: Sequence[Tensor], given: bool) -> Any:
    """A model's output whose floating tensors depend on parameters that took no part in it.

    Args:
        output: of a model: a mapping, a tuple or a tensor.
        parameters: that are trained.
        given: every row was given None on purpose: the parameters get gradients of zero, as every process needs whose
            batches are gathered. Otherwise a backward pass raises ValueError.
    """

    def anchor(value: Any) -> Any:
        return _Anchor.apply(value, given, *parameters) if value.is_floating_point() else value

    return pytree.tree_map_only(Tensor, anchor, output)
