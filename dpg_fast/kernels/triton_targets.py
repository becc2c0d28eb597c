"""The Triton kernels as they would be compiled for a GPU, on a machine without one.

`targets()` lists every kernel with the arguments that the ops really pass, for shapes of a small and a large
model; `compile_target` runs Triton's compiler and ptxas on one and reads what the program needs. Not for a
process that runs kernels under Triton's interpreter.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dpg_fast.kernels import _triton
from dpg_fast.kernels.types import ACTIVATIONS, POLES

#: name -> (hidden size, MLP width, bank entries, rank)
MODELS: dict[str, tuple[int, int, int, int]] = {
    "smollm2-135m": (576, 1536, 6, 8),
    "llama-8b": (4096, 14336, 6, 16),
    "rank-64": (576, 1536, 6, 64),
}
TOKENS: dict[str, int] = {"decode": 8, "prefill": 2048}
DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TRAINING = ("lora_shrink_grad", "lora_delta", "slot_sums", "steered_gated_act_grad")  # never run for a few tokens
SLOTS, BINS = 64, 301

_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Target:
    """One kernel with fixed argument types, constants, and tuning candidate."""

    name: str  # op, model, phase, dtype, kernel, candidate
    kernel: Any  # triton.JITFunction
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list[list[Any]]]
    options: dict[str, Any]  # num_warps, num_stages


class Compiled(NamedTuple):
    """What a compiled kernel needs."""

    name: str
    registers: int  # per thread
    spilled: int  # bytes stored and loaded again, per thread
    stack: int  # bytes per thread
    shared: int  # bytes per block
    instructions: str  # matrix instructions in use, e.g. "wgmma"; "" for none
    ptx: str


def _require_compiler() -> None:
    if not _triton.installed():
        raise RuntimeError("Triton is not installed")
    if _triton.interpreting():
        raise RuntimeError("TRITON_INTERPRET is set: kernels are defined for the interpreter and cannot be compiled")


def _target(name: str, kernel: Any, arguments: dict[str, Any]) -> Target:
    """Types, constants and alignments, as Triton's launcher would derive them from the arguments."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    options = {k: v for k, v in arguments.items() if k not in kernel.arg_names}
    for i, param in enumerate(kernel.params):
        value = arguments[param.name]
        if param.is_constexpr or value is None or (type(value) is int and value == 1 and not param.do_not_specialize):
            signature[param.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[param.name] = "*" + _TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[param.name] = "fp32"
        else:
            signature[param.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not param.do_not_specialize:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return Target(name, kernel, signature, constants, attributes, options)


def _calls(model: str, tokens: int, dtype: torch.dtype) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(op, function of the backend, arguments on "meta")."""
    from dpg_fast.kernels.ops.activation_stats import triton as stats
    from dpg_fast.kernels.ops.add_rmsnorm import triton as add_rmsnorm
    from dpg_fast.kernels.ops.lora_add import triton as lora_add
    from dpg_fast.kernels.ops.lora_combine import triton as lora_combine
    from dpg_fast.kernels.ops.lora_expand_add import triton as lora_expand_add
    from dpg_fast.kernels.ops.lora_shrink import triton as lora_shrink
    from dpg_fast.kernels.ops.lora_stacked_add import triton as lora_stacked_add
    from dpg_fast.kernels.ops.steered_gated_act import triton as gated

    d, width, K, r = MODELS[model]

    def empty(*shape: int, dt: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dt, device="meta")

    f32, i32 = torch.float32, torch.int32
    x, A, codes, slots = empty(tokens, d), empty(K, r, d), empty(SLOTS, K, dt=f32), empty(tokens, dt=i32)
    u = empty(tokens, r, dt=f32)
    yield "lora_shrink", lora_shrink.run, (x, A, codes, slots)
    yield "lora_shrink_grad", lora_shrink.run_grad, (x, A, codes, slots, u, True)
    yield "lora_expand_add", lora_expand_add.run, (x, u, A, codes, slots, 0.5)
    yield "slot_sums", lora_shrink.slot_sums, (empty(tokens, K, dt=f32), slots, SLOTS)
    yield "lora_delta", lora_expand_add.delta, (u[None], A[None], codes, slots, 1.0)
    yield "lora_add", lora_add.run, (x, x, A, A, codes, codes, slots, 0.5)
    S, wide = empty(tokens, 3 * K * r), empty(K, r, 3 * d)
    yield "lora_combine", lora_combine.run, (S, codes, slots, 3)
    yield "lora_stacked_add", lora_stacked_add.run, (empty(tokens, 3 * d), S, wide, codes, codes, slots, [d, d, d], 0.5)

    lora_of_y = (u, A, codes, slots, 0.5)
    yield "add_rmsnorm", add_rmsnorm.run, (x, x, empty(d), 1e-5, False, *lora_of_y)
    yield "add_rmsnorm", add_rmsnorm.run, (x, x, empty(d), 1e-5, True, *(None,) * 4, 1.0)

    gate, B = empty(tokens, width), empty(K, r, width)
    lora = (u, B, u, B, codes, slots, 0.5)
    steering = (empty(width, dt=torch.int16), empty(POLES, width, dt=f32), empty(SLOTS, POLES, dt=f32), slots)
    for act in ACTIVATIONS:
        for name, rest in (
            ("plain", (*(None,) * 6, 1.0, *(None,) * 4)),
            ("steered", (*(None,) * 6, 1.0, *steering)),
            ("lora", (*lora, *(None,) * 4)),
            ("lora_steered", (*lora, *steering)),
        ):
            yield f"steered_gated_act/{act}/{name}", gated.run, (gate, gate, act, *rest)
            yield f"steered_gated_act_grad/{act}/{name}", gated.run_grad, (gate, gate, gate, act, *rest, False)
        tables = empty(1, width, dt=torch.int64), empty(1, width, BINS, dt=torch.int32)
        yield f"activation_stats/{act}", stats.run, (gate, act, slots, empty(BINS - 1, dt=f32), *tables)


def targets(
    ops: tuple[str, ...] | None = None,
    models: tuple[str, ...] = tuple(MODELS),
    phases: tuple[str, ...] = tuple(TOKENS),
    dtypes: tuple[str, ...] = tuple(DTYPES),
    all_candidates: bool | None = None,
) -> Iterator[Target]:
    """Every distinct kernel behind these ops (None: all), models, phases and dtypes; training only in "prefill".

    all_candidates: every candidate of the tuner, or the first one; None: every one for "decode" alone.

    Raises:
        RuntimeError: Triton is not installed, or runs under its interpreter in this process.
    """
    _require_compiler()
    from dpg_fast.kernels._triton_jit import recorded

    seen: set[str] = set()
    for model in models:
        for phase in phases:
            for dtype in dtypes:
                for op, function, arguments in _calls(model, TOKENS[phase], DTYPES[dtype]):
                    name = op.split("/")[0]
                    if (ops is not None and name not in ops) or (phase == "decode" and name in TRAINING):
                        continue
                    every = phase == "decode" if all_candidates is None else all_candidates
                    with recorded() as launches:
                        function(*arguments)
                    for kernel, given in launches:
                        candidates = getattr(kernel, "configs", None)
                        named = f"{op}/{model}/{phase}/{dtype}/{getattr(kernel, 'base_fn', kernel).__name__}"
                        if candidates is None:
                            chosen: list[dict[str, Any]] = [{}]
                        else:
                            kept = (
                                kernel.early_config_prune(candidates, {}, **given)
                                if kernel.early_config_prune
                                else candidates
                            )
                            chosen = [c.all_kwargs() for c in kept[: None if every else 1]]
                        for config in chosen:
                            label = ",".join(f"{k}={v}" for k, v in config.items())
                            jit = kernel.fn if candidates is not None else kernel
                            target = _target(f"{named}[{label}]", jit, {**given, **config})
                            key = str((jit.__name__, target.signature, target.constants, target.attributes, config))
                            if key not in seen:
                                seen.add(key)
                                yield target


_USAGE = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def report_targets() -> Iterator[Target]:
    """The selection of `benchmarks.compile_report`: what can be chosen for decoding, in every dtype, and samples of the rest.

    Activations other than SiLU differ in their elementwise part alone, so they stand for it once; the sizes of the large
    model change constants, not code.
    """
    wide = ("lora_shrink", "lora_expand_add", "lora_stacked_add", "steered_gated_act")
    for target in targets(models=("smollm2-135m",), phases=("decode",)):
        if not re.search(r"/gelu", target.name) or re.search(r"lora_steered|activation_stats", target.name):
            yield target
    for target in targets(wide, ("rank-64",), ("decode",)):
        if "act/" not in target.name or "silu/lora_steered" in target.name:
            yield target
    some = targets(models=("llama-8b",), dtypes=("bf16",))
    yield from (t for t in some if "act" not in t.name or "silu/lora_steered" in t.name)
    grad = targets(TRAINING, ("smollm2-135m",), ("prefill",), ("fp16", "fp32"))
    yield from (t for t in grad if "act_grad" not in t.name or "silu/lora_steered" in t.name)


def compile_target(target: Target, capability: int = 90) -> Compiled:
    """Compiles for this compute capability (80, 90) and reads registers and spills from ptxas.

    Raises:
        RuntimeError: as `targets`, or ptxas fails.
    """
    _require_compiler()
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(target.kernel, target.signature, target.constants, target.attributes)
    gpu = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=gpu, options=target.options)
    ptx = built.asm["ptx"]
    arch = re.search(r"^\.target\s+(\S+)", ptx, re.MULTILINE)
    for ptxas in sorted((Path(triton.__file__).parent / "backends" / "nvidia" / "bin").glob("ptxas*")):
        with tempfile.TemporaryDirectory() as folder:  # Triton ships one ptxas per range of PTX versions
            file = Path(folder) / "kernel.ptx"
            file.write_text(ptx)
            machine = arch.group(1) if arch else f"sm_{capability}"
            command = [str(ptxas), "-v", f"-arch={machine}", str(file), "-o", f"{file}.cubin"]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            break
    else:
        raise RuntimeError(f"no ptxas of this Triton takes {target.name}")
    usage, spills = _USAGE.search(done.stderr), _SPILLS.search(done.stderr)
    if usage is None or spills is None:
        raise RuntimeError(f"ptxas says nothing about {target.name}: {done.stderr.strip()[:500]}")
    matrix = [name for name in ("wgmma", "mma.sync") if f"{name}." in ptx]
    stack, stores, loads = (int(n) for n in spills.groups())
    shared = int(built.metadata.shared)
    return Compiled(target.name, int(usage.group(1)), stores + loads, stack, shared, "+".join(matrix), ptx)
