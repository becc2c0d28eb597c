"""Personalities without the plugin's loader: each becomes a PEFT adapter, which vLLM's own LoRA serves.

For engines that the plugin refuses. It costs what LoRA in vLLM costs, and neurons cannot be steered this way.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from dpg_fast.hypernet import AdapterNetwork
from dpg_fast.hypernet.build import from_config
from dpg_fast.model.disk import artifact
from dpg_fast.model.loading import locate
from dpg_fast.personality.row import Row
from dpg_fast.serving.admission import canonical, read_request
from dpg_fast.util.errors import DPGError

__all__ = ["VARIABLE", "PersonalityResolver", "register_resolver"]

VARIABLE = "DPG_FAST_LORA_ADAPTER"  # environment variable that names the adapter
MOST = 256  # adapters: vLLM keeps the name of each until it ends


class PersonalityResolver(LoRAResolver):
    """Gives ``model="base@E+4,N-2"`` an adapter, written when it is first asked for.

    Args:
        adapter: directory, Hub id or name, with a hypernetwork; its neurons are left out.

    Raises:
        ValueError: it has no hypernetwork.
    """

    def __init__(self, adapter: str) -> None:
        networks = [found for directory in locate(adapter) if (found := _network(directory)) is not None]
        if not networks:
            raise DPGError(f"{VARIABLE}={adapter}: it has no hypernetwork, and neurons cannot be served as LoRA")
        self._network = networks[0]
        self._folder = tempfile.TemporaryDirectory(prefix="dpg_fast_lora_")
        self._made: dict[str, LoRARequest] = {}

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter of a name; None for names that are of another base, or hold no personality of this network.

        Raises:
            ValueError: too many different personalities.
        """
        base, mark, text = lora_name.partition("@")
        if not mark or base != base_model_name:
            return None
        try:
            row = read_request(text)
            item = None if row is None else self._network.accepted(row)
        except (DPGError, TypeError):
            return None
        return None if item is None else self._written(item, base_model_name, lora_name)

    def _written(self, row: Row, base: str, name: str) -> LoRARequest:
        key = canonical(row)
        if key not in self._made:
            if len(self._made) >= MOST:
                raise DPGError(f"{MOST} personalities were served as LoRA; use --load-format dpg_fast for more")
            path = Path(self._folder.name) / str(len(self._made))
            self._network.to_peft(row, path, base_model=base)
            self._made[key] = LoRARequest(lora_name=name, lora_int_id=len(self._made) + 1, lora_path=str(path))
        return self._made[key]


def _network(directory: Path) -> AdapterNetwork | None:
    config = artifact.read_config(directory)
    if config["hypernet"] is None:
        return None
    network = from_config(config["hypernet"])
    artifact.load_hypernet(directory, network)
    return network


def register_resolver() -> None:
    """Register the resolver where the environment names an adapter for it."""
    adapter = os.environ.get(VARIABLE)
    if adapter:
        LoRAResolverRegistry.register_resolver("dpg_fast", PersonalityResolver(adapter))
