"""Personalities without the plugin's loader: each becomes a PEFT adapter, which vLLM's own LoRA serves.

For engines that the loader refuses. It costs what LoRA in vLLM costs, and neurons cannot be steered this way.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import torch
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from dpg_fast.hypernet import AdapterNetwork
from dpg_fast.hypernet.peft_io import write_peft
from dpg_fast.model.loading import load_parts, locate
from dpg_fast.personality.row import Row
from dpg_fast.serving.admission import Abilities, canonical, read_request, split_name
from dpg_fast.util.errors import DPGError

__all__ = ["VARIABLE", "PersonalityResolver", "register_resolver"]

VARIABLE = "DPG_FAST_LORA_ADAPTER"  # environment variable that names the adapter
MOST = 256  # personalities: vLLM keeps every name that it was given


class PersonalityResolver(LoRAResolver):
    """Gives ``model="base@E+4,N-2"`` an adapter, written when it is first asked for.

    Args:
        adapter: directory, Hub id or name, with a hypernetwork or characters and without neurons.

    Raises:
        ValueError: it is no adapter, or one with neurons.
    """

    def __init__(self, adapter: str) -> None:
        self._adapter, self._abilities = adapter, Abilities(locate(adapter))
        if self._abilities.steering is not None:
            raise DPGError(
                f"{VARIABLE}={adapter}: it has neurons, which cannot be served as LoRA; name one without them"
            )
        self._network: AdapterNetwork | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="dpg_fast_lora_")
        self._written: dict[str, Path] = {}
        self._lock = asyncio.Lock()

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter of a name; None where what stands before "@" is neither the base model's path nor the last part of it.

        Raises:
            VLLMValidationError: a personality that cannot be had, an adapter for another base, or too many personalities.
        """
        found = split_name(lora_name, self._abilities.characters)
        if found is None or found[0] not in (base_model_name, Path(base_model_name).name):
            return None
        try:
            row = read_request(found[1])
            if row is None:
                return None
            self._abilities.require(row)
            async with self._lock:
                path = await asyncio.to_thread(self._path, row, base_model_name)
        except DPGError as error:
            raise VLLMValidationError(str(error), parameter="model") from error
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(path))  # vLLM gives it a number of its own

    def _path(self, row: Row, base: str) -> Path:
        if self._network is None:
            self._network = _compared(self._adapter, base)
        key = canonical(row)
        if key not in self._written:
            if len(self._written) >= MOST:
                raise DPGError(
                    f"{MOST} personalities are served as LoRA, which is the most; --load-format dpg_fast has no limit"
                )
            with torch.no_grad():
                a, b = self._network.codes([row])
                pairs = self._network.bank.materialise(a[0], b[0])
            path = Path(self._folder.name) / str(len(self._written))
            self._written[key] = write_peft(path, pairs, alpha=self._network.config.alpha, base_model=base)
        return self._written[key]


def _compared(adapter: str, base: str) -> AdapterNetwork:
    """The network of an adapter, once the base model's weights were read and are those that it was made for."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    network = load_parts(adapter, model, base).hypernet
    assert network is not None  # without neurons there is nothing else that an adapter could have
    return network


def register_resolver() -> None:
    """Register the resolver where the environment names an adapter for it.

    Raises:
        ValueError: as `PersonalityResolver`.
    """
    adapter = os.environ.get(VARIABLE)
    if adapter:
        LoRAResolverRegistry.register_resolver("dpg_fast", PersonalityResolver(adapter))
