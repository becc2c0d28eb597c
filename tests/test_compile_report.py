"""The compile report: its reading of ptxas, its verdicts, and small runs where the compilers are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compile_report
from benchmarks.compile_report import Failure, Kernel, main, read_ptxas, shorten

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'decode_kernel' for 'sm_80'
ptxas info    : Function properties for decode_kernel
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 440 bytes cmem[0]
ptxas info    : Compile time = 43.527 ms
ptxas info    : Compiling entry function 'prefill_kernel' for 'sm_80'
ptxas info    : Function properties for prefill_kernel
    0 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_ptxas_output() -> None:
    first, second = read_ptxas(PTXAS, "a.cu")
    assert first == Kernel("CUDA", "a.cu", "decode_kernel", "sm_80", 40, 2048, 8, 12, 16)
    assert second == Kernel("CUDA", "a.cu", "prefill_kernel", "sm_80", 255, 0, 0, 4, 0)
    assert first.bad and second.bad


def test_names_are_short() -> None:
    long = "void dpg::cuda::(anonymous namespace)::gated<dpg::bf16, 2, (bool)1>(dpg::Args, float const*)"
    assert shorten(long) == "gated<bf16, 2, (bool)1>"
    assert shorten("plain_kernel") == "plain_kernel"


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([Kernel("CUDA", "a.cu", "decode_kernel", "sm_80", 40, 0, 0, 0, 0)], 0),
        ([Kernel("Triton", "a", "a/prefill", "sm_80", 40, 0, 8, 8, 16)], 0),
        ([Kernel("Triton", "a", "a/decode", "sm_80", 40, 0, 8, 8, 16)], 1),
        ([Kernel("CUDA", "a.cu", "prefill_kernel", "sm_80", 40, 0, 8, 8, 16)], 1),
        ([Kernel("CUDA", "a.cu", "decode_kernel", "sm_80", 40, 0, 8, 0, 0)], 1),
        ([Failure("CUDA", "a.cu", "sm_80", "error: x is not defined")], 1),
    ],
)
def test_status(found: list[Kernel | Failure], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_report, "missing_cuda", lambda: "")
    monkeypatch.setattr(compile_report, "cuda_kernels", lambda match, jobs: iter([found]))
    assert main(["--only", "cuda", "--json", str(tmp_path / "x.json"), "--out", str(tmp_path)]) == status
    content = json.loads((tmp_path / "x.json").read_text())
    assert len(content["kernels"]) + len(content["failures"]) == 1
    assert ("FAILED" in (tmp_path / "compile.md").read_text()) == bool(status)


def test_missing_compilers_are_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compile_report, "TARGETS", "dpg_fast.kernels.no_such_module")
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "Skipped cuda: nvcc was not found." in printed and "Skipped triton: " in printed


@pytest.mark.skipif(bool(compile_report.missing_cuda()), reason=compile_report.missing_cuda() or "nvcc is there")
@pytest.mark.slow
def test_cuda_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "csrc" / "cuda").mkdir(parents=True)
    (root / "csrc" / "cuda" / "good.cu").write_text(
        "__global__ void scale(float* x) { __shared__ float s[256]; s[threadIdx.x] = x[threadIdx.x]; __syncthreads();\n"
        "  x[threadIdx.x] = s[255 - threadIdx.x]; }\n"
    )
    (root / "csrc" / "cuda" / "wrong.cu").write_text("__global__ void scale(float* x) { *x = undefined; }\n")
    monkeypatch.setattr(compile_report, "ROOT", root)
    assert main(["--only", "cuda", "--match", "good", "--out", str(tmp_path)]) == 0
    kernels = json.loads((tmp_path / "compile.json").read_text())["kernels"]
    assert [kernel["arch"] for kernel in kernels] == list(compile_report.CUDA_ARCHS)
    assert all(kernel["name"].startswith("scale") and kernel["shared"] == 1024 for kernel in kernels)
    assert main(["--only", "cuda", "--out", str(tmp_path)]) == 1
    assert "undefined" in (tmp_path / "compile.md").read_text()


@pytest.mark.skipif(bool(compile_report.missing_triton()), reason=compile_report.missing_triton() or "triton is there")
@pytest.mark.slow
def test_triton_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as in the tests of the kernels; must not disturb
    chosen = ["--match", r"^lora_expand_add/smollm2-135m/decode/bf16/"]
    assert main(["--only", "triton", "--jobs", "1", *chosen, "--out", str(tmp_path)]) == 0
    kernels = json.loads((tmp_path / "compile.json").read_text())["kernels"]
    assert {kernel["arch"] for kernel in kernels} == set(compile_report.TRITON_ARCHS)
    assert all(kernel["registers"] > 0 for kernel in kernels)
