"""Calls of every op with one or two arguments made wrong or odd, in forked children: `python -m tests.kernels.mutations`.

A call must give what the reference gives, or both must raise, in a documented type and without having written anything.
A child that dies, or does not end, has failed in the case whose number it last noted.
"""

from __future__ import annotations

import argparse
import math
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpg_fast import kernels
from dpg_fast.kernels import POLES, GatedLora, RideAlong, Steering

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DOCUMENTED = (TypeError, ValueError, IndexError, RuntimeError)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float64: 1e-12}
WRITTEN = {
    "lora_add": ("y",),
    "lora_expand_add": ("y",),
    "lora_stacked_add": ("y",),
    "activation_stats": ("positive", "histogram"),
}
Arguments = dict[str, Any]


class Case(NamedTuple):
    """One mutation; the seed decides the sizes, the values, the grad mode and whether a second argument is mutated too."""

    op: str
    dtype: torch.dtype
    argument: str
    mutation: str
    seed: int


# ---- arguments -------------------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    T: int
    K: int
    r: int
    d: int
    width: int


def sizes(rng: random.Random) -> Sizes:
    if rng.random() < 0.7:
        return Sizes(5, 3, 4, 24, 19)
    return Sizes(*(rng.choice(few) for few in ((0, 1, 2, 17), (0, 1, 9), (0, 1, 3, 16), (0, 1, 40), (0, 1, 2, 70))))


def arguments(op: str, dtype: torch.dtype, s: Sizes, g: torch.Generator) -> Arguments:
    """Valid arguments by name, in the order of the op."""
    side = torch.float64 if dtype == torch.float64 else torch.float32

    def values(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=g).to(kind)

    def slots(rows: int = 3) -> Tensor:
        return torch.randint(-1, rows, (s.T,), generator=g, dtype=torch.int32)

    def codes() -> Tensor:
        return values(3, s.K, kind=side)

    def steering(width: int) -> Steering:
        mask = torch.randint(0, 1 << POLES, (width,), generator=g).to(torch.int16)
        return Steering(mask, values(POLES, width, kind=side), values(3, POLES, kind=side), slots())

    u, B = values(s.T, s.r, kind=side), values(s.K, s.r, s.width)
    if op == "lora_shrink":
        groups = torch.randint(0, 3, (), generator=g).item()
        A = values(s.K, s.r, s.d) if groups == 0 else values(int(groups), s.K, s.r, s.d)
        return {"x": values(s.T, s.d), "A": A, "codes": codes(), "slots": slots()}
    if op == "lora_combine":
        return {"S": values(s.T, 2 * s.K * s.r), "codes": codes(), "slots": slots(), "groups": 2}
    if op == "lora_expand_add":
        return {"y": values(s.T, s.width), "u": u, "B": B, "codes": codes(), "slots": slots(), "scale": 0.5}
    if op == "lora_add":
        given = {"y": values(s.T, s.width), "x": values(s.T, s.d), "A": values(s.K, s.r, s.d), "B": B}
        return given | {"codes_a": codes(), "codes_b": codes(), "slots": slots(), "scale": 0.5}
    if op == "lora_stacked_add":
        widths = (s.width // 2, 0, s.width - s.width // 2)
        given = {"y": values(s.T, s.width), "S": values(s.T, 3 * s.K * s.r), "B": B}
        return given | {"codes_a": codes(), "codes_b": codes(), "slots": slots(), "widths": widths, "scale": 0.5}
    if op == "activation_stats":
        edges = torch.arange(int(torch.randint(1, 9, (), generator=g))) * 0.25
        count = torch.int32 if torch.rand((), generator=g) < 0.5 else torch.int64
        given = {"gate": values(s.T, s.width), "act": "silu", "slots": slots(), "edges": edges}
        tables = torch.zeros(3, s.width, dtype=torch.int64), torch.zeros(3, s.width, len(edges) + 1, dtype=count)
        return given | dict(zip(("positive", "histogram"), tables, strict=True))
    if op == "add_rmsnorm":
        given = {"y": values(s.T, s.width), "residual": values(s.T, s.width), "weight": values(s.width), "eps": 1e-5}
        return given | {"unit_offset": False, "lora": RideAlong(u, B, codes(), slots(), 0.5)}
    if op == "steered":
        return {"v": values(s.T, s.width), "steering": steering(s.width)}
    packed = torch.rand((), generator=g) < 0.5
    both = (values(2, s.T, s.r, kind=side), B, None) if packed else (u, B, values(s.T, s.r, kind=side))
    lora = GatedLora(*both, values(s.K, s.r, s.width), codes(), slots(), 0.5)
    given = {"gate": values(s.T, s.width), "up": values(s.T, s.width), "act": "gelu_tanh"}
    return given | {"lora": lora, "steering": steering(s.width)}


NAMES = ("lora_shrink", "lora_combine", "lora_expand_add", "lora_add", "lora_stacked_add", "activation_stats")
NAMES += ("add_rmsnorm", "steered", "steered_gated_act")
KEYWORDS = ("lora", "steering", "unit_offset")


def call(op: str, given: Arguments) -> Any:
    by_name = {name: given[name] for name in given if name in KEYWORDS and op != "steered"}
    return getattr(kernels, op)(*(value for name, value in given.items() if name not in by_name), **by_name)


def places(op: str) -> list[str]:
    """Names of all arguments, those inside a group as group.name."""
    given = arguments(op, torch.float32, Sizes(5, 3, 4, 24, 19), torch.Generator().manual_seed(0))
    names = list(given)
    for name, value in given.items():
        names += [f"{name}.{inner}" for inner in getattr(value, "_fields", ())]
    return names


def get(given: Arguments, place: str) -> Any:
    name, _, inner = place.partition(".")
    return getattr(given[name], inner, None) if inner else given[name]


def put(given: Arguments, place: str, value: Any) -> None:
    name, _, inner = place.partition(".")
    if not inner:
        given[name] = value
    elif hasattr(given[name], "_replace"):
        given[name] = given[name]._replace(**{inner: value})


# ---- mutations of tensors --------------------------------------------------------------------------------------------


class Odd(Tensor):
    """A plain subclass."""


def _spaced(t: Tensor, rng: random.Random) -> Tensor:
    """Rows further apart than they are long, in the middle of their memory."""
    if t.dim() == 0:
        return t
    wide = torch.zeros((*t.shape[:-1], t.shape[-1] + 5), dtype=t.dtype)
    part = wide[..., 2 : 2 + t.shape[-1]]
    return part.copy_(t)


def _strided(t: Tensor, rng: random.Random) -> Tensor:
    if t.dim() == 0:
        return t
    wide = torch.zeros((*t.shape[:-1], 2 * t.shape[-1]), dtype=t.dtype)
    return wide[..., ::2].copy_(t)


def _negated(t: Tensor, rng: random.Random) -> Tensor:
    if t.dtype in (torch.float32, torch.float64) and rng.random() < 0.5:
        return torch.complex(torch.zeros_like(t), -t).conj().imag
    return torch._neg_view(-t)


def _unaligned(t: Tensor, rng: random.Random) -> Tensor:
    size = t.element_size()
    memory = bytearray(t.numel() * size + 1)
    return torch.frombuffer(memory, dtype=t.dtype, offset=1).view(t.shape).copy_(t) if t.numel() else t


def _resized(part: Callable[[int], int]) -> Callable[[Tensor, random.Random], Tensor]:
    def resized(t: Tensor, rng: random.Random) -> Tensor:
        memory = t.untyped_storage()
        memory.resize_(part(memory.nbytes()))
        return t

    return resized


def _resized_dim(by: int) -> Callable[[Tensor, random.Random], Tensor]:
    def resized(t: Tensor, rng: random.Random) -> Tensor:
        if t.dim() == 0:
            return t
        at, shape = rng.randrange(t.dim()), list(t.shape)
        shape[at] = max(0, shape[at] + by)
        return torch.zeros(shape, dtype=t.dtype)

    return resized


def _one_row(t: Tensor, rng: random.Random) -> Tensor:
    """One row for all of a dimension."""
    at = rng.randrange(t.dim()) if t.dim() else 0
    return t.narrow(at, 0, 1).expand(t.shape) if t.numel() else t


def _huge(t: Tensor, rng: random.Random) -> Tensor:
    shape = list(t.shape) or [1]
    shape[rng.randrange(len(shape))] = 1 << rng.choice((31, 40, 46))
    return torch.zeros((1,) * len(shape), dtype=t.dtype).expand(shape)


def _wrapping(t: Tensor, rng: random.Random) -> Tensor:
    """No element, and sizes as large as torch allows then: with those of another argument they pass 64 bits."""
    shape = [1 << 62 // max(t.dim() - 1, 1)] * max(t.dim(), 1)
    shape[rng.randrange(len(shape))] = 0
    return torch.empty_strided(shape, [rng.choice((0, 1)) for _ in shape], dtype=t.dtype)


def _other_dtype(t: Tensor, rng: random.Random) -> Tensor:
    others = (
        *DTYPES,
        torch.int32,
        torch.int64,
        torch.int16,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.float8_e4m3fn,
    )
    return t.to(rng.choice([dtype for dtype in others if dtype != t.dtype]))


def _filled(*values: float) -> Callable[[Tensor, random.Random], Tensor]:
    """Some elements replaced; those of integers by the nearest of their type."""

    def filled(t: Tensor, rng: random.Random) -> Tensor:
        flat = t.view(-1)
        for _ in range(min(flat.numel(), rng.choice((1, 3)))):
            value, at = rng.choice(values), rng.randrange(flat.numel())
            if t.is_floating_point():
                flat[at] = value
            elif math.isfinite(value):
                flat[at] = max(torch.iinfo(t.dtype).min, min(torch.iinfo(t.dtype).max, int(value)))
        return t

    return filled


def _sorted_away(t: Tensor, rng: random.Random) -> Tensor:
    return (
        rng.choice((lambda: t.flip(-1), lambda: torch.zeros_like(t), lambda: torch.full_like(t, 7)))() if t.dim() else t
    )


def _inference(t: Tensor, rng: random.Random) -> Tensor:
    with torch.inference_mode():
        return t.clone()


def _nested(t: Tensor, rng: random.Random) -> Tensor:
    return torch.nested.nested_tensor([t.float(), t.float()])


def _leading(t: Tensor, rng: random.Random) -> Tensor:
    return rng.choice(
        (lambda: t[None], lambda: t[:, None] if t.dim() else t[None], lambda: t[None, :, None] if t.dim() else t)
    )()


TENSOR_MUTATIONS: dict[str, Callable[[Tensor, random.Random], Any]] = {
    "valid": lambda t, rng: t,
    "spaced": _spaced,
    "strided": _strided,
    "transposed": lambda t, rng: t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() else t,
    "negated": _negated,
    "zeros without memory": lambda t, rng: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "copied when written": lambda t, rng: torch._lazy_clone(t),
    "unaligned": _unaligned,
    "freed": _resized(lambda size: 0),
    "half freed": _resized(lambda size: size // 2),
    "one byte short": _resized(lambda size: max(size - 1, 0)),
    "larger memory": _resized(lambda size: size + 7),
    "one row": _one_row,
    "huge": _huge,
    "wrapping": _wrapping,
    "longer": _resized_dim(1),
    "shorter": _resized_dim(-1),
    "empty": lambda t, rng: t[:0] if t.dim() else t,
    "leading": _leading,
    "flat": lambda t, rng: t.reshape(-1),
    "scalar": lambda t, rng: torch.zeros((), dtype=t.dtype),
    "other dtype": _other_dtype,
    "NaN": _filled(float("nan")),
    "infinite": _filled(float("inf"), float("-inf")),
    "extreme": _filled(0.0, -0.0, 1e-40, 100.0, -100.0),
    "out of range": _filled(-2, 3, 100, 2**31 - 1, -(2**31)),
    "unsorted": _sorted_away,
    "parameter": lambda t, rng: torch.nn.Parameter(t, requires_grad=False),
    "wants gradient": lambda t, rng: t.requires_grad_() if t.is_floating_point() else t,
    "result of autograd": lambda t, rng: t.requires_grad_() * 1 if t.is_floating_point() else t,
    "inference": _inference,
    "subclass": lambda t, rng: t.as_subclass(Odd),
    "meta": lambda t, rng: t.to("meta"),
    "sparse": lambda t, rng: t.to_sparse(),
    "nested": _nested,
    "None": lambda t, rng: None,
    "list": lambda t, rng: t.tolist(),
    "array": lambda t, rng: t.float().numpy(),
    "number": lambda t, rng: 1.5,
    "text": lambda t, rng: "x",
    "type": lambda t, rng: Tensor,
}
ALIAS = "shared memory"


def alias(given: Arguments, op: str, place: str) -> Any:
    """The argument as a view of the memory that the op writes to, where its shape fits."""
    target, t = get(given, WRITTEN[op][-1]), get(given, place)
    if not (isinstance(target, Tensor) and isinstance(t, Tensor)) or target is t or target.numel() == 0:
        return t
    memory = torch.empty(0, dtype=t.dtype).set_(target.untyped_storage())
    return memory[: t.numel()].view(t.shape) if memory.numel() >= t.numel() else t


# ---- other arguments -------------------------------------------------------------------------------------------------

SCALARS: dict[str, Any] = {
    "None": None,
    "text": "x",
    "NaN": float("nan"),
    "infinite": float("inf"),
    "negative": -1,
    "zero": 0,
    "one": 1,
    "fraction": 2.5,
    "large": 2**62,
    "larger": 2**70,
    "huge float": 1e300,
    "true": True,
    "list": [1],
    "tensor": torch.tensor(2.0),
    "many": torch.ones(3),
    "type": float,
    "complex": 1j,
}
WIDTHS: dict[str, Any] = {
    "wrapping": (2**62, 2**62, 2**62, 2**62, 19),
    "too large": (2**70, 19),
    "negative": (-1, 20),
    "none": (),
    "list": [9, 0, 10],
    "floats": (9.0, 0.0, 10.0),
    "text": ("9", "0", "10"),
    "nine": (1,) * 9,
    "truths": (True, False, 18),
    "number": 19,
    "None": None,
}
ACTS: dict[str, Any] = {
    "other": "gelu",
    "identity": "identity",
    "unknown": "relu",
    "None": None,
    "number": 0,
    "list": [],
}
GROUPS: dict[str, Callable[[Any], Any]] = {
    "absent": lambda group: None,
    "plain tuple": tuple,
    "list": list,
    "dict": lambda group: group._asdict(),
    "short": lambda group: tuple(group)[:-2],
    "long": lambda group: (*group, 1.0),
    "number": lambda group: 3,
    "text": lambda group: "x" * len(group),
    "tensor": lambda group: group[0],
    "other kind": lambda group: RideAlong(*group[:4]) if len(group) != 5 else Steering(*group[:4]),
    "values": lambda group: tuple(range(len(group))),
    "packed": lambda group: group._replace(u_up=None) if hasattr(group, "u_up") else group,
}


def mutations(op: str, place: str) -> list[str]:
    """The mutations that fit an argument."""
    value = get(arguments(op, torch.float32, Sizes(5, 3, 4, 24, 19), torch.Generator().manual_seed(4)), place)
    if place == "act":
        return list(ACTS)
    if place == "widths":
        return list(WIDTHS)
    if hasattr(value, "_fields"):
        return list(GROUPS)
    if isinstance(value, Tensor) or place.endswith("u_up"):
        return [*TENSOR_MUTATIONS, *([ALIAS] if op in WRITTEN else [])]
    return list(SCALARS)


def mutate(given: Arguments, op: str, place: str, mutation: str, rng: random.Random) -> None:
    value = get(given, place)
    if place == "act":
        put(given, place, ACTS[mutation])
    elif place == "widths":
        put(given, place, WIDTHS[mutation])
    elif hasattr(value, "_fields"):
        put(given, place, GROUPS[mutation](value))
    elif place.endswith("u_up") and value is None:
        return  # packed
    elif isinstance(value, Tensor):
        put(given, place, alias(given, op, place) if mutation == ALIAS else TENSOR_MUTATIONS[mutation](value, rng))
    else:
        put(given, place, SCALARS[mutation])


# ---- one case --------------------------------------------------------------------------------------------------------


def every_case(seed: int) -> list[Case]:
    """All mutations of all arguments of all ops in all dtypes, shuffled."""
    cases = [
        Case(op, dtype, place, mutation, seed)
        for op in NAMES
        for dtype in DTYPES
        for place in places(op)
        for mutation in mutations(op, place)
    ]
    random.Random(seed).shuffle(cases)
    return [case._replace(seed=seed * 1_000_003 + i) for i, case in enumerate(cases)]


def build(case: Case) -> Arguments:
    rng = random.Random(case.seed)
    given = arguments(case.op, case.dtype, sizes(rng), torch.Generator().manual_seed(case.seed))
    mutate(given, case.op, case.argument, case.mutation, rng)
    place = rng.choice(places(case.op))
    if rng.random() < 0.2 and not place.startswith(case.argument) and not case.argument.startswith(place):
        mutate(given, case.op, place, rng.choice(mutations(case.op, place)), rng)
    return given


def readable(value: Any) -> bool:
    """Whether the harness itself may look at the values."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or not value.is_cpu:
        return False
    if value.is_nested or value.numel() == 0 or value._is_zerotensor():
        return False
    last = value.storage_offset() + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    return value.numel() < 1 << 20 and (last + 1) * value.element_size() <= value.untyped_storage().nbytes()


def outcome(case: Case) -> tuple[Any, Arguments, dict[str, Tensor]]:
    """Result or exception, the arguments, and copies of what may be written to."""
    given = build(case)
    before = {n: given[n].detach().clone() for n in WRITTEN.get(case.op, ()) if readable(given[n])}
    try:
        return call(case.op, given), given, before
    except Exception as error:
        return error, given, before


def difference(value: Any, expected: Any, dtype: torch.dtype, lenient: bool) -> str:
    """Empty, or how two results differ. Where the expected one is finite the value must be, and the other way round too
    unless `lenient`."""
    if isinstance(value, (tuple, list)):
        return "; ".join(filter(None, (difference(v, e, dtype, lenient) for v, e in zip(value, expected, strict=True))))
    if not isinstance(value, Tensor):
        return "" if value == expected else f"{value!r} is not {expected!r}"
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return f"{value.dtype} {list(value.shape)} is not {expected.dtype} {list(expected.shape)}"
    v, e = (t.detach().as_subclass(Tensor).double() for t in (value, expected))
    finite = e.isfinite()
    if not lenient and bool((v.isfinite() & ~finite).any()):
        return "finite where the reference is not"
    off = (v[finite] - e[finite]).abs()
    limit = TOLERANCE.get(dtype, 1e-5) * (1 + float(e[finite].abs().max() if off.numel() else 0))
    return f"off by {float(off.max())}, limit {limit}" if off.numel() and not bool((off <= limit).all()) else ""


def run(case: Case) -> str:
    """What came of a case: "equal", "raised X", or "FAILED ..."."""
    mode = random.Random(case.seed + 1).choice((torch.no_grad, torch.no_grad, torch.enable_grad, torch.inference_mode))
    with mode():
        result, given, before = outcome(case)
        with kernels.use_backend("reference"):
            expected, model, _ = outcome(case)
    if isinstance(result, Exception) or isinstance(expected, Exception):
        for name, was in before.items():
            if isinstance(result, Exception) and difference(given[name], was, case.dtype, False):
                return f"FAILED: {result!r} after {name} was written to"
        if not isinstance(result, Exception):
            return f"FAILED: accepted; the reference: {expected!r}"
        if not isinstance(result, DOCUMENTED):
            return f"FAILED: {result!r} is not documented"
        if not isinstance(expected, Exception):
            return f"FAILED: {result!r}; the reference gives a result"
        return f"raised {type(result).__name__}"
    # The reference multiplies by the zeros of inactive poles, too, and zero times infinity is NaN.
    lenient = case.op.startswith("steered")
    written = [(given[n], model[n]) for n in WRITTEN.get(case.op, ()) if readable(given[n])]
    for value, other in ((result, expected), *written):
        found = difference(value, other, case.dtype, lenient)
        if found:
            return f"FAILED: {found}"
    return "equal"


# ---- the sweep -------------------------------------------------------------------------------------------------------


class Report(NamedTuple):
    counts: Counter[str]
    failures: list[str]  # with the case
    failed: list[Case]

    def __str__(self) -> str:
        total = sum(self.counts.values())
        lines = [f"{total} mutations: " + ", ".join(f"{name} {n}" for name, n in sorted(self.counts.items()))]
        return "\n".join([*lines, *self.failures])


def sweep(
    seed: int, count: int, *, batch: int = 500, seconds: float = 120.0, run: Callable[[Case], str] = run
) -> Report:
    """Runs `count` cases, `batch` of them in each forked child, which has `seconds` to end."""
    cases = every_case(seed)
    while len(cases) < count:
        cases += every_case(seed := seed + 1)
    return run_all(cases[:count], batch=batch, seconds=seconds, run=run)


def run_all(cases: list[Case], *, batch: int = 500, seconds: float = 120.0, run: Callable[[Case], str] = run) -> Report:
    """Runs these cases, `batch` of them in each forked child."""
    count, report, at = len(cases), Report(Counter(), [], []), 0
    while at < count:
        at = _batch(cases, at, min(at + batch, count), seconds, run, report)
    return report


def _batch(cases: list[Case], first: int, end: int, seconds: float, run: Callable[[Case], str], report: Report) -> int:
    """Cases [first, end) in one child. Where to go on: behind the case in which the child ended."""
    current = mmap.mmap(-1, 8)  # the number of the case at hand, kept when the child dies
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)  # the threads of the parent do not exist here
                for i in range(first, end):
                    current[:] = i.to_bytes(8, "little")
                    said.write(run(cases[i]).replace("\n", " ") + "\n")
                    said.flush()
                current[:] = end.to_bytes(8, "little")
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0 if current[:] == end.to_bytes(8, "little") else 1)
        status, until = None, time.monotonic() + seconds
        while status is None:
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                status = code
            elif time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
            else:
                time.sleep(0.01)
        reached = int.from_bytes(current[:], "little")
        said.seek(0)
        words = said.read().splitlines()
    if status != 0:
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        words = [*words[: reached - first], f"FAILED: the child ended with {how}"]
    for i, word in enumerate(words, first):
        report.counts[word.partition(":")[0]] += 1
        if word.startswith("FAILED"):
            report.failures.append(f"case {i} {cases[i]}: {word}")
            report.failed.append(cases[i])
    return reached + (status != 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--only", type=int, help="run this case alone, in this process, and show it")
    options = parser.parse_args()
    if options.only is not None:
        case = every_case(options.seed)[options.only]
        print(case, {n: v for n, v in build(case).items() if not isinstance(v, Tensor)}, flush=True)
        print(run(case))
        return 0
    report = sweep(options.seed, options.count)
    print(report)
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
