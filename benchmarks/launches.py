"""How many kernels a decode step launches for each layer and how many bytes it reads, counted without a GPU.

    python -m benchmarks.launches                                    # Llama-3-8B, 64 rows, each with a personality and steering
    python -m benchmarks.launches --hidden 2560 --mlp 9728 --heads 32 --kv-heads 8 --layers 36 --rows 1

Launches are counted on small models of the same structure on the CPU, one layer against two: operations of torch that start a
kernel on a GPU, and our ops as what their CUDA backends launch. Bytes follow from the sizes. The baseline is Hugging Face's
eager model inside a CUDA graph (no fused norms, keys and values copied for each query head), not a serving engine. Times are
arithmetic, not measurements: bytes at the stated bandwidth, and a stated time for each launch.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.model_gpu import Settings, base_model, decode, personalities, wrap
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.kernels import _checks

#: launches of our ops' CUDA backends; add_rmsnorm without an expand, as the layers call it
OURS = {"lora_stacked_add_": 1, "lora_combine": 1, "lora_shrink": 1, "lora_expand_add_": 1, "steered_gated_act": 1}
FREE = {"aten::_unsafe_view", "aten::detach", "aten::_fused_sdp_choice", "aten::lift_fresh"}


class Launches(TorchDispatchMode):
    """Counts the operations inside its block that start a kernel on a GPU, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        if space == "dpg_fast":
            self.counts[name] += _launches(name, args)
        elif space != "prim" and not (func.is_view or func._schema.name in FREE or name.startswith("empty")):
            self.counts[name] += 1
        return output


def _launches(name: str, args: Sequence[Any]) -> int:
    if name == "add_rmsnorm":
        return 1 if args[5] is None else 2  # an expand that rides along is a launch of its own
    return OURS[name]


def per_layer(settings: Settings, rows: int, *, lora: bool, steer: bool) -> Counter[str]:
    """Kernels that one decoder layer of a decode step launches, by operation; the bare model's without ``lora`` and ``steer``."""
    grouped = settings.heads // settings.kv_heads
    small = replace(Settings.tiny(), hidden=32 * grouped, heads=2 * grouped, kv_heads=2, dtype=torch.bfloat16)
    rows = min(rows, 2)  # more rows launch no more
    one, two = (_step(replace(small, layers=layers), rows, lora, steer) for layers in (1, 2))
    return Counter({name: two[name] - one[name] for name in two if two[name] != one[name]})


def _step(settings: Settings, rows: int, lora: bool, steer: bool) -> Counter[str]:
    base = base_model("cpu", settings)
    active = lora or steer
    model = wrap(base, settings, lora=lora, steer=steer) if active else base
    way = decode(model, rows, settings, personalities(rows) if active else None)
    with torch.no_grad(), way.context():
        way.step()
        # The range of slots is looked at on the CPU alone.
        with patch.object(_checks, "check_slot_range"), Launches() as found:
            way.step()
    return found.counts


@dataclass(frozen=True)
class Traffic:
    """Bytes that a decode step reads and writes in one layer.

    Attributes:
        weights: of the linear layers.
        bank: A and B sides of all entries.
        table: clamp masks and additions.
        attention: keys and values, read, copied for each query head and read again.
    """

    weights: int
    bank: int
    table: int
    attention: int

    @property
    def ratio(self) -> float:
        """Weights with the bank, to weights alone."""
        return (self.weights + self.bank) / self.weights


def traffic(settings: Settings, rows: int) -> Traffic:
    """Counted from the sizes of one layer's linear layers."""
    sites = find_architecture(base_model("meta", settings, layers=1)).sites
    size = settings.dtype.itemsize
    weights = sum(site.in_features * site.out_features for site in sites) * size
    bank = sum(site.in_features + site.out_features for site in sites) * settings.codes * settings.rank * size
    grouped = settings.heads // settings.kv_heads
    cached = 2 * rows * settings.context * settings.hidden // grouped * size
    return Traffic(weights, bank, settings.mlp * (2 + 10 * 4), cached * (1 if grouped == 1 else 1 + 2 * grouped))


def report(settings: Settings, rows: int, bandwidth: float, launch: float) -> str:
    """The counts and the arithmetic, as text; ``bandwidth`` in bytes a second, ``launch`` in seconds."""
    bare = per_layer(settings, rows, lora=False, steer=False)
    ours = per_layer(settings, rows, lora=True, steer=True)
    moved = traffic(settings, rows)
    lines = [f"one layer of a decode step, {rows} rows, K {settings.codes}, rank {settings.rank}", ""]
    lines.append(f"{'operation':<48}{'bare':>6}{'ours':>6}")
    for name in sorted({*bare, *ours}, key=lambda name: (name in bare, name)):
        lines.append(f"{name:<48}{bare[name]:>6}{ours[name]:>6}")
    lines.append(f"{'launches':<48}{bare.total():>6}{ours.total():>6}")
    lines += ["", "bytes (MB)"]
    own = moved.weights + moved.attention, moved.weights + moved.attention + moved.bank + moved.table
    for name, value in (
        ("weights of the linear layers", moved.weights),
        ("bank, A and B", moved.bank),
        ("steering table", moved.table),
        ("keys and values, with their copies for each query head", moved.attention),
    ):
        lines.append(f"  {name:<56}{value / 1e6:>10.2f}")
    lines.append(f"  weights and bank, to weights alone: {moved.ratio:.3f}")
    times = [
        moved_bytes / bandwidth + count * launch
        for moved_bytes, count in zip(own, (bare.total(), ours.total()), strict=True)
    ]
    lines += ["", f"expected from {bandwidth / 1e12:.2f} TB/s and {launch * 1e6:.1f} us a launch"]
    for who, size, count, seconds in zip(("bare", "ours"), own, (bare.total(), ours.total()), times, strict=True):
        lines.append(
            f"  {who}: {size / 1e6:.1f} MB = {size / bandwidth * 1e6:.1f} us, {count} launches = {count * launch * 1e6:.1f} us, "
            f"together {seconds * 1e6:.1f} us"
        )
    lines.append(f"  ours to bare: {times[1] / times[0]:.3f}")
    extra = (own[1] - own[0]) / bandwidth * 1e6
    saved = (bare.total() - ours.total()) * launch * 1e6
    lines.append(
        f"  ours is the faster one while our kernels take less than {saved - extra:.1f} us beyond launch and bytes"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report for the sizes on the command line."""
    standard = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.launches", description="Launches and bytes of a decode step, counted without a GPU."
    )
    for name in ("hidden", "mlp", "layers", "heads", "kv_heads", "rank", "codes", "context"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(standard, name))
    parser.add_argument("--rows", type=int, default=64, help="rows, each with its own personality")
    parser.add_argument(
        "--bandwidth", type=float, default=4.8 * 0.85, help="TB/s that products reach (H200: 85%% of 4.8)"
    )
    parser.add_argument("--launch-us", type=float, default=2.0, help="time of a small kernel in a CUDA graph")
    given = vars(parser.parse_args(arguments))
    rows, bandwidth, launch = given.pop("rows"), given.pop("bandwidth") * 1e12, given.pop("launch_us") * 1e-6
    settings = replace(standard, **given)
    if settings.heads % settings.kv_heads or settings.hidden % settings.heads:
        parser.error("--hidden must be a multiple of --heads, and --heads one of --kv-heads")
    print(report(settings, rows, bandwidth, launch))


if __name__ == "__main__":
    main()
