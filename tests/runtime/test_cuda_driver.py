"""CUDA through libcuda. The fake library holds "device" memory on the host and counts what is held; on a GPU,
``tests/runtime/tensorrt/test_cuda.py`` runs the same class."""

import ctypes

import numpy as np
import pytest

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime import cuda_driver
from tokfilter.runtime.cuda_driver import DriverCuda


class FakeLibrary:
    """libcuda's calls that DriverCuda makes, by NVIDIA's declarations."""

    def __init__(self, devices=2):
        self.devices, self.stack, self.held, self.capturing, self.ended, self.full = devices, [], {}, 0, 0, False

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, handle, device):  # noqa: N802
        handle._obj.value = device
        return 0

    def cuDevicePrimaryCtxRetain(self, context, handle):  # noqa: N802
        context._obj.value = 1000 + handle.value
        return 0

    def cuCtxPushCurrent_v2(self, context):  # noqa: N802
        self.stack.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context):  # noqa: N802
        self.stack.pop()
        return 0

    def _made(self, kind, target, size=8):
        assert self.stack, "no device is current"
        if self.full:
            return 2
        memory = ctypes.create_string_buffer(size)
        target._obj.value = ctypes.addressof(memory)
        self.held[target._obj.value] = kind, memory
        return 0

    def _gone(self, kind, handle):
        assert self.stack and self.held.pop(handle.value)[0] == kind
        return 0

    def cuMemAlloc_v2(self, target, size):  # noqa: N802
        return self._made("device", target, size.value)

    def cuMemHostAlloc(self, target, size, flags):  # noqa: N802
        return self._made("host", target, size.value)

    def cuStreamCreate(self, target, flags):  # noqa: N802
        assert flags.value == 1
        return self._made("stream", target)

    def cuEventCreate(self, target, flags):  # noqa: N802
        assert flags.value == 0
        return self._made("event", target)

    def cuMemFree_v2(self, handle):  # noqa: N802
        return self._gone("device", handle)

    def cuMemFreeHost(self, handle):  # noqa: N802
        return self._gone("host", handle)

    def cuStreamDestroy_v2(self, handle):  # noqa: N802
        return self._gone("stream", handle)

    def cuEventDestroy_v2(self, handle):  # noqa: N802
        return self._gone("event", handle)

    def _copied(self, target, source, size, stream):
        assert self.held[stream.value][0] == "stream"
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    cuMemcpyHtoDAsync_v2 = cuMemcpyDtoHAsync_v2 = cuMemcpyDtoDAsync_v2 = _copied  # noqa: N815

    def cuEventRecord(self, event, stream):  # noqa: N802
        return 0

    def cuEventElapsedTime(self, elapsed, start, end):  # noqa: N802
        elapsed._obj.value = 1.5
        return 0

    def cuStreamSynchronize(self, stream):  # noqa: N802
        return 700 if self.capturing else 0

    def cuStreamIsCapturing(self, stream, state):  # noqa: N802
        state._obj.value = self.capturing
        return 0

    def cuStreamEndCapture(self, stream, graph):  # noqa: N802
        self.capturing, self.ended = 0, self.ended + 1
        return 901  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: no graph


@pytest.fixture
def library(monkeypatch):
    fake = FakeLibrary()
    monkeypatch.setattr(cuda_driver, "cuda_driver", lambda: fake)
    return fake


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_bytes_go_to_the_device_over_it_and_back(library, size):
    cuda = DriverCuda(1)
    with cuda.current():
        assert library.stack == [1001]
        stream, one, two = cuda.stream(), cuda.allocate(size), cuda.allocate(size)
        sent, received = cuda.pinned(size), cuda.pinned(size)
        sent[:] = np.arange(size) % 251
        cuda.to_device(one, sent, stream)
        cuda.on_device(two, one, size, stream)
        cuda.to_host(received, two, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(received, sent)
        assert cuda.milliseconds(cuda.event(), cuda.event()) == 1.5
        cuda.free(one)
        cuda.free(received.ctypes.data)
        assert sorted(kind for kind, _ in library.held.values()) == ["device", "event", "event", "host", "stream"]
        cuda.close()
    assert not library.held and not library.stack


def test_the_context_is_left_after_an_error(library):
    cuda = DriverCuda()
    with pytest.raises(RuntimeError), cuda.current():
        raise RuntimeError
    assert not library.stack


@pytest.mark.parametrize("device", [-1, 2, 99])
def test_a_gpu_that_is_not_there(library, device):
    with pytest.raises(MissingDependencyError, match=f"from 0 to 1, the GPUs that CUDA finds here, got {device}"):
        DriverCuda(device)


def test_errors_have_the_remedy(library):
    cuda = DriverCuda()
    with cuda.current():
        library.full = True
        with pytest.raises(
            EngineError, match="cuMemAlloc_v2 failed: out of memory. Free device memory, or use smaller"
        ):
            cuda.allocate(1 << 40)
        library.full = False
        stream, library.capturing = cuda.stream(), 1
        with pytest.raises(EngineError, match="cuStreamSynchronize failed with error 700.*tokfilter doctor"):
            cuda.synchronize(stream)


def test_a_capture_is_ended_only_where_there_is_one(library):
    cuda = DriverCuda()
    with cuda.current():
        stream = cuda.stream()
        cuda.end_capture(stream)
        assert library.ended == 0
        library.capturing = 2  # CU_STREAM_CAPTURE_STATUS_INVALIDATED
        cuda.end_capture(stream)
        assert library.ended == 1
        cuda.synchronize(stream)
