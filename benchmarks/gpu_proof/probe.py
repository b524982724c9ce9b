"""What the machine has: driver and GPU, TensorRT, ONNX Runtime, PyTorch, compilers, compute-sanitizer."""

import ctypes
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.errors import EngineError, MissingDependencyError, TokfilterError
from tokfilter.kernels.build import find_headers, find_tool
from tokfilter.runtime.comparison.processes import Interpreter
from tokfilter.runtime.cuda_bindings import cuda_driver

__all__ = ["last_line", "run"]

_LIMIT_S: Final = 60
_TENSORRT: Final = "tokfilter.benchmarks.gpu_proof.tensorrt_probe"


def run(context: Context) -> None:
    """Emit one record ``found`` for each part: ``found`` has a text, or ``missing`` the reason."""
    settings = context.settings
    parts: dict[str, Callable[[], str]] = {
        "gpu": _gpu,
        "tensorrt": lambda: _tensorrt(settings.tensorrt),
        "torch": _torch,
        "onnxruntime": _onnxruntime,
        "nvcc": lambda: find_tool("nvcc", "/usr/local/cuda/bin/nvcc", hint="Install the CUDA toolkit."),
        "cmake": lambda: find_tool("cmake", hint="Install it: pip install cmake."),
        "compute-sanitizer": lambda: find_tool(
            "compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer", hint="It is part of the CUDA toolkit."
        ),
        "headers": lambda: str(find_headers(settings.headers)),
    }
    with ThreadPoolExecutor(1) as pool:  # TensorRT's Python starts while this one imports PyTorch
        parts["tensorrt"] = pool.submit(parts["tensorrt"]).result
        for name, look in sorted(parts.items(), key=lambda item: item[0] == "tensorrt"):
            try:
                context.emit("found", part=name, found=look())
            except TokfilterError as error:
                context.emit("found", part=name, missing=str(error))


def _gpu() -> str:
    """Name and compute capability of the first GPU, through the driver."""
    driver = cuda_driver()
    name, major, minor = ctypes.create_string_buffer(128), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, 128, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    return f"{name.value.decode(errors='replace')}, {major.value}.{minor.value}"


def _tensorrt(interpreter: Interpreter) -> str:
    """Such as "8.6.0, Python 3.10.17, cuda-python": in the Python that has it."""
    try:
        result = subprocess.run(
            interpreter.command(_TENSORRT),
            env=interpreter.variables(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{interpreter.python} does not answer: {error}.") from error
    if result.returncode != 0:
        raise EngineError(f"{interpreter.python} ended with status {result.returncode}: {last_line(result.stderr)}")
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    if "missing" in answer:
        raise MissingDependencyError(answer["missing"])
    return f"{answer['version']}, Python {answer['python']}, {answer['cuda']}"


def _torch() -> str:
    import torch

    if torch.version.cuda is None:
        raise MissingDependencyError(f"PyTorch {torch.__version__} is built without CUDA.")
    return f"{torch.__version__}, CUDA {torch.version.cuda}"


def _onnxruntime() -> str:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime-gpu."
        ) from error
    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        raise MissingDependencyError(
            f"ONNX Runtime {onnxruntime.__version__} has no CUDAExecutionProvider, only {', '.join(providers)}: "
            "install onnxruntime-gpu in its place."
        )
    return str(onnxruntime.__version__)


def last_line(text: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
