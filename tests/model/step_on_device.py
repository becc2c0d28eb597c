"""A decode step of a wrapped model on another device neither waits for it nor copies from the host.

``python -m tests.model.step_on_device twin`` or ``cuda``: with a pretend device that computes, or with fake CUDA tensors, which
have shapes alone and need a torch that was built for CUDA, not a GPU. Both refuse operations that mix devices.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import StaticCache

from benchmarks.model_gpu import Settings, base_model, personalities, wrap
from dpg_fast import PersonalityModel
from dpg_fast.compat.transformers import cache_argument
from tests.model import twin_devices

ROWS, PROMPT, LENGTH = 4, 6, 12
#: operations that wait until the device has come to them, because the host needs a value
WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")


class Watch(TorchDispatchMode):
    """Lists operations that wait for the device, and copies between it and the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        devices = {t.device.type for t in tensors}
        self.seen += 1
        if name in WAITING and devices != {"cpu"}:
            self.found.append(name)
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            self.found.append(f"{name} {sorted(devices)}")
        return out


def to_fake_cuda(model: PersonalityModel) -> None:
    """Every parameter and buffer becomes a fake CUDA tensor; under a fake mode."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, t in held.items():
                if t is not None:
                    fake = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda")
                    held[name] = nn.Parameter(fake, t.requires_grad) if isinstance(t, nn.Parameter) else fake
    assert model.hypernet is not None
    model.hypernet.__dict__["to"] = lambda *args, **kwargs: (
        model.hypernet
    )  # it is there; torch cannot swap fake parameters


@contextmanager
def moved(kind: str, model: PersonalityModel) -> Iterator[str]:
    """Within the block the model lies on the device, whose name is given."""
    if kind == "twin":
        twin_devices.install()
        model.to("twin:0")
        yield "twin:0"
    else:
        with FakeTensorMode(allow_non_fake_inputs=True):
            to_fake_cuda(model)
            yield "cuda:0"


@torch.no_grad()
def main(kind: str) -> None:
    """Raises AssertionError when a step waits or copies."""
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
    settings = Settings.tiny()
    model = wrap(base_model("cpu", settings), settings, lora=True, steer=True)
    people, others = [*personalities(ROWS - 1), None], personalities(ROWS)
    base: Any = model.base
    with moved(kind, model) as device:
        assert str(model.device) == device and {str(p.device) for p in model.parameters()} == {device}
        cache = StaticCache(config=base.config, max_cache_len=LENGTH)
        kwargs = cache_argument(base, cache)
        ids = torch.zeros(ROWS, PROMPT, dtype=torch.long, device=device)
        mask = torch.ones(ROWS, 1, 1, LENGTH, dtype=torch.bool, device=device)
        with model.speaking(people, ROWS, steer_from=PROMPT) as speaking:
            base(input_ids=ids, use_cache=True, **kwargs)
            for _ in range(2):  # the first step of a kind may prepare what later ones find
                base(input_ids=ids[:, -1:], attention_mask=mask, use_cache=True, **kwargs)
            for when in ("as entered", "changed"):
                with Watch() as watch:
                    logits = base(input_ids=ids[:, -1:], attention_mask=mask, use_cache=True, **kwargs).logits
                assert watch.seen > 50 and not watch.found, f"{when}: {watch.found} in {watch.seen} operations"
                assert str(logits.device) == device and logits.shape == (ROWS, 1, settings.vocabulary)
                assert speaking.change(others)
        with Watch() as watch:  # the watch sees what it is for
            ids[:, 0].sum().to("cpu")
        assert watch.found == [f"_to_copy {sorted(['cpu', torch.device(device).type])}"]
    print("the step ran on", device)


if __name__ == "__main__":
    main(sys.argv[1])
