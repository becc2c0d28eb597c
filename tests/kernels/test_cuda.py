"""What is special to the CUDA kernels, on the emulator: paths for sizes and alignments, bounds, thread order, bindings."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dpg_fast.kernels import (
    GatedLora,
    RideAlong,
    Steering,
    _cpu,
    _cuda,
    activation_stats,
    add_rmsnorm,
    explain,
    lora_add,
    lora_combine,
    lora_expand_add,
    lora_expand_add_reference,
    lora_shrink,
    lora_shrink_reference,
    lora_stacked_add,
    steered_gated_act,
    steered_gated_act_reference,
)
from dpg_fast.kernels.ops.lora_add import cuda as lora_add_cuda
from dpg_fast.kernels.ops.lora_shrink import cuda as lora_shrink_cuda
from dpg_fast.kernels.ops.steered_gated_act import cuda as gated_cuda
from dpg_fast.kernels.testing import assert_as_accurate
from tests.kernels import cases
from tests.kernels.emulated_cuda import BUILT, ROOT, emulated_cuda, library, library_file

# (tokens, K, rank, d_in, width): one token, decode, prefill with the bank kept in shared memory, more bank rows than fit
# at a time, a bank too large to keep, 64 entries; rows on 16 bytes and not.
SIZES = (
    (1, 6, 16, 256, 256),
    (17, 6, 16, 264, 136),
    (66, 6, 8, 96, 136),
    (66, 6, 8, 97, 131),
    (66, 18, 16, 64, 136),
    (66, 64, 8, 72, 48),
    (66, 9, 3, 40, 129),
    (17, 2, 264, 72, 136),
)

Everything = list[Tensor]


def everything(c: cases.Lora, gated: tuple[Tensor, Tensor, GatedLora, Steering], edges: Tensor) -> Everything:
    """Every op; results with the token as first dimension, but for the tables of activation_stats."""
    gate, up, lora, steering = gated
    u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
    pair = lora_shrink(c.x, torch.stack([c.A, c.A * 2]), c.codes_a, c.slots)
    out = [u, pair[0], pair[1], lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)]
    out.append(lora_expand_add(c.y.clone(), u, c.B, c.codes_b, c.slots, c.scale))
    K, rank, width = c.B.shape
    S = c.x[:, torch.arange(2 * K * rank) % c.x.shape[1]]
    out.append(lora_combine(S, c.codes_a, c.slots, 2)[1])
    widths = (width // 2 // 8 * 8, width - width // 2 // 8 * 8)
    out.append(lora_stacked_add(c.y.clone(), S, c.B, c.codes_a, c.codes_b, c.slots, widths))
    for with_lora in (None, lora):
        for with_steering in (None, steering):
            out.append(steered_gated_act(gate, up, "gelu_tanh", lora=with_lora, steering=with_steering))
    ride = RideAlong(u, c.B, c.codes_b, c.slots, c.scale)
    out += [*add_rmsnorm(c.y, c.y.flip(1), c.B[0, 0], 1e-5, lora=ride), *add_rmsnorm(c.y, c.y, c.B[0, 0], 1e-5)]
    positive = torch.zeros(5, gate.shape[1], dtype=torch.int64)
    histogram = torch.zeros(5, gate.shape[1], len(edges) + 1, dtype=torch.int32)
    activation_stats(gate, "silu", steering.slots, edges, positive, histogram)
    return [*out, positive, histogram]


def arguments(
    size: tuple[int, int, int, int, int], dtype: torch.dtype
) -> tuple[cases.Lora, tuple[Tensor, Tensor, GatedLora, Steering], Tensor]:
    tokens, K, rank, _, width = size
    return (
        cases.lora_case(*size, dtype),
        cases.gated_case(tokens, K, rank, width, dtype),
        torch.arange(12, dtype=torch.float32) / 4,
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_accuracy_of_every_path(dtype: torch.dtype, size: tuple[int, int, int, int, int]) -> None:
    c, (gate, up, lora, steering), _ = arguments(size, dtype)
    d = c.to(torch.float64)
    with emulated_cuda():
        u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
        y = lora_expand_add(c.y.clone(), u, c.B, c.codes_b, c.slots, c.scale)
        h = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
    assert_as_accurate(u, cases.unfused_shrink(c), lora_shrink_reference(d.x, d.A, d.codes_a, d.slots))
    exact = lora_expand_add_reference(d.y, u.double(), d.B, d.codes_b, d.slots, d.scale)
    assert_as_accurate(y, cases.unfused_add(c.y, u, c.B, c.codes_b, c.slots, c.scale), exact)
    exact = steered_gated_act_reference(
        gate.double(), up.double(), "silu", lora=cases.double_lora(lora), steering=cases.double_steering(steering)
    )
    assert_as_accurate(h, cases.unfused_gated(gate, up, "silu", lora, steering), exact)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_order_of_threads_does_not_matter(dtype: torch.dtype, size: tuple[int, int, int, int, int]) -> None:
    """A missing barrier would show: shared memory is NaN before it is written."""
    args = arguments(size, dtype)
    with emulated_cuda():
        ascending = everything(*args)
    with emulated_cuda(descending=True):
        descending = everything(*args)
    assert all(torch.equal(a, b) for a, b in zip(ascending, descending, strict=True))


@pytest.mark.parametrize("size", [s for s in SIZES if s[0] > 64], ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_prefill_has_the_bits_of_decode(dtype: torch.dtype, size: tuple[int, int, int, int, int]) -> None:
    c, gated, edges = arguments(size, dtype)
    gate, up, lora, steering = gated
    assert lora.u_up is not None
    with emulated_cuda():
        whole = everything(c, gated, edges)[:-2]
        for rows in (torch.tensor([3]), torch.arange(40, size[0]), torch.tensor([size[0] - 1, 0, 17, 5, 64])):
            part = cases.Lora(c.y[rows], c.x[rows], c.A, c.B, c.codes_a, c.codes_b, c.slots[rows], c.scale)
            part_lora = lora._replace(u_gate=lora.u_gate[rows], u_up=lora.u_up[rows], slots=lora.slots[rows])
            part_gated = gate[rows], up[rows], part_lora, steering._replace(slots=steering.slots[rows])
            for full, some in zip(whole, everything(part, part_gated, edges)[:-2], strict=True):
                assert torch.equal(full[rows], some)


@pytest.mark.parametrize("tokens", [5, 70])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_alignment_does_not_matter(dtype: torch.dtype, tokens: int) -> None:
    c, (gate, up, lora, steering), edges = arguments((tokens, 6, 8, 96, 136), dtype)

    def moved(t: Tensor) -> Tensor:
        """The same values in rows that start one element off."""
        wide = torch.zeros(*t.shape[:-1], t.shape[-1] + 3, dtype=t.dtype)
        wide[..., 1:-2] = t
        return wide[..., 1:-2]

    with emulated_cuda():
        aligned = everything(c, (gate, up, lora, steering), edges)
        d = cases.Lora(moved(c.y), moved(c.x), c.A, moved(c.B), c.codes_a, c.codes_b, c.slots, c.scale)
        other = lora._replace(B_gate=moved(lora.B_gate), B_up=moved(lora.B_up))
        off = everything(d, (moved(gate), moved(up), other, steering), edges)
    assert all(torch.equal(a, b) for a, b in zip(aligned, off, strict=True))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_slots_outside_the_table_count_as_none(dtype: torch.dtype) -> None:
    """The device cannot report them. The checks of CPU tensors would: the backends are called directly."""
    c, (gate, up, lora, steering), _ = arguments((9, 6, 8, 64, 72), dtype)
    wild, none = c.slots.clone(), c.slots.clone()
    wild[0], wild[3], wild[4] = 4, 2**31 - 1, -(2**31)
    none[0] = none[3] = none[4] = -1
    strengths = steering.strengths[:4]
    results = []
    with emulated_cuda():
        for slots in (wild, none):
            y = c.y.clone()
            lora_add_cuda.run(y, c.x, c.A, c.B, c.codes_a, c.codes_b, slots, 1.0)
            u = lora_shrink_cuda.run(c.x, c.A, c.codes_a, slots)
            steer = (steering.clamp_mask, steering.add, strengths, slots)
            h = gated_cuda.run(gate, up, "silu", *lora[:5], slots, 1.0, *steer)
            results.append((y, u, h))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("K", "r"), [(0, 4), (3, 0), (0, 0)])
def test_empty_banks_are_left_to_other_backends(K: int, r: int) -> None:
    y, x, A, B = torch.ones(2, 5), torch.ones(2, 7), torch.zeros(K, r, 7), torch.zeros(K, r, 5)
    codes, slots = torch.zeros(1, K), torch.zeros(2, dtype=torch.int32)
    with emulated_cuda():
        for call in (
            lambda: lora_add(y, x, A, B, codes, codes, slots, 1.0),
            lambda: lora_shrink(x, A, codes, slots),
            lambda: lora_expand_add(y, torch.zeros(2, r), B, codes, slots, 1.0),
        ):
            with pytest.raises(RuntimeError, match="bank"):
                call()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_nan_stays_in_its_token(dtype: torch.dtype) -> None:
    c = cases.lora_case(20, 6, 8, 64, 72, dtype)
    c.x[0, 5] = float("nan")
    c.x[1] = float("nan")  # slot -1
    c.x[9, 0] = float("inf")
    with emulated_cuda():
        y = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    finite = torch.isfinite(y).all(1)
    assert not finite[0] and not finite[9] and finite.sum() == 18


def test_fp16_coefficients_outside_the_range_of_fp16() -> None:
    """u and codes are float32: their product may exceed 65504, or vanish, where the delta does neither."""
    g = cases.generator(2)
    y, slots = torch.zeros(20, 64, dtype=torch.float16), torch.zeros(20, dtype=torch.int32)
    for size in (1e6, 1e-7):
        u, B = cases.randn(g, 20, 8) * size, (cases.randn(g, 6, 8, 64)).half()
        codes = cases.randn(g, 1, 6)
        scale = 1 / size
        exact = lora_expand_add_reference(y.double(), u.double(), B.double(), codes.double(), slots, scale)
        with emulated_cuda():
            got = lora_expand_add(y.clone(), u, B, codes, slots, scale)
            grown = lora_expand_add(y.clone(), u, (B * 1e-4).half(), codes, slots, 1.0 if size > 1 else 1e9)
        torch.testing.assert_close(got.double(), exact, rtol=6e-4, atol=1e-3)
        assert torch.isfinite(grown).all() and (grown != 0).float().mean() > 0.99


def guarded(t: Tensor, at_end: bool) -> Tensor:
    """A copy whose memory ends (or starts) where no memory is mapped."""
    page = mmap.PAGESIZE
    size = max(t.untyped_storage().nbytes(), 1)
    length = (size + page - 1) // page * page
    area = mmap.mmap(-1, length + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    for where in (base, base + page + length):
        assert libc.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(page), 0) == 0
    offset = page + (length - size if at_end else 0)
    storage = torch.frombuffer(area, dtype=torch.uint8, offset=offset, count=size)
    whole = storage[: t.untyped_storage().nbytes()].view(t.dtype)
    whole.copy_(torch.tensor([], dtype=t.dtype).set_(t.untyped_storage()))
    return whole.as_strided(t.shape, t.stride(), t.storage_offset())


def run_everything_guarded(at_end: bool) -> None:
    """Every op on tensors that border on unmapped memory: a stray access kills the process."""
    make = torch.empty

    def empty(*args: Any, **kwargs: Any) -> Tensor:
        return guarded(make(*args, **kwargs), at_end)

    for size in SIZES:
        for dtype in cases.DTYPES:
            print(size, dtype, flush=True)
            c, (gate, up, lora, steering), edges = arguments(size, dtype)
            inputs = {k: guarded(v, at_end) if isinstance(v, Tensor) else v for k, v in vars(c).items()}
            gated = (
                guarded(gate.contiguous(), at_end),
                guarded(up.contiguous(), at_end),
                GatedLora(*(guarded(t, at_end) if isinstance(t, Tensor) else t for t in lora)),
                Steering(*(guarded(t, at_end) for t in steering)),
            )
            try:
                torch.empty = empty
                with emulated_cuda():
                    everything(cases.Lora(**inputs), gated, guarded(edges, at_end))
            finally:
                torch.empty = make
    print("done", flush=True)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
@pytest.mark.parametrize("at_end", [True, False], ids=["end", "start"])
def test_no_access_outside_the_tensors(at_end: bool) -> None:
    """In a process of its own: this one has threads, and may not survive."""
    program = f"from tests.kernels.test_cuda import run_everything_guarded; run_everything_guarded({at_end})"
    environment = os.environ | {BUILT: library_file(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), (done.stdout[-200:], done.stderr[-2000:])


def test_emulator_notices_faults() -> None:
    lib = library()
    lib.dpg_emulator_set_order(ctypes.c_int64(0))

    def message(fault: Callable[[], int]) -> str:
        return str(lib.dpg_cuda_error_text(fault()).decode())

    assert message(lib.dpg_fault_misaligned) == "a vector access is not aligned"
    assert message(lib.dpg_fault_overrun) == "shared memory overrun"
    assert message(lib.dpg_fault_no_wait) == "a thread ended without waiting for its copies"
    assert message(lib.dpg_fault_uneven_barrier) == "the threads of a block wait for different things"
    seen = []
    for descending in (0, 1):
        lib.dpg_emulator_set_order(ctypes.c_int64(descending))
        out = ctypes.c_float(0)
        assert lib.dpg_fault_race(ctypes.byref(out)) == 0
        seen.append(out.value)
    assert seen[0] == 1.0 and seen[1] != seen[1]


def test_reasons() -> None:
    rows = {r.op: r for r in explain("cpu") if r.backend == "cuda"}
    assert len(rows) == 8 and not any(r.ok for r in rows.values())
    archs = _cpu.C is not None and _cpu.C.cuda_archs
    expected = "tensors are on cpu" if archs else ("built without CUDA" if _cpu.C is not None else "not found")
    assert all(expected in r.reason for r in rows.values())


@pytest.mark.skipif(_cpu.C is None or not _cpu.C.cuda_archs, reason="built without CUDA kernels")
def test_compiled_launchers_take_what_python_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tokens they return before CUDA is asked for anything."""
    called = []

    def launch(name: str, device: torch.device, *args: int | float) -> None:
        called.append(name)
        getattr(_cpu.C, "cuda_" + name)(*args, 0)

    c, gated, edges = arguments((0, 6, 8, 64, 72), torch.bfloat16)
    with emulated_cuda():
        monkeypatch.setattr(_cuda, "launch", launch)
        everything(c, gated, edges)
    ops = {"lora_shrink", "lora_combine", "lora_expand_add", "lora_add", "lora_stacked_add", "steered_gated_act"}
    assert set(called) == {*ops, "activation_stats", "add_rmsnorm"}
