"""Kernels: multi-personality LoRA banks and steered gated activations.

Tokens point to slots (int32, -1: as the base model has it); slots hold steering strengths, and the codes that
combine a bank of K rank-r LoRA pairs. Each op's definition stands beside it: a reference in plain PyTorch.
"""

from __future__ import annotations

from dpg_fast.kernels._cpu import isas, set_isa, use_isa
from dpg_fast.kernels.dispatch import build_info, explain, force_backend, forced_backend, use_backend
from dpg_fast.kernels.ops.activation_stats import activation_stats, activation_stats_reference
from dpg_fast.kernels.ops.add_rmsnorm import add_rmsnorm, add_rmsnorm_reference
from dpg_fast.kernels.ops.lora_add import lora_add, lora_add_reference
from dpg_fast.kernels.ops.lora_combine import lora_combine, lora_combine_reference
from dpg_fast.kernels.ops.lora_expand_add import lora_expand_add, lora_expand_add_reference
from dpg_fast.kernels.ops.lora_shrink import lora_shrink, lora_shrink_reference
from dpg_fast.kernels.ops.lora_stacked_add import lora_stacked_add, lora_stacked_add_reference
from dpg_fast.kernels.ops.steered_gated_act import steered, steered_gated_act, steered_gated_act_reference
from dpg_fast.kernels.product import linear_product
from dpg_fast.kernels.types import ACTIVATIONS, POLES, GatedLora, RideAlong, Steering

__all__ = [
    "ACTIVATIONS",
    "POLES",
    "GatedLora",
    "RideAlong",
    "Steering",
    "activation_stats",
    "activation_stats_reference",
    "add_rmsnorm",
    "add_rmsnorm_reference",
    "build_info",
    "explain",
    "force_backend",
    "forced_backend",
    "isas",
    "linear_product",
    "lora_add",
    "lora_add_reference",
    "lora_combine",
    "lora_combine_reference",
    "lora_expand_add",
    "lora_expand_add_reference",
    "lora_shrink",
    "lora_shrink_reference",
    "lora_stacked_add",
    "lora_stacked_add_reference",
    "set_isa",
    "steered",
    "steered_gated_act",
    "steered_gated_act_reference",
    "use_backend",
    "use_isa",
]
