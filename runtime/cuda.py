"""The CUDA calls of a session (memory, copies, streams, events), through pycuda or NVIDIA's cuda-python.

Streams and device addresses are integers, as in TensorRT's interface.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime.cuda_bindings import cuda_driver, cuda_runtime, pycuda_driver

__all__ = ["BACKENDS", "Cuda", "CudaPython", "Pycuda", "cuda_from_name", "failure"]

Array = npt.NDArray[Any]

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: while a blocking stream is captured, the legacy stream is unusable in every thread."""


class Cuda(Protocol):
    """Device memory, pinned host memory, streams and events of one device. Call the methods inside ``current()``."""

    name: str

    def current(self) -> AbstractContextManager[None]:
        """Make the device current in the calling thread for a block, and restore the one before."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory of ``size`` bytes, as an address."""
        ...

    def pinned(self, size: int) -> Array:
        """Page-locked host memory of ``size`` bytes, as uint8."""
        ...

    def stream(self) -> int:
        """A new stream."""
        ...

    def event(self) -> Any:
        """A new event with timing."""
        ...

    def to_device(self, address: int, source: Array, stream: int) -> None:
        """Copy pinned memory to the device, in the order of the stream."""
        ...

    def to_host(self, target: Array, address: int, stream: int) -> None:
        """Copy device memory to pinned memory, in the order of the stream."""
        ...

    def record(self, event: Any, stream: int) -> None:
        """Record an event in the order of the stream."""
        ...

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events that have both passed."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until the stream is done."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class Pycuda:
    """CUDA through pycuda, in the device's primary context, which other libraries of the process use too."""

    name = "pycuda"

    def __init__(self, device: int = 0) -> None:
        self._driver = pycuda_driver()
        self._streams: dict[int, Any] = {}
        self._memory: list[Any] = []
        with self._errors():
            self._context = _primary_context(self._driver, device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device current in the calling thread for a block, and restore the one before.

        pycuda aborts the process when a thread ends with a context on its stack, and a pop removes the topmost one.
        """
        with self._errors():
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise failure(str(error)) from error

    def allocate(self, size: int) -> int:
        """Device memory of ``size`` bytes, as an address."""
        allocation = self._driver.mem_alloc(max(size, 1))
        self._memory.append(allocation)
        return int(allocation)

    def pinned(self, size: int) -> Array:
        """Page-locked host memory of ``size`` bytes, as uint8."""
        memory: Array = self._driver.pagelocked_empty(max(size, 1), np.uint8)
        return memory

    def stream(self) -> int:
        """A new stream."""
        stream = self._driver.Stream(_NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def event(self) -> Any:
        """A new event with timing."""
        return self._driver.Event()

    def to_device(self, address: int, source: Array, stream: int) -> None:
        """Copy pinned memory to the device, in the order of the stream."""
        self._driver.memcpy_htod_async(address, source, self._streams[stream])

    def to_host(self, target: Array, address: int, stream: int) -> None:
        """Copy device memory to pinned memory, in the order of the stream."""
        self._driver.memcpy_dtoh_async(target, address, self._streams[stream])

    def record(self, event: Any, stream: int) -> None:
        """Record an event in the order of the stream."""
        event.record(self._streams[stream])

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events that have both passed."""
        return float(end.time_since(start))

    def synchronize(self, stream: int) -> None:
        """Wait until the stream is done."""
        self._streams[stream].synchronize()

    def close(self) -> None:
        """Release everything."""
        with self.current():
            while self._memory:
                self._memory.pop().free()
            self._streams.clear()


class CudaPython:
    """CUDA through NVIDIA's cuda-python (``cuda.bindings.runtime``)."""

    name = "cuda-python"

    def __init__(self, device: int = 0) -> None:
        self._runtime = cuda_runtime()
        self._device = device
        self._held: list[tuple[str, Any]] = []
        with self.current():
            pass  # raises here if the device cannot be used

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device current in the calling thread for a block, and restore the one before."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", self._device)
        try:
            yield
        finally:
            if before != self._device:
                self._call("cudaSetDevice", before)

    def allocate(self, size: int) -> int:
        """Device memory of ``size`` bytes, as an address."""
        address = int(self._call("cudaMalloc", max(size, 1)))
        self._held.append(("cudaFree", address))
        return address

    def pinned(self, size: int) -> Array:
        """Page-locked host memory of ``size`` bytes, as uint8."""
        address = int(self._call("cudaMallocHost", max(size, 1)))
        self._held.append(("cudaFreeHost", address))
        return np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))

    def stream(self) -> int:
        """A new stream."""
        stream = self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)
        self._held.append(("cudaStreamDestroy", stream))
        return int(stream)

    def event(self) -> Any:
        """A new event with timing."""
        event = self._call("cudaEventCreate")
        self._held.append(("cudaEventDestroy", event))
        return event

    def to_device(self, address: int, source: Array, stream: int) -> None:
        """Copy pinned memory to the device, in the order of the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: Array, address: int, stream: int) -> None:
        """Copy device memory to pinned memory, in the order of the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def record(self, event: Any, stream: int) -> None:
        """Record an event in the order of the stream."""
        self._call("cudaEventRecord", event, stream)

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events that have both passed."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def synchronize(self, stream: int) -> None:
        """Wait until the stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def close(self) -> None:
        """Release everything."""
        while self._held:
            self._call(*self._held.pop())

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *values = getattr(self._runtime, function)(*arguments)
        if int(status) != 0:
            raise failure(f"{function} failed: {status.name}")
        return values[0] if values else None


@cache
def _primary_context(driver: Any, device: int) -> Any:
    """Cached for the life of the process: pycuda leaves the context on the driver's stack when it releases it."""
    driver.init()
    return driver.Device(device).retain_primary_context()


def failure(message: str) -> EngineError:
    """EngineError for a message of CUDA's, with the remedy."""
    out_of_memory = "out of memory" in message or "MemoryAllocation" in message
    remedy = (
        "Free device memory, or use smaller batches."
        if out_of_memory
        else "Restart the process; `tokfilter doctor` checks driver and device."
    )
    return EngineError(f"CUDA: {message.rstrip('.')}. {remedy}")


BACKENDS: Final[dict[str, Callable[[int], Cuda]]] = {"pycuda": Pycuda, "cuda-python": CudaPython}


def cuda_from_name(name: str | None = None, device: int = 0) -> Cuda:
    """The CUDA backend of that name, or the first one that is installed; driver and GPU are checked first.

    device: number of the GPU

    Raises MissingDependencyError, EngineError.
    """
    cuda_driver()
    if name is not None and name not in BACKENDS:
        raise EngineError(f"a CUDA backend must be one of {', '.join(BACKENDS)}, got {name!r}.")
    missing = []
    for kind in [BACKENDS[name]] if name else BACKENDS.values():
        try:
            return kind(device)
        except MissingDependencyError as error:
            missing.append(str(error))
    raise MissingDependencyError(" ".join(missing))
