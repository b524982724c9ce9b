"""How long the selection keeps a multiprocessor busy, from the instructions that the compiler wrote.

A bound from above: every instruction but the row copy and the other order's loops is counted, so also branches that one
run cannot all take; a loop counts as often as it can turn; each instruction costs what its unit needs when all four
schedulers want it at once.
"""

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokfilter.errors import EngineError
from tokfilter.kernels.build import find_tool
from tokfilter.kernels.op import Order

__all__ = ["ORIN", "Device", "Kernel", "busy_cycles", "kernel_code"]


@dataclass(frozen=True)
class Device:
    """What the estimate needs to know of a GPU."""

    name: str
    architecture: int
    multiprocessors: int
    clock_hz: float
    bytes_per_second: float


ORIN: Final = Device("Jetson AGX Orin 64 GB", 87, 16, 1.3e9, 204.8e9)
"""NVIDIA Jetson AGX Orin Series, technical brief v1.2: 2048 cores in 16 multiprocessors, 1.3 GHz, 204.8 GB/s."""

_SCHEDULERS: Final = 4
_WARP: Final = 32

# Cycles that one warp's instruction holds its scheduler: CUDA C++ Programming Guide, "Throughput of Native Arithmetic
# Instructions", compute capability 8.6 and 8.7: 64 integer operations per cycle and multiprocessor, 16 of POPC's kind,
# 32 of shuffles, votes and shared memory.
_COST: Final = {"POPC": 8, "FLO": 8, "BREV": 8, "SHFL": 4, "VOTE": 4, "LDS": 4, "STS": 4, "BAR": 4, "B2R": 4, "S2R": 4}
_OTHER_COST: Final = 2

_LABEL: Final = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION: Final = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)([^;]*);")


@dataclass(frozen=True)
class Kernel:
    """Instructions in order, (name, operands), and the loops among them as index ranges, first to last."""

    code: tuple[tuple[str, str], ...]
    loops: tuple[tuple[int, int], ...]

    def names(self, loop: tuple[int, int]) -> set[str]:
        """Instructions that occur in a loop."""
        return {name for name, _ in self.code[loop[0] : loop[1] + 1]}

    def words(self, loop: tuple[int, int]) -> int:
        """Words of shared memory that each thread reads in one turn of a loop."""
        loads = [operands for name, operands in self.code[loop[0] : loop[1] + 1] if name == "LDS"]
        return sum(4 if load.startswith(".128") else 2 if load.startswith(".64") else 1 for load in loads)


def kernel_code(cubin: Path, score_type: int, keys_per_thread: int) -> Kernel:
    """Disassemble one variant of the kernel.

    Raises MissingDependencyError without nvdisasm, EngineError where the binary lacks the variant.
    """
    tool = find_tool("nvdisasm", "/usr/local/cuda/bin/nvdisasm", *_triton(), hint="It comes with the CUDA toolkit.")
    text = subprocess.run([tool, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    wanted = f"ScoreTypeE{score_type}ELi{keys_per_thread}ELi"
    for section in text.split("//--------------------- .text."):
        if wanted in section.split("\n", 1)[0]:
            return _parsed(section.splitlines())
    raise EngineError(f"No kernel for score type {score_type} and {keys_per_thread} keys in {cubin}.")


def busy_cycles(kernel: Kernel, order: Order, threads: int, key_bits: int, rows_per_block: int) -> float:
    """Cycles for which one block's selection keeps the four schedulers of a multiprocessor busy, at most.

    key_bits: 32 for fp32 scores, 16 for others
    Raises EngineError where the loops are not those of ``choose_rows.cuh``.
    """
    warps = threads // _WARP
    turns = [1.0] * len(kernel.code)
    for loop, (kind, of_order) in zip(kernel.loops, _kinds(kernel), strict=True):
        words = max(1, kernel.words(loop))
        often = {"copy": 0, "search": key_bits, "totals": warps / words, "ranks": rows_per_block / words, "rest": 3}
        for at in range(loop[0], loop[1] + 1):
            turns[at] *= often[kind] if of_order in (order, "") else 0
    slots = sum(_COST.get(name, _OTHER_COST) * turn for (name, _), turn in zip(kernel.code, turns, strict=True))
    return slots * warps / _SCHEDULERS


def _kinds(kernel: Kernel) -> list[tuple[str, str]]:
    """What each loop is for, and for which order ("" for both)."""
    kinds: list[str] = []
    for loop in kernel.loops:
        names = kernel.names(loop)
        if "STG" in names:
            kinds.append("copy")  # of rows, and what is inside
        elif "BAR" in names:
            kinds.append("search")  # for the cut: a turn for each bit of a key
        elif kinds[-1:] == ["search"]:
            kinds.append("totals")  # of the warps
        else:  # ranks within a window, and what unrolling left over
            kinds.append("rest" if kinds[-1:] == ["ranks"] else "ranks")
    searches = [at for at, kind in enumerate(kinds) if kind == "search"]
    if len(searches) != 3 or "ranks" not in kinds:
        raise EngineError(f"The kernel's loops are {kinds}, wanted three searches and a ranking: read choose_rows.cuh.")
    # Order by score searches twice and ranks; what stands before the ranking, up to two searches back, is its own.
    last = max(at for at in searches if at < kinds.index("ranks"))
    ranked = kinds.index("ranks") + kinds.count("ranks") + kinds.count("rest")
    own = range(searches[searches.index(last) - 1], ranked)
    return [(kind, "" if kind == "copy" else "score" if at in own else "position") for at, kind in enumerate(kinds)]


def _triton() -> Iterator[str]:
    """Where Triton, which comes with torch, keeps its nvdisasm; the package is found, not imported."""
    spec = importlib.util.find_spec("triton")
    for folder in spec.submodule_search_locations or () if spec else ():
        yield str(Path(folder) / "backends/nvidia/bin/nvdisasm")


def _parsed(lines: list[str]) -> Kernel:
    code: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in lines:
        if found := _LABEL.match(line):
            labels[found[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            code.append((found[2], found[3]))
            # Behind the exit stand the detours of diverged warps, and this kernel's warps do not diverge at a barrier.
            if found[2] == "EXIT" and "@" not in line:
                break
    loops = []
    for at, (name, operands) in enumerate(code):
        target = re.search(r"`\((\.L_x_\d+)\)", operands)
        if name == "BRA" and target and labels.get(target[1], at + 1) <= at:
            loops.append((labels[target[1]], at))
    return Kernel(tuple(code), tuple(sorted(loops)))
