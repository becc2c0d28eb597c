"""What a CUDA graph forbids does not stand in the path of a call: no allocation, wait or copy to the host behind a launch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import ROOT

#: Driver and runtime calls that allocate, wait or copy, and would end a capture.
FORBIDDEN_CUDA = re.compile(
    r"\bcu(?:da)?(?:Malloc|Free|MemAlloc|HostAlloc|DeviceSynchronize|StreamSynchronize|EventSynchronize|Memcpy|Memset)\w*"
)
#: Ways of asking the device for a value.
FORBIDDEN_PYTHON = re.compile(r"\.(?:item|cpu|tolist|numpy|nonzero)\(|synchronize\(")
#: The host functions of CUDA that launchers may call; all of them may be called while a graph is captured.
ALLOWED_CUDA = {
    "cudaGetDevice",
    "cudaDeviceGetAttribute",
    "cudaFuncSetAttribute",
    "cudaGetLastError",
    "cudaGetErrorString",
}

SOURCES = sorted((ROOT / "csrc" / "cuda").iterdir())
BACKENDS = sorted(
    [
        *(ROOT / "dpg_fast" / "kernels" / "ops").glob("*/cuda.py"),
        *(ROOT / "dpg_fast" / "kernels" / "ops").glob("*/triton.py"),
    ]
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_launchers_call_only_what_can_be_captured(path: Path) -> None:
    text = re.sub(r"//[^\n]*", "", path.read_text())
    assert not FORBIDDEN_CUDA.findall(text)
    assert set(re.findall(r"\bcuda[A-Z]\w*(?=\()", text)) <= ALLOWED_CUDA


@pytest.mark.parametrize("path", BACKENDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_backends_ask_the_device_for_nothing(path: Path) -> None:
    assert not FORBIDDEN_PYTHON.findall(path.read_text())


def test_the_patterns_find_what_they_are_for() -> None:
    assert FORBIDDEN_CUDA.search("cudaMallocAsync(&p, 4, s)") and FORBIDDEN_CUDA.search("cudaStreamSynchronize(s)")
    assert FORBIDDEN_PYTHON.search("slots.max().item()") and FORBIDDEN_PYTHON.search("torch.cuda.synchronize()")
    assert len(SOURCES) >= 10 and len(BACKENDS) == 16
