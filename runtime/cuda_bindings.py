"""CUDA bindings, each loaded on first use: the driver's C library, pycuda, cuda-python."""

import ctypes
from importlib import import_module
from typing import Any, Final

from tokfilter.artifacts.extras import install_hint
from tokfilter.errors import EngineError, MissingDependencyError

__all__ = ["cuda_driver", "cuda_runtime", "pycuda_driver"]

_ERROR_NO_DEVICE: Final = 100
"""CUDA_ERROR_NO_DEVICE."""


def cuda_driver() -> ctypes.CDLL:
    """The NVIDIA driver's C library, initialised, with at least one GPU. Raises MissingDependencyError, EngineError."""
    library = None
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        raise MissingDependencyError(
            "no NVIDIA driver: its library libcuda.so.1 cannot be loaded. Install the driver, start a container with "
            "the NVIDIA runtime (--gpus all), or use --runtime onnx --provider cpu."
        )
    status = library.cuInit(0)
    count = ctypes.c_int(0)
    if status == 0:
        status = library.cuDeviceGetCount(ctypes.byref(count))
    if status == _ERROR_NO_DEVICE or (status == 0 and count.value == 0):
        raise MissingDependencyError(
            "no NVIDIA GPU: the driver is installed and finds none. Check CUDA_VISIBLE_DEVICES and the container's "
            "devices, or use --runtime onnx --provider cpu."
        )
    if status != 0:
        raise EngineError(f"the NVIDIA driver does not start (CUDA error {status}): reboot after a driver update.")
    return library


def pycuda_driver() -> Any:
    """pycuda.driver. Raises MissingDependencyError."""
    try:
        return import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"pycuda cannot be imported ({error}): {install_hint('trt')}.") from error


def cuda_runtime() -> Any:
    """cuda.bindings.runtime of NVIDIA's cuda-python, 12.6 or later. Raises MissingDependencyError."""
    try:
        return import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"cuda-python cannot be imported ({error}): pip install cuda-python, or use pycuda."
        ) from error
