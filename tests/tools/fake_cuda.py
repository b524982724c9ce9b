"""Fakes of CUDA on host memory, of pycuda, of cuda-python's runtime module and of the driver's C library.

Confirmed with the real libraries: pycuda 2026.1 and cuda-python on an NVIDIA H200 (CUDA 13.0, driver 580.159.04,
2026-11-26) passed the GPU tests of ``tests/runtime/tensorrt/test_cuda.py``: copies, events, threads, captured graphs,
running out of memory. The stack of contexts was also read in pycuda's src/cpp/cuda.hpp (19bed90): each thread has
one, a pop removes the topmost one, and a thread that ends with contexts on its stack aborts the process. The status
codes of a driver without a usable GPU (``FakeDriver``) are those of NVIDIA's documentation; no real driver confirmed
them.
"""

import ctypes
import inspect
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

__all__ = ["FakeCudaRuntime", "FakeDriver", "FakeGraphDriver", "FakePycuda", "HostCuda"]


class HostCuda:
    """CUDA on host memory: copies happen at once, a capture records and a replay repeats.

    As in CUDA, calls are valid only in a thread where the device is current.
    """

    name = "host"

    def __init__(self):
        self.memory, self.clock, self.closed, self.threads = [], 0.0, False, []

    @contextmanager
    def current(self):
        assert not self.closed
        self.threads.append(threading.get_ident())
        try:
            yield
        finally:
            self.threads.remove(threading.get_ident())

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name == "current" or not inspect.ismethod(value):
            return value

        def checked(*arguments):
            assert threading.get_ident() in self.threads, f"{name} where no device is current"
            return value(*arguments)

        return checked

    def pinned(self, size):
        self.memory.append(np.zeros(size, np.uint8))
        return self.memory[-1]

    def allocate(self, size):
        self.memory.append(np.zeros(size, np.uint8))
        return self.memory[-1].ctypes.data

    def stream(self):
        return 7

    def event(self):
        return SimpleNamespace(at=0.0)

    def record(self, event, stream):
        self.clock += 1.0
        event.at = self.clock

    def milliseconds(self, start, end):
        return end.at - start.at

    def to_device(self, address, source, stream):
        ctypes.memmove(address, source.ctypes.data, source.nbytes)

    def to_host(self, target, address, stream):
        ctypes.memmove(target.ctypes.data, address, target.nbytes)

    def synchronize(self, stream):
        assert stream == 7

    def free(self, address):
        (found,) = [memory for memory in self.memory if memory.ctypes.data == address]
        self.memory = [memory for memory in self.memory if memory is not found]

    def on_device(self, target, source, size, stream):
        ctypes.memmove(target, source, size)

    def end_capture(self, stream):
        self.ended = stream

    def close(self):
        self.closed = True


class FakePycuda:
    """pycuda.driver with its stack of contexts per thread."""

    class Error(Exception):
        pass

    def __init__(self):
        self.stacks, self.streams, self.retained, self.full = {}, [], 0, False
        self.Device = lambda index: SimpleNamespace(retain_primary_context=self.retain)

    @property
    def stack(self):
        return self.stacks.setdefault(threading.get_ident(), [])

    def init(self):
        pass

    def retain(self):
        self.retained += 1
        return SimpleNamespace(push=lambda: self.stack.append("ours"), pop=lambda: self.stack.pop())

    def mem_alloc(self, size):
        assert self.stack[-1] == "ours"
        if self.full:
            raise self.Error("cuMemAlloc failed: out of memory")
        return Allocation(self)

    def Stream(self, flags=0):  # noqa: N802
        self.streams.append(flags)
        return SimpleNamespace(handle=7)


class Allocation:
    def __init__(self, driver):
        self.driver = driver

    def __int__(self):
        return 4096

    def free(self):
        assert self.driver.stack[-1] == "ours"


class FakeCudaRuntime:
    """cuda.bindings.runtime: devices, streams and failing calls."""

    def __init__(self):
        self.device, self.flags = 1, []
        self.ok, self.full = Status(0, "cudaSuccess"), Status(2, "cudaErrorMemoryAllocation")

    def cudaGetDevice(self):  # noqa: N802
        return self.ok, self.device

    def cudaSetDevice(self, device):  # noqa: N802
        self.device = device
        return (self.ok,)

    def cudaMalloc(self, size):  # noqa: N802
        return self.full, None

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        self.flags.append(flags)
        return self.ok, 7


class Status:
    def __init__(self, value, name):
        self.value, self.name = value, name

    def __int__(self):
        return self.value


class FakeGraphDriver:
    """libcuda: graphs. Every capture holds ``nodes`` nodes."""

    def __init__(self, nodes=1):
        self.nodes, self.made, self.alive, self.graphs = nodes, 0, set(), 0

    def cuStreamBeginCapture_v2(self, stream, mode):  # noqa: N802
        assert (stream.value, mode.value) == (7, 1)
        return 0

    def cuStreamEndCapture(self, stream, graph):  # noqa: N802
        graph._obj.value, self.graphs = 99, self.graphs + 1
        return 0

    def cuGraphGetNodes(self, graph, nodes, count):  # noqa: N802
        count._obj.value = self.nodes
        return 0

    def cuGraphInstantiateWithFlags(self, instance, graph, flags):  # noqa: N802
        self.made += 1
        instance._obj.value = self.made
        self.alive.add(self.made)
        return 0

    def cuGraphDestroy(self, graph):  # noqa: N802
        self.graphs -= 1
        return 0

    def cuGraphExecDestroy(self, instance):  # noqa: N802
        self.alive.remove(instance.value)
        return 0


class FakeDriver:
    """libcuda: initialisation and the number of devices."""

    def __init__(self, init=0, devices=1):
        self.init, self.devices = init, devices

    def cuInit(self, flags):  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.devices
        return 0
