"""Machine code of the CUDA kernels: how it is read, that worse code is noticed, and the bounds themselves where nvcc is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compile_report, sass
from benchmarks.compile_report import Failure, compile_cuda

NAME = "steered_gated_act_expand<bf16, Tiling<4, 1, 2>>"


def listing(*instructions: str) -> str:
    """What cuobjdump prints of one kernel; "@P0 BRA 2" goes to the second instruction."""
    lines = []
    for index, words in enumerate(instructions):
        head, _, target = words.partition("BRA ")
        words = f"{head}BRA {16 * (int(target) - 1):#x}" if target else words
        lines += [f"        /*{16 * index:04x}*/    {words} ;    /* 0x000 */", "                 /* 0x000fe2 */"]
    return "\t\tFunction : kernel\n" + "\n".join(lines) + "\n"


def good(filler: int = 10) -> list[str]:
    step = ["LDS.128 R4, [R2]", *["FMUL R1, R1, R2"] * filler, *["HMMA.16816.F32.BF16 R4, R8, R12, R4"] * 32]
    return ["LDGSTS.E.BYPASS.128 [R1], [R2]", *step, "@P0 BRA 2", "STG.E.128 desc[UR4][R2.64], R4", "EXIT"]


def test_loops_and_counts() -> None:
    (code,) = sass.read_sass(listing(*good()))
    assert code.name == "kernel" and code.count("HMMA") == 32 and code.count("LDGSTS.E.BYPASS.128") == 1
    assert code.loops == ((1, 44),)
    (loop,) = code.inner_loops("HMMA")
    assert loop == {"LDS": 1, "FMUL": 10, "HMMA": 32, "BRA": 1}
    assert sass.faults(code, NAME) == []
    assert sass.read_sass("") == []


@pytest.mark.parametrize(
    ("instructions", "fault"),
    [
        (good(200), "234 instructions a step, at most 197"),
        ([*good(), "F2F.BF16.F32 R1, R2"], "1 conversions F2F"),
        ([*good(), "STL [R1], R2"], "1 stores to local memory"),
        ([*good()[:1], "I2F.RP R1, R2", *good()[1:]], "1 integer divisions in loops"),
        ([w.replace("STG.E.128", "STG.E") for w in good()], "no STG.E.128"),
        ([w for w in good() if "HMMA" not in w], "no loop with 32 products"),
    ],
)
def test_worse_code_is_noticed(instructions: list[str], fault: str) -> None:
    (code,) = sass.read_sass(listing(*instructions))
    assert fault in sass.faults(code, NAME)


@pytest.mark.skipif(
    bool(compile_report.missing_cuda() or compile_report.missing_disassembler()),
    reason=compile_report.missing_cuda() or compile_report.missing_disassembler() or "both are there",
)
@pytest.mark.slow
def test_kernels_are_within_their_bounds() -> None:
    """Every kernel of csrc/cuda: nothing spills, no slow conversions, bounds kept; every bound has its kernel."""
    names: set[str] = set()
    failures = []
    for source in sorted((Path(compile_report.ROOT) / "csrc" / "cuda").glob("*.cu")):
        for found in compile_cuda(source, "sm_90a"):
            if isinstance(found, Failure):
                failures.append(f"{found.source}: {found.message}")
            else:
                names.add(found.name.replace("> >", ">>"))
                failures += [f"{found.name} spills"] if found.bad else []
    assert failures == []
    assert {bound.kernel for bound in sass.BOUNDS} <= names
