"""CUDA through the NVIDIA driver's C library, which every machine with a GPU has: no Python package is needed.

The device's primary context is used, as ONNX Runtime and PyTorch use it, so that addresses and streams are theirs too.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime.cuda import failure
from tokfilter.runtime.cuda_bindings import cuda_driver
from tokfilter.runtime.session import Array

__all__ = ["DriverCuda"]

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING, as in ``runtime/cuda.py``."""

_OUT_OF_MEMORY: Final = 2
_NOT_CAPTURING: Final = 0


class DriverCuda:
    """``runtime.cuda.Cuda`` through libcuda, and what ONNX Runtime's sessions need beyond it.

    device: number of the GPU, as CUDA counts those that are visible
    """

    name = "driver"

    def __init__(self, device: int = 0) -> None:
        self._driver = cuda_driver()
        self._device = device
        self._held: dict[int, str] = {}
        count, handle, context = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_void_p()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= device < count.value:
            raise MissingDependencyError(
                f"device must be a number from 0 to {count.value - 1}, the GPUs that CUDA finds here, got {device}. "
                "Check CUDA_VISIBLE_DEVICES."
            )
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._context = context

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device current in the calling thread for a block, and restore the one before."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def allocate(self, size: int) -> int:
        """Device memory of ``size`` bytes, as an address."""
        return self._hold("cuMemFree_v2", "cuMemAlloc_v2", ctypes.c_size_t(max(size, 1)))

    def pinned(self, size: int) -> Array:
        """Page-locked host memory of ``size`` bytes, as uint8."""
        address = self._hold("cuMemFreeHost", "cuMemHostAlloc", ctypes.c_size_t(max(size, 1)), ctypes.c_uint(0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))

    def free(self, address: int) -> None:
        """Release memory of ``allocate`` or ``pinned``."""
        self._call(self._held.pop(address), ctypes.c_void_p(address))

    def stream(self) -> int:
        """A new stream."""
        return self._hold("cuStreamDestroy_v2", "cuStreamCreate", ctypes.c_uint(_NON_BLOCKING))

    def event(self) -> Any:
        """A new event with timing."""
        return self._hold("cuEventDestroy_v2", "cuEventCreate", ctypes.c_uint(0))

    def to_device(self, address: int, source: Array, stream: int) -> None:
        """Copy pinned memory to the device, in the order of the stream."""
        target, origin, size = ctypes.c_void_p(address), ctypes.c_void_p(source.ctypes.data), source.nbytes
        self._call("cuMemcpyHtoDAsync_v2", target, origin, ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def to_host(self, target: Array, address: int, stream: int) -> None:
        """Copy device memory to pinned memory, in the order of the stream."""
        host, origin, size = ctypes.c_void_p(target.ctypes.data), ctypes.c_void_p(address), target.nbytes
        self._call("cuMemcpyDtoHAsync_v2", host, origin, ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes from one address of the device to another, in the order of the stream."""
        addresses = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self._call("cuMemcpyDtoDAsync_v2", *addresses, ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def record(self, event: Any, stream: int) -> None:
        """Record an event in the order of the stream."""
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events that have both passed."""
        elapsed = ctypes.c_float(0)
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return elapsed.value

    def synchronize(self, stream: int) -> None:
        """Wait until the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def end_capture(self, stream: int) -> None:
        """End a capture that failed half-way: until then nothing else runs on the stream."""
        state, graph = ctypes.c_int(_NOT_CAPTURING), ctypes.c_void_p()
        self._driver.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(state))
        if state.value != _NOT_CAPTURING:
            self._driver.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph))
            if graph.value is not None:
                self._driver.cuGraphDestroy(graph)

    def close(self) -> None:
        """Release everything but the primary context, which ONNX Runtime and PyTorch go on using."""
        for handle, function in reversed(tuple(self._held.items())):
            self._call(function, ctypes.c_void_p(handle))
        self._held.clear()

    def _hold(self, release: str, function: str, *arguments: Any) -> int:
        handle = ctypes.c_void_p()
        self._call(function, ctypes.byref(handle), *arguments)
        if not handle.value:
            raise EngineError(f"CUDA: {function} gave nothing. Restart the process.")
        self._held[handle.value] = release
        return handle.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status == _OUT_OF_MEMORY:
            raise failure(f"{function} failed: out of memory")
        if status != 0:
            raise failure(f"{function} failed with error {status}")
