"""Where a run happens: on a GPU, or on the CPU with the CUDA kernels emulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_run.carried import Stop
from dpg_fast.kernels import use_backend

if TYPE_CHECKING:
    from benchmarks.model_gpu import Settings

#: set to 1 for the processes of a rehearsal
REHEARSAL = "DPG_FAST_GPU_REHEARSAL"


@dataclass(frozen=True)
class Place:
    """A device and what suits it.

    Attributes:
        tokens: of the largest batch that kernels are compared on.
    """

    device: str
    rehearsal: bool
    tokens: int

    @property
    def settings(self) -> Settings:
        """Of whole models; tiny ones in a rehearsal."""
        from benchmarks.model_gpu import Settings  # transformers takes seconds to import

        return Settings.tiny() if self.rehearsal else Settings()

    @property
    def model(self) -> str:
        """The model whose shapes single ops have, of `benchmarks.kernels.shapes`."""
        return "tiny" if self.rehearsal else "llama3-8b"

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def broken(self) -> bool:
        """Whether CUDA refuses everything from here on, as after an illegal access."""
        try:
            self.wait()
        except RuntimeError:
            return True
        return False

    def captured(self, step: Callable[[], Any]) -> tuple[Callable[[], Any], Any]:
        """(replay, what the step returned): the step as a CUDA graph; where there is none, the step itself, run once."""
        if self.device != "cuda":
            out = step()
            return (lambda: _copy_into(out, step())), out
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        return graph.replay, out


def _copy_into(out: torch.Tensor, new: torch.Tensor) -> None:
    out.copy_(new)


@contextmanager
def entered(rehearsal: bool) -> Iterator[Place]:
    """Within the block every op runs its CUDA kernel, and nothing else.

    Raises:
        Stop: there is no GPU.
    """
    if rehearsal:
        from tests.kernels.emulated_cuda import emulated_cuda

        with emulated_cuda():
            yield Place("cpu", True, 66)
        return
    if not torch.cuda.is_available():
        raise Stop(f"torch {torch.__version__} sees no GPU")
    with use_backend("cuda"):
        yield Place("cuda", False, 600)
