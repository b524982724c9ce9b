"""Registers, shared memory, spills and occupancy of the compiled kernel on each GPU architecture."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokfilter.benchmarks.micro.native import KERNEL, find_nvcc
from tokfilter.errors import EngineError

__all__ = ["ARCHITECTURES", "MAX_PATCHES", "Multiprocessor", "Resources", "compile_matrix", "compiler", "occupancy"]


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of a multiprocessor (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""

    threads: int
    blocks: int
    shared_bytes: int
    reserved_bytes: int = 1024  # of every block's shared memory, by the driver


ARCHITECTURES: Final = {
    75: Multiprocessor(1024, 16, 64 << 10, 0),  # Turing
    80: Multiprocessor(2048, 32, 164 << 10),  # A100
    86: Multiprocessor(1536, 16, 100 << 10),  # RTX 30
    87: Multiprocessor(1536, 16, 164 << 10),  # Jetson Orin
    89: Multiprocessor(1536, 24, 100 << 10),  # RTX 40, L4, L40
    90: Multiprocessor(2048, 32, 228 << 10),  # H100, GH200
    100: Multiprocessor(2048, 32, 228 << 10),  # B200
    110: Multiprocessor(1536, 24, 228 << 10),  # Jetson Thor
    120: Multiprocessor(1536, 24, 100 << 10),  # RTX 50
}

MAX_PATCHES: Final = {(1, 256): 256, (4, 256): 1024, (8, 512): 4096, (16, 512): 8192}
"""Variants of the kernel: (keys per thread, threads per block) -> largest number of patches."""

_REGISTERS: Final = 65536
_WARP: Final = 32
_SCHEDULERS: Final = 4
_ENTRY: Final = re.compile(
    r"Compiling entry function '\w*token_select_kernel\w*ScoreTypeE(\d)ELi(\d+)ELi(\d+)\w*' for 'sm_(\d+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers.*?(\d+) bytes smem",
    re.DOTALL,
)


@dataclass(frozen=True)
class Resources:
    """Output of ptxas for one variant on one architecture; ``occupancy`` is the fraction of resident threads."""

    architecture: int
    score_type: int
    keys_per_thread: int
    threads: int
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int
    occupancy: float


def occupancy(sm: Multiprocessor, threads: int, registers: int, shared_bytes: int) -> float:
    """Resident threads of a kernel as a fraction of the multiprocessor's limit.

    Registers are allocated to warps in units of 256 within each scheduler's quarter, shared memory to blocks in units
    of 128 bytes (cuda_occupancy.h of the CUDA toolkit).
    """
    warps = -(-threads // _WARP)
    per_warp = -(-registers * _WARP // 256) * 256
    by_registers = _REGISTERS // _SCHEDULERS // per_warp * _SCHEDULERS // warps
    by_shared = sm.shared_bytes // (-(-(shared_bytes + sm.reserved_bytes) // 128) * 128)
    blocks = min(sm.threads // threads, sm.blocks, by_registers, by_shared)
    return blocks * threads / sm.threads


def compiler() -> str:
    """The release of nvcc. Raises MissingDependencyError."""
    text = subprocess.run([find_nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    return f"nvcc {found[1] if found else text}"


def compile_matrix(directory: Path, architectures: tuple[int, ...] = tuple(ARCHITECTURES)) -> list[Resources]:
    """Compile the kernel for each architecture, and to PTX for later ones, into ``directory``.

    Raises MissingDependencyError without nvcc, EngineError for an error or a warning of the compiler.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as jobs:
        newest = jobs.submit(_compile, directory / "newest.ptx", ("-ptx", f"-arch=compute_{max(ARCHITECTURES)}"))
        reports = jobs.map(
            lambda sm: _compile(directory / f"sm_{sm}.cubin", ("-cubin", f"-arch=sm_{sm}")), architectures
        )
        found = [resources for report in reports for resources in _parsed(report)]
        newest.result()
    if len(found) != 3 * len(MAX_PATCHES) * len(architectures):
        raise EngineError(f"ptxas reported {len(found)} kernels, expected 12 for each of sm_{architectures}.")
    return found


def _compile(target: Path, flags: tuple[str, ...]) -> str:
    strict = ("-Xcompiler=-Wall,-Wextra,-Werror", "--Werror=all-warnings", "-Xptxas=-v")
    command = (find_nvcc(), "-std=c++17", "-O3", *strict, *flags, str(KERNEL), "-o", str(target))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise EngineError(f"{' '.join(command)} failed:\n{(result.stdout + result.stderr)[-4000:]}")
    return result.stdout + result.stderr


def _parsed(report: str) -> list[Resources]:
    found = []
    for entry in _ENTRY.finditer(report):
        score_type, keys, threads, sm, stack, stores, loads, registers, shared = map(int, entry.groups())
        fraction = occupancy(ARCHITECTURES[sm], threads, registers, shared)
        found.append(
            Resources(sm, score_type, keys, threads, registers, shared, stack, stores + loads, round(fraction, 4))
        )
    return found
