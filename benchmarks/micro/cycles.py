"""Upper bound on the cycles of the selection, from the kernel's machine code.

Every instruction is counted, except the row copy and the loops of the other order; so branches that exclude each other
are all counted. A loop counts with its largest number of iterations, and an instruction with the cycles that its unit
needs when all four schedulers issue it at the same time.
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
    """Facts of a GPU for the estimate."""

    name: str
    architecture: int
    multiprocessors: int
    clock_hz: float
    bytes_per_second: float


ORIN: Final = Device("Jetson AGX Orin 64 GB", 87, 16, 1.3e9, 204.8e9)
"""NVIDIA Jetson AGX Orin Series, technical brief v1.2: 2048 cores in 16 multiprocessors, 1.3 GHz, 204.8 GB/s."""

_SCHEDULERS: Final = 4
_WARP: Final = 32

# Cycles that one instruction of a warp occupies its scheduler: CUDA C++ Programming Guide, "Throughput of Native
# Arithmetic Instructions", compute capability 8.6 and 8.7: per cycle and multiprocessor 64 integer operations, 16 POPC
# and the like, 32 shuffles, votes and accesses of shared memory.
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
        """Words of shared memory that each thread reads in one iteration of a loop."""
        loads = [operands for name, operands in self.code[loop[0] : loop[1] + 1] if name == "LDS"]
        return sum(4 if load.startswith(".128") else 2 if load.startswith(".64") else 1 for load in loads)


def kernel_code(cubin: Path, score_type: int, keys_per_thread: int) -> Kernel:
    """Disassemble one variant of the kernel.

    Raises MissingDependencyError without nvdisasm, EngineError if the binary lacks the variant.
    """
    tool = find_tool("nvdisasm", "/usr/local/cuda/bin/nvdisasm", *_triton(), hint="It comes with the CUDA toolkit.")
    text = subprocess.run([tool, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    name = f"ScoreTypeE{score_type}ELi{keys_per_thread}ELi"
    for section in text.split("//--------------------- .text."):
        if name in section.split("\n", 1)[0]:
            return _parsed(section.splitlines())
    raise EngineError(f"No kernel for score type {score_type} and {keys_per_thread} keys in {cubin}.")


def busy_cycles(kernel: Kernel, order: Order, threads: int, key_bits: int, rows_per_block: int) -> float:
    """Upper bound on the cycles for which one block's selection occupies a multiprocessor's four schedulers.

    key_bits: 32 for fp32 scores, 16 for others
    Raises EngineError if the loops are not those of ``choose_rows.cuh``.
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
    """The purpose of each loop, and its order ("" for both)."""
    kinds: list[str] = []
    for loop in kernel.loops:
        names = kernel.names(loop)
        if "STG" in names:
            kinds.append("copy")  # of rows, with the loops inside
        elif "BAR" in names:
            kinds.append("search")  # for the threshold: one iteration for each bit of a key
        elif kinds[-1:] == ["search"]:
            kinds.append("totals")  # of the warps
        else:  # ranks within a window, and the remainder of an unrolled loop
            kinds.append("rest" if kinds[-1:] == ["ranks"] else "ranks")
    searches = [at for at, kind in enumerate(kinds) if kind == "search"]
    if len(searches) != 3 or "ranks" not in kinds:
        raise EngineError(
            f"The kernel's loops are {kinds}, expected three searches and a ranking: see choose_rows.cuh."
        )
    # Order by score runs two searches and the ranking: the ranking and the two searches before it belong to it.
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
            # After the exit comes the code of diverged warps; the warps of this kernel do not diverge at a barrier.
            if found[2] == "EXIT" and "@" not in line:
                break
    loops = []
    for at, (name, operands) in enumerate(code):
        target = re.search(r"`\((\.L_x_\d+)\)", operands)
        if name == "BRA" and target and labels.get(target[1], at + 1) <= at:
            loops.append((labels[target[1]], at))
    return Kernel(tuple(code), tuple(sorted(loops)))
