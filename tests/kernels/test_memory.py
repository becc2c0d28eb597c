"""What an op reads and writes: only memory that is there, only what its arguments say, whatever another thread does."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
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
    activation_stats,
    add_rmsnorm,
    lora_add,
    lora_combine,
    lora_combine_reference,
    lora_expand_add,
    lora_shrink,
    lora_shrink_reference,
    lora_stacked_add,
    steered_gated_act,
    use_backend,
)
from tests.kernels import cases

Arguments = dict[str, Any]
FLOATS = (*cases.DTYPES, torch.float64)


def add_arguments(dtype: torch.dtype = torch.float32, tokens: int = 6) -> Arguments:
    return vars(cases.lora_case(tokens, 3, 4, 24, 19, dtype))


# ---- edges of activation_stats ---------------------------------------------------------------------------------------


def stats(edges: Tensor, gate: Tensor) -> Tensor:
    """The histogram, in the middle of a larger table whose rest must stay zero."""
    slots = torch.zeros(gate.shape[0], dtype=torch.int32)
    table = torch.zeros(3, gate.shape[1], len(edges) + 1, dtype=torch.int64)
    positive = torch.zeros(1, gate.shape[1], dtype=torch.int64)
    try:
        activation_stats(gate, "silu", slots, edges, positive, table[1:2])
    finally:
        assert not table[0].any() and not table[2].any()
    return table[1]


@pytest.mark.parametrize("tokens", [8, 2**13], ids=["few", "coded"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("edges", [[3.0, 2.0, 1.0, 0.0], [0.0, float("nan"), 1.0], [0.0, 1.0, 1.0], [float("nan")] * 3])
def test_edges_that_do_not_ascend_are_refused(edges: list[float], dtype: torch.dtype, tokens: int) -> None:
    with pytest.raises(ValueError, match="edges must ascend"):
        stats(torch.tensor(edges), cases.randn(cases.generator(0), tokens, 64, dtype=dtype))


@pytest.mark.parametrize("tokens", [8, 2**13], ids=["few", "coded"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("edges", [[3.0, 2.0, 1.0, 0.0], [0.0, float("nan"), 1.0], [float("-inf"), 5.0, -5.0]])
def test_every_value_falls_into_a_bin_whatever_the_edges_hold(
    edges: list[float], dtype: torch.dtype, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another thread changes them after they were checked."""
    monkeypatch.setattr("dpg_fast.kernels.ops.activation_stats.check", lambda *args: None)
    gate = cases.randn(cases.generator(0), tokens, 64, dtype=dtype)
    assert stats(torch.tensor(edges), gate).sum() == gate.numel()


# ---- empty banks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("K", "rank"), [(0, 4), (3, 0), (0, 0)])
def test_an_empty_bank_adds_nothing(K: int, rank: int, dtype: torch.dtype) -> None:
    c = cases.lora_case(5, K, rank, 24, 19, dtype).to(dtype)
    side = c.codes_a.dtype
    y, u = c.y.clone(), torch.zeros(5, rank, dtype=side)
    assert torch.equal(lora_add(y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots), c.y)
    assert torch.equal(lora_expand_add(y, u, c.B, c.codes_b, c.slots), c.y)
    assert torch.equal(lora_stacked_add(y, c.x[:, :0], c.B, c.codes_a, c.codes_b, c.slots, (19,)), c.y)
    assert torch.equal(lora_shrink(c.x, c.A, c.codes_a, c.slots), u)
    gated = steered_gated_act(c.y, c.y, "silu", lora=GatedLora(u, c.B, u, c.B, c.codes_a, c.slots))
    assert torch.equal(gated, steered_gated_act(c.y, c.y, "silu"))
    weight = torch.ones(19, dtype=dtype)
    with_bank = add_rmsnorm(c.y, c.y, weight, 1e-5, lora=RideAlong(u, c.B, c.codes_a, c.slots))
    assert all(map(torch.equal, with_bank, add_rmsnorm(c.y, c.y, weight, 1e-5)))


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_negated_views_are_read_with_their_sign() -> None:
    one, slots = torch.ones(1, 1), torch.zeros(1, dtype=torch.int32)
    assert lora_shrink(torch._neg_view(torch.ones(1, 8)), torch.ones(1, 1, 8), one, slots).item() == -8
    imaginary = torch.complex(one, 8 * one).conj().imag
    assert imaginary.is_neg() and lora_shrink(imaginary, one[None], one, slots).item() == -8
    given = add_arguments()
    for name in ("x", "A", "B", "codes_a", "codes_b"):
        plain = given | {name: -given[name], "y": given["y"].clone()}
        view = given | {name: torch._neg_view(given[name]), "y": given["y"].clone()}
        assert torch.equal(lora_add(*view.values()), lora_add(*plain.values()))


@pytest.mark.parametrize("name", ["y", "x", "A", "B", "codes_a", "codes_b", "slots"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_freed_and_cut_memory_is_refused(name: str, part: float) -> None:
    given = add_arguments()
    y = given["y"].clone()
    memory = given[name].untyped_storage()
    memory.resize_(int(part * memory.nbytes()))
    with pytest.raises(ValueError, match=rf"^{name} .*its memory has"):
        lora_add(*given.values())
    with pytest.raises(ValueError, match=r"of lora_add .*its memory has"):
        torch.ops.dpg_fast.lora_add_(*given.values())
    assert name == "y" or torch.equal(given["y"], y)


def test_zeros_without_memory_are_zeros() -> None:
    given = add_arguments() | {"x": torch._efficientzerotensor((6, 24))}
    assert torch.equal(lora_add(*given.values()), add_arguments()["y"])


@pytest.mark.parametrize("rows", [lambda y: y[:1].expand(6, 19), lambda y: y.as_strided((6, 19), (7, 1))])
def test_overlapping_outputs_are_refused(rows: Callable[[Tensor], Tensor]) -> None:
    given = add_arguments()
    given["y"] = rows(given["y"])
    with pytest.raises(ValueError, match="rows overlap"):
        lora_add(*given.values())


def test_inference_tensors_are_written_to_in_inference_mode_only() -> None:
    given = add_arguments()
    expected = lora_add(*(given | {"y": given["y"].clone()}).values())
    with torch.inference_mode():
        given["y"] = given["y"].clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match="inference tensor"):
        lora_add(*given.values())
    with torch.inference_mode():
        assert torch.equal(lora_add(*given.values()), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shift", [0, 5, 24])
def test_an_input_may_share_the_outputs_memory(shift: int, dtype: torch.dtype) -> None:
    """Chunks of tokens are written while later ones are still to be read: 40,000 tokens are several chunks."""
    tokens, d = 40_000, 24
    c = cases.lora_case(tokens, 2, 2, d, d, dtype).to(dtype)

    def added(apart: bool) -> Tensor:
        memory = (torch.arange(tokens * d + shift) % 1000 / 1000).to(dtype)
        y, x = memory[: tokens * d].view(tokens, d), memory[shift:].view(tokens, d)
        return lora_add(y, x.clone() if apart else x, c.A, c.B, c.codes_a, c.codes_b, c.slots)

    torch.testing.assert_close(added(False), added(True))


def test_y_and_products_side_by_side_take_the_direct_path(monkeypatch: pytest.MonkeyPatch) -> None:
    c = cases.lora_case(6, 3, 4, 24, 19, torch.float32)
    merged = cases.randn(cases.generator(1), 6, 31)
    monkeypatch.setattr("dpg_fast.kernels._checks.check_tensors", lambda **tensors: pytest.fail("not direct"))
    lora_stacked_add(merged[:, :19], merged[:, 19:], c.B, c.codes_a, c.codes_b, c.slots, (19,))


def test_unaligned_memory() -> None:
    given = add_arguments()
    expected = lora_add(*(given | {"y": given["y"].clone()}).values())
    memory = bytearray(4 * given["x"].numel() + 1)
    given["x"] = torch.frombuffer(memory, dtype=torch.float32, offset=1).view(6, 24).copy_(given["x"])
    torch.testing.assert_close(lora_add(*given.values()), expected)
    with use_backend("cpu"), pytest.raises(RuntimeError, match="'cpu' was requested but cannot serve"):
        lora_add(*given.values())


@pytest.mark.skipif(_cpu.C is None, reason="compiled module missing")
def test_what_is_plain_does_not_depend_on_the_mode_at_import() -> None:
    with torch.inference_mode(), torch.device("meta"):
        samples = _cpu._samples()
    assert [keys for _, _, keys, *_ in samples] == [keys for _, _, keys, *_ in _cpu._samples()]
    assert all(t.is_cpu and not t.is_inference() for t, *_ in samples)


@pytest.mark.skipif(_cpu.C is None, reason="compiled module missing")
def test_a_torch_with_other_fields_is_not_read() -> None:
    C, good = _cpu.C, _cpu._samples()
    bind = functools.partial(C.bind_torch, torch.Tensor, torch.nn.Parameter, torch.is_inference_mode_enabled)
    given = add_arguments()
    try:
        for field in (2, 4, 5):
            samples = [(*s[:field], s[field] + 8, *s[field + 1 :]) for s in good[:1]] + good[1:]
            assert "keeps the fields of its tensors where" in bind(samples)
            assert not C.lora_add(*given.values())
        assert "keeps the fields" in bind([])
    finally:
        assert bind(good) == ""
    assert C.lora_add(*given.values())


# ---- sizes and groups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(2**62,) * 4 + (19,), (2**63 - 1, 1, 19), (2**70, 19), (-1, 20)])
def test_widths_whose_sum_wraps_are_refused(widths: tuple[int, ...]) -> None:
    c = cases.lora_case(6, 1, 1, 24, 19, torch.float32)
    with pytest.raises(ValueError, match="widths must add up"):
        lora_stacked_add(c.y, c.y[:, : len(widths)], c.B, c.codes_a, c.codes_b, c.slots, widths)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bad", [[], {}, 3, "x", torch.ones(7), (1, 2), tuple(range(9))], ids=repr)
def test_groups_must_be_tuples(bad: Any, grad: bool) -> None:
    gate, up, lora, steering = cases.gated_case(4, 3, 2, 16, torch.float32)
    with torch.set_grad_enabled(grad):
        with pytest.raises(TypeError, match="lora must be a GatedLora"):
            steered_gated_act(gate, up, "silu", lora=bad)
        with pytest.raises(TypeError, match="steering must be a Steering"):
            steered_gated_act(gate, up, "silu", steering=bad)
        with pytest.raises(TypeError, match="lora must be a RideAlong"):
            add_rmsnorm(gate, up, gate[0].clone(), 1e-5, lora=bad)
        with pytest.raises(TypeError, match=r"lora\.slots must be a tensor, got list"):
            steered_gated_act(gate, up, "silu", lora=lora._replace(slots=[0] * 4))  # type: ignore[arg-type]
        plain = steered_gated_act(gate, up, "silu", lora=tuple(lora), steering=tuple(steering))  # type: ignore[arg-type]
        assert torch.equal(plain, steered_gated_act(gate, up, "silu", lora=lora, steering=steering))


@pytest.mark.parametrize("grad", [False, True])
def test_what_is_no_tensor_is_named(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        for name in add_arguments():
            if name != "scale":
                with pytest.raises(TypeError, match=f"^{name} must be a tensor, got NoneType"):
                    lora_add(*(add_arguments() | {name: None}).values())


# ---- values that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_values_that_are_not_finite_stay_with_their_token(dtype: torch.dtype, value: float) -> None:
    """They give something that is not finite where the definition does; whether NaN or infinite may differ."""
    c = cases.lora_case(9, 3, 4, 24, 19, dtype).to(dtype)
    c.codes_a[1, 2] = value
    u, expected = lora_shrink(c.x, c.A, c.codes_a, c.slots), lora_shrink_reference(c.x, c.A, c.codes_a, c.slots)
    assert torch.equal(u.isfinite(), expected.isfinite())
    assert torch.equal(u.isfinite().all(1), c.slots != 1)
    S = c.x[:, :24]
    S[::2] = value
    combined, defined = (f(S, c.codes_b, c.slots, 2) for f in (lora_combine, lora_combine_reference))
    assert torch.equal(combined.isfinite(), defined.isfinite())
    assert not combined[:, c.slots < 0].any()


# ---- other threads ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_slots_that_change_during_a_call() -> None:
    """A child, since a fault here would be a crash: another thread keeps writing slots far out of range."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            code = 0 if _race() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _race() -> bool:
    """Calls while a thread changes the slots; whether both outcomes, a result and a refusal, were seen."""
    c = cases.lora_case(3000, 2, 2, 300, 300, torch.float32)
    gate, up, lora, steering = cases.gated_case(3000, 2, 2, 300, torch.float32)
    slots = c.slots
    lora, steering = lora._replace(slots=slots), Steering(*steering[:3], slots)
    edges, positive = torch.arange(4) * 0.5, torch.zeros(4, 300, dtype=torch.int64)
    histogram = torch.zeros(4, 300, 5, dtype=torch.int64)
    good, stop = slots.clone(), threading.Event()
    bad = torch.full_like(slots, 2**30)

    def change() -> None:
        while not stop.is_set():
            slots.copy_(bad)
            slots.copy_(good)

    thread = threading.Thread(target=change)
    thread.start()
    calls: list[Callable[[], Any]] = [
        lambda: lora_add(c.y, c.x, c.A, c.B, c.codes_a, c.codes_b, slots),
        lambda: lora_shrink(c.x, c.A, c.codes_a, slots),
        lambda: lora_stacked_add(c.y, c.x[:, :4], c.B, c.codes_a, c.codes_b, slots, (300,)),
        lambda: steered_gated_act(gate, up, "silu", lora=lora, steering=steering),
        lambda: activation_stats(gate, "silu", slots, edges, positive, histogram),
    ]
    seen: set[str] = set()
    until = time.monotonic() + 20
    for turn in itertools.count():
        if (turn >= 20 and len(seen) == 2) or time.monotonic() > until:
            break
        for fn in calls:
            try:
                fn()
                seen.add("result")
            except IndexError:
                seen.add("refusal")
    stop.set()
    thread.join()
    return seen == {"result", "refusal"}
