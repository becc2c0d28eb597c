"""``--load-format dpg_fast``: after vLLM's own loading the adapter is compared with the weights and put into the layers."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.utils.torch_utils import set_default_torch_dtype

from dpg_fast.architecture.layers import Architecture, find_architecture
from dpg_fast.architecture.mlps import linear_shape
from dpg_fast.model.disk.artifact import AdapterParts
from dpg_fast.model.loading import load_parts
from dpg_fast.model.supply import contents
from dpg_fast.serving.admission import check_network
from dpg_fast.serving.slots import SlotPool
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import file_digest
from dpg_fast.vllm import layers, ops
from dpg_fast.vllm.base import named_as_transformers, parts_of
from dpg_fast.vllm.layers import BankMethod, GatedActivation, ProductsMethod, Shared
from dpg_fast.vllm.options import LOAD_FORMAT, PluginOptions, check_engine
from dpg_fast.vllm.runner import ATTRIBUTE, State

__all__ = ["PersonalityLoader"]


class PersonalityLoader(DefaultModelLoader):
    """vLLM's default loader, with personalities."""

    def __init__(self, load_config: Any) -> None:
        super().__init__(dataclasses.replace(load_config, load_format="auto"))

    def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> nn.Module:
        check_engine(vllm_config)
        self._options = PluginOptions.of(vllm_config)
        # hashed with the rest of it, so that no graph is reused that was compiled with other layers of ours
        vllm_config.additional_config[f"{LOAD_FORMAT}_layers"] = [
            file_digest(Path(str(module.__file__))) for module in (layers, ops)
        ]
        model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        scheduler = vllm_config.scheduler_config
        parts, device = self._parts, torch.device(vllm_config.device_config.device)
        if parts.hypernet is not None:
            parts.hypernet.to(device)
        fill = functools.partial(
            contents, hypernet=parts.hypernet, steering=parts.steering, calibration=parts.calibration, device=device
        )
        codes = 0 if parts.hypernet is None else parts.hypernet.config.codes
        with set_default_torch_dtype(torch.float32):
            pool = SlotPool(fill, codes, scheduler.max_num_seqs, scheduler.max_num_batched_tokens, device)
            install(model, self._architecture, parts, Shared.of(pool), model_config.dtype, device)
        setattr(model, ATTRIBUTE, State(pool, self._options.steer_tokens == "all"))
        return model

    def load_weights(self, model: nn.Module, model_config: Any) -> None:
        """Also reads the adapter: the weights are compared before vLLM packs them."""
        super().load_weights(model, model_config)
        with set_default_torch_dtype(torch.float32), torch.device("cpu"):
            base = named_as_transformers(model, model_config.hf_config)
            options = self._options
            self._architecture = find_architecture(base, dense_only=True)
            self._parts = load_parts(options.adapter, base, model_config.model, allow_mismatch=options.allow_mismatch)
            check_network(self._parts.hypernet)


def install(
    model: nn.Module,
    architecture: Architecture,
    parts: AdapterParts,
    shared: Shared,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Put bank and steering into the layers of vLLM's model.

    Raises:
        ValueError: a layer that the adapter changes is not there, or an MLP is not a gated one that is known.
    """
    modules = dict(model.named_modules())
    network, steering = parts.hypernet, parts.steering
    wanted = set() if network is None else {site.name for site in network.sites}
    in_mlps: set[str] = set()
    for mlp in architecture.mlps:
        gate, up = (f"{mlp.name}.{name}" for name in (mlp.layout.gate, mlp.layout.up))
        adapted = {gate, up} & wanted
        if not (adapted or steering is not None):
            continue
        module = modules.get(mlp.name)
        act = _gated(mlp.name, module, gate, up, model)
        assert module is not None
        bank = None
        if adapted:
            assert network is not None
            merged: Any = module.gate_up_proj
            A, B = _bank(network, [gate, up], [mlp.intermediate] * 2, merged.input_size, dtype, device)
            merged.quant_method = ProductsMethod(merged.quant_method, merged, A, shared)
            B_gate, B_up = B.chunk(2, -1)
            bank = (B_gate.contiguous(), B_up.contiguous(), network.config.scale)
            in_mlps |= adapted
        table = None
        if steering is not None:
            table = (steering.clamp_mask[mlp.layer].to(device), steering.add[mlp.layer].to(device))
        module.act_fn = GatedActivation(act, mlp.intermediate, bank, table, shared)
    left = wanted - in_mlps
    for path, layer in modules.items():
        names = parts_of(model, path) if isinstance(layer, LinearBase) else []
        if not left & set(names):
            continue
        assert network is not None
        any_layer: Any = layer
        widths = [linear_shape(architecture.linears[name])[1] for name in names]
        A, B = _bank(network, names, widths, any_layer.input_size, dtype, device)
        any_layer.quant_method = BankMethod(any_layer.quant_method, layer, A, B, widths, network.config.scale, shared)
        left -= set(names)
    if left:
        raise DPGError(
            f"vLLM's {type(model).__name__} has no linear layer for {sorted(left)[0]} and {len(left) - 1} others"
        )


def _gated(name: str, module: Any, gate: str, up: str, model: nn.Module) -> str:
    merged = getattr(module, "gate_up_proj", None)
    if merged is None or parts_of(model, f"{name}.gate_up_proj") != [gate, up]:
        raise DPGError(
            f"{name} of vLLM's {type(model).__name__} is not a gated MLP with gate_up_proj, act_fn and down_proj"
        )
    act: Any = getattr(module, "act_fn", None)
    if type(act) is SiluAndMul:
        return "silu"
    if type(act) is GeluAndMul:
        return "gelu_tanh" if act.approximate == "tanh" else "gelu"
    raise DPGError(f"{name}.act_fn is {type(act).__name__}; accepted: SiluAndMul, GeluAndMul")


def _bank(
    network: Any, names: list[str], widths: list[int], width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A [G * K * r, d_in] and B [K, r, sum(widths)]; zeros for linears that the bank has no entry for."""
    config = network.config
    sites = {site.name for site in network.sites}
    pairs = []
    for name, out in zip(names, widths, strict=True):
        if name in sites:
            pairs.append((network.bank.A(name).detach(), network.bank.B(name).detach()))
        else:
            shape = (config.codes, config.rank)
            pairs.append((torch.zeros(*shape, width), torch.zeros(*shape, out)))
    A = torch.cat([pair[0].flatten(0, 1).to(device, dtype) for pair in pairs])
    B = torch.cat([pair[1].to(device, dtype) for pair in pairs], dim=-1)
    return A.contiguous(), B.contiguous()
