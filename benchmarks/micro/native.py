"""Builds the CUDA kernel without a plugin and calls its launcher through ctypes, for tests and benchmarks.

The same source is compiled by nvcc for a GPU, or by a host compiler with the CUDA-on-CPU layer
(``tests/tools/cuda_on_cpu``). The plugin of TensorRT engines is built by ``kernels/build.py``.
"""

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokfilter.benchmarks.records.paths import ROOT
from tokfilter.errors import EngineError
from tokfilter.kernels.build import find_tool
from tokfilter.kernels.op import ORDERS
from tokfilter.kernels.reference import SCORE_TYPES

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CSRC",
    "KERNEL",
    "SANITIZERS",
    "Arguments",
    "CpuKernel",
    "GpuKernel",
    "LaunchRecord",
    "arguments_from_tensors",
    "build_check",
    "build_cpu_library",
    "build_gpu_check",
    "build_gpu_library",
    "find_nvcc",
]

CSRC: Final = ROOT / "kernels" / "csrc"
CUDA_ON_CPU: Final = ROOT / "tests" / "tools" / "cuda_on_cpu"
CHECKS: Final = ROOT / "tests" / "tools" / "kernel_checks"
KERNEL: Final = CSRC / "token_select.cu"
SANITIZERS: Final = {"memory": "address,undefined", "race": "thread"}

_LAYER: Final = tuple(CUDA_ON_CPU / f"{name}.cpp" for name in ("fiber", "block", "memory", "runtime", "shared"))
_STRICT: Final = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
_JOBS: Final = 2


class Arguments(ctypes.Structure):
    """``TokenSelectArgs`` of ``csrc/token_select.h``: addresses, then sizes, then types."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("tokens", "scores", "selected", "indices")),
        *((name, ctypes.c_int64) for name in ("batch", "prefix", "patches", "channels", "k")),
        *((name, ctypes.c_int32) for name in ("element_size", "score_type", "order")),
    )


def arguments_from_tensors(
    tokens: "Tensor", scores: "Tensor", selected: "Tensor", indices: "Tensor | None", prefix_tokens: int, order: str
) -> Arguments:
    """The launcher's arguments for contiguous torch tensors, which must outlive the launch.

    tokens: [B, P+N, C], elements of 1, 2 or 4 bytes
    scores: [B, N], float32, float16 or bfloat16
    selected: [B, P+k, C], written
    indices: [B, k] int32, written, or None
    """
    addresses = [None if one is None else one.data_ptr() for one in (tokens, scores, selected, indices)]
    batch, patches = scores.shape
    sizes = (batch, prefix_tokens, patches, tokens.shape[2], selected.shape[1] - prefix_tokens)
    score_type = SCORE_TYPES.index(str(scores.dtype).removeprefix("torch."))
    return Arguments(*addresses, *sizes, tokens.element_size(), score_type, ORDERS.index(order))


@dataclass(frozen=True)
class LaunchRecord:
    """Counts of the CUDA-on-CPU layer for one launch; ``report`` is "" if it found no defect."""

    report: str
    loaded_bytes: int
    stored_bytes: int
    blocks: int
    barriers: int


class GpuKernel:
    """The launcher in a library of :func:`build_gpu_library`. Loading it does not use the GPU."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._validate = self._library.tokfilter_validate_token_select
        self._validate.argtypes = [ctypes.POINTER(Arguments)]
        self._validate.restype = ctypes.c_char_p
        self._launch = self._library.tokfilter_token_select
        self._launch.argtypes = [ctypes.POINTER(Arguments), ctypes.c_void_p]
        self._launch.restype = ctypes.c_int

    def validate(self, arguments: Arguments) -> str | None:
        """Return the error message about the first invalid argument, or None for valid arguments."""
        message = self._validate(ctypes.byref(arguments))
        return None if message is None else str(message, "utf-8")

    def launch(self, arguments: Arguments, stream: int = 0) -> int:
        """Enqueue on a cudaStream_t (0 is the default stream); returns a cudaError_t, 0 for success."""
        return int(self._launch(ctypes.byref(arguments), stream))


class CpuKernel(GpuKernel):
    """The launcher in a library of :func:`build_cpu_library`; it returns after the launch has ended."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._library.cuda_on_cpu_last_launch.restype = ctypes.c_char_p

    def set_device(
        self,
        multiprocessors: int = 16,
        runtime_error: int = 0,
        launch_error: int = 0,
        schedule: int = 0,
        seed: int = 1,
    ) -> None:
        """Set the emulated device and the order of its threads (``tests/tools/cuda_on_cpu/cuda_on_cpu.h``)."""
        self._library.cuda_on_cpu_set_device(multiprocessors, runtime_error, launch_error, schedule, seed)

    def last_launch(self) -> LaunchRecord:
        """The record of the last launch."""
        counts = (ctypes.c_int64 * 4)()
        report = str(self._library.cuda_on_cpu_last_launch(counts), "utf-8")
        return LaunchRecord(report, *counts)


def find_nvcc() -> str:
    """Find the CUDA compiler. Raises MissingDependencyError."""
    return find_tool("nvcc", "/usr/local/cuda/bin/nvcc", hint="Install the CUDA toolkit.")


def build_cpu_library(directory: Path) -> Path:
    """Build the launcher with the CUDA-on-CPU layer. Raises MissingDependencyError, EngineError."""
    sources = (KERNEL, *_LAYER, CSRC / "token_select_c.cpp")
    # -Bsymbolic, also for the GPU: else symbols of a CUDA runtime that is already loaded (torch's) replace our own.
    return _host_link(directory / "libtoken_select_cpu.so", sources, "", ("-shared", "-Wl,-Bsymbolic"))


def build_check(name: str, directory: Path, sanitizer: str = "memory", kernel: Path = KERNEL) -> Path:
    """Build ``tests/tools/kernel_checks/<name>.cpp`` with the CUDA-on-CPU layer and the kernel.

    sanitizer: one of :data:`SANITIZERS`, or "" for none
    kernel: another version of ``token_select.cu``, in a folder with the headers that it includes
    Raises MissingDependencyError, EngineError.
    """
    sources = (kernel, *_LAYER, CHECKS / f"{name}.cpp")
    return _host_link(directory / f"{name}-{sanitizer or 'plain'}", sources, sanitizer)


def build_gpu_library(directory: Path, architectures: str = "native") -> Path:
    """Build the launcher with nvcc; ``architectures`` is its option -arch.

    Raises MissingDependencyError, EngineError.
    """
    return _nvcc_link(
        directory / "libtoken_select.so",
        CSRC / "token_select_c.cpp",
        architectures,
        ("-shared", "-Xlinker=-Bsymbolic"),
    )


def build_gpu_check(directory: Path, architectures: str = "native") -> Path:
    """Build ``tests/tools/kernel_checks/check_cases_gpu.cpp`` with nvcc. Raises MissingDependencyError, EngineError."""
    return _nvcc_link(directory / "check_cases_gpu", CHECKS / "check_cases_gpu.cpp", architectures)


def _nvcc_link(target: Path, source: Path, architectures: str, flags: Sequence[str] = ()) -> Path:
    warnings = ("-Xcompiler=-Wall,-Wextra,-Werror", "--Werror=all-warnings")
    compiler = (
        find_nvcc(),
        "-std=c++17",
        "-O3",
        "-lineinfo",
        f"-arch={architectures}",
        "-Xcompiler=-fPIC",
        *warnings,
        f"-I{CSRC}",
    )
    objects = [_object(target.parent, (*compiler, "-c"), one) for one in (KERNEL, source)]
    return _linked(target, (*compiler, *flags), objects)


def _host_link(target: Path, sources: Sequence[Path], sanitizer: str, flags: Sequence[str] = ()) -> Path:
    compiler = find_tool("g++", hint="Install a C++17 compiler.")
    optimize = ("-O1", "-g1", "-fno-omit-frame-pointer") if sanitizer else ("-O2",)
    common = (
        compiler,
        "-std=c++17",
        "-fPIC",
        *optimize,
        *_STRICT,
        f"-I{CUDA_ON_CPU / 'include'}",
        f"-I{CUDA_ON_CPU}",
        f"-I{CSRC}",
    )
    sanitize = (f"-fsanitize={SANITIZERS[sanitizer]}", "-fno-sanitize-recover=all") if sanitizer else ()

    def compiled(source: Path) -> str:
        # The layer shares its counters between fibers; the thread sanitizer would report them as a race.
        flags_of_source = () if sanitizer == "race" and source in _LAYER else sanitize
        return _object(target.parent, (*common, *flags_of_source, "-c", "-x", "c++"), source)

    with ThreadPoolExecutor(_JOBS) as jobs:
        objects = list(jobs.map(compiled, sources))
    return _linked(target, (compiler, *flags, *sanitize), objects)


def _object(directory: Path, command: Sequence[str], source: Path) -> str:
    """Compile, unless an object of the same files and the same command exists."""
    digest = hashlib.sha256("\0".join(command).encode())
    folders = (source.parent, CSRC, CUDA_ON_CPU, CUDA_ON_CPU / "include")
    headers = (path for folder in folders for pattern in ("*.h", "*.cuh") for path in sorted(folder.glob(pattern)))
    for path in (source, *headers):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    target = directory / "objects" / f"{source.stem}-{digest.hexdigest()[:16]}.o"
    return str(target if target.is_file() else _made(target, (*command, str(source))))


def _linked(target: Path, command: Sequence[str], objects: Sequence[str]) -> Path:
    digest = hashlib.sha256("\0".join((*command, *objects)).encode()).hexdigest()[:16]
    target = target.with_name(f"{target.stem}-{digest}{target.suffix}")
    return target if target.is_file() else _made(target, (*command, *objects))


def _made(target: Path, command: Sequence[str]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    result = subprocess.run((*command, "-o", str(unfinished)), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        output = (result.stdout + result.stderr)[-4000:]
        raise EngineError(f"{target.name} did not build ({' '.join(command)}):\n{output}")
    return unfinished.replace(target)
