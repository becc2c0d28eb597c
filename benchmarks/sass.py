"""Machine code of the CUDA kernels, and the bounds that it is held to: what a GPU will be asked to do, counted without one."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.M)
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*);", re.M)
_TARGET = re.compile(r"(?<!\w)(0x[0-9a-f]+)\b")


@dataclass(frozen=True)
class Code:
    """The machine code of one kernel.

    Attributes:
        name: mangled.
        opcodes: with their modifiers, in order.
        loops: first and last instruction of each loop (a branch backwards).
    """

    name: str
    opcodes: tuple[str, ...]
    loops: tuple[tuple[int, int], ...]

    def count(self, opcode: str) -> int:
        """Instructions whose name is ``opcode`` or begins with ``opcode.``."""
        return _matching(self.opcodes, opcode)

    def inner_loops(self, opcode: str) -> list[Counter[str]]:
        """The instructions of each loop that holds such an instruction and no smaller loop that does, by first name."""
        holding = [(a, b) for a, b in self.loops if _matching(self.opcodes[a : b + 1], opcode)]
        inner = [x for x in holding if not any(y != x and y[0] >= x[0] and y[1] <= x[1] for y in holding)]
        return [Counter(name.split(".")[0] for name in self.opcodes[a : b + 1] if name != "NOP") for a, b in inner]

    def divisions_in_loops(self) -> int:
        """Integer divisions inside loops, by the conversion to floating point that each begins with."""
        return sum(_matching(self.opcodes[a : b + 1], "I2F") for a, b in self.loops)


def _matching(opcodes: Sequence[str], opcode: str) -> int:
    return sum(name == opcode or name.startswith(opcode + ".") for name in opcodes)


def read_sass(text: str) -> list[Code]:
    """The kernels in the output of ``cuobjdump -sass``."""
    starts = list(_FUNCTION.finditer(text))
    found = []
    for index, start in enumerate(starts):
        body = _INSTRUCTION.findall(
            text[start.end() : starts[index + 1].start() if index + 1 < len(starts) else len(text)]
        )
        place = {int(address, 16): index for index, (address, _) in enumerate(body)}
        loops = []
        for index, (_, words) in enumerate(body):
            target = _TARGET.search(words) if words.startswith("BRA") else None
            if target and place.get(int(target[1], 16), index) < index:
                loops.append((place[int(target[1], 16)], index))
        found.append(Code(start[1], tuple(words.split()[0].rstrip(",") for _, words in body), tuple(loops)))
    return found


@cache
def disassembler() -> str | None:
    """cuobjdump, on the path or as Triton brings it along."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "backends" / "nvidia" / "bin" / "cuobjdump"
        if path.exists():
            return str(path)
    return None


def disassemble(cubin: Path) -> list[Code]:
    """The kernels of a compiled file.

    Raises:
        RuntimeError: there is no cuobjdump, or it failed.
    """
    tool = disassembler()
    if tool is None:
        raise RuntimeError("cuobjdump was not found, neither on the path nor in the triton package")
    done = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"cuobjdump failed: {done.stderr.strip()[-500:]}")
    return read_sass(done.stdout)


@dataclass(frozen=True)
class Bound:
    """What a kernel's code is held to on sm_90a.

    Attributes:
        kernel: part of its short name, as the compile report prints it.
        step: most instructions of the loop over bank rows that holds the tensor-core products (16 rows, the warp's tile).
        products: tensor-core products in it.
        needs: instructions that have to be there, for memory goes 16 bytes at a time.
    """

    kernel: str
    step: int = 0
    products: int = 0
    needs: tuple[str, ...] = ()


_COPY = "LDGSTS.E.BYPASS.128"
#: The counts of docs/kernels.md, and about a twentieth more for another compiler.
BOUNDS = (
    Bound("steered_gated_act_expand<bf16, Tiling<4, 1, 2>>", 197, 32, (_COPY, "STG.E.128")),
    Bound("steered_gated_act_expand<bf16, Tiling<1, 2, 1>>", 175, 16, (_COPY, "STG.E.128")),
    Bound("steered_gated_act_expand<f16, Tiling<4, 1, 2>>", 227, 32, (_COPY, "STG.E.128")),
    Bound("expand_add<bf16, Tiling<4, 1, 4>, true>", 152, 32, (_COPY, "STG.E.128")),
    Bound("expand_add<bf16, Tiling<4, 1, 4>, false>", 157, 32, (_COPY, "STG.E.128")),
    Bound("expand_add<bf16, Tiling<1, 2, 1>, true>", 115, 8, (_COPY, "STG.E.128")),
    Bound("steered_gated_act<bf16>", needs=("LDG.E.128", "STG.E.128")),
    Bound("steered_gated_act<f16>", needs=("LDG.E.128", "STG.E.128")),
    Bound("lora_shrink_prefill<bf16, 6>", needs=("LDG.E.128",)),
    Bound("lora_shrink_decode<bf16, 1, true>", needs=("LDG.E.128",)),
    Bound("add_rmsnorm<bf16>", needs=("LDG.E.128", "STG.E.128")),
)


def faults(code: Code, name: str) -> list[str]:
    """What is wrong with a kernel of this short name, one line each; nothing where all is as it should be.

    For every kernel: no conversion of single halves (the slow pipe), no integer division in a loop, nothing spilled. For
    those in :data:`BOUNDS` their bounds too.
    """
    name = name.replace("> >", ">>")
    found = []
    if slow := code.count("F2F"):
        found.append(f"{slow} conversions F2F")
    if divisions := code.divisions_in_loops():
        found.append(f"{divisions} integer divisions in loops")
    if spilled := code.count("STL"):
        found.append(f"{spilled} stores to local memory")
    for bound in BOUNDS:
        if bound.kernel != name:
            continue
        found += [f"no {opcode}" for opcode in bound.needs if not code.count(opcode)]
        steps = [loop for loop in code.inner_loops("HMMA") if loop["HMMA"] == bound.products] if bound.step else []
        if bound.step and not steps:
            found.append(f"no loop with {bound.products} products")
        elif steps and (fewest := min(loop.total() for loop in steps)) > bound.step:
            found.append(f"{fewest} instructions a step, at most {bound.step}")
    return found
