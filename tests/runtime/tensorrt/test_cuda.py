"""CUDA through pycuda and cuda-python, fake: which thread has which context, and what is said when a call fails.

What pycuda does is read in its src/cpp/cuda.hpp (19bed90): each thread has a stack of contexts, a pop takes whatever
is on top, and a thread that ends with a stack that is not empty aborts the process.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from tokfilter.errors import EngineError
from tokfilter.runtime import cuda, cuda_graph


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


@pytest.fixture
def pycuda(monkeypatch):
    driver = FakePycuda()
    monkeypatch.setattr(cuda, "pycuda_driver", lambda: driver)
    return driver


def use(device):
    with device.current():
        device.allocate(8)


def test_no_thread_keeps_a_context_that_pycuda_would_abort_at(pycuda):
    device = cuda.Pycuda()
    for work in (lambda: use(device), device.close):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    use(device)
    device.close()
    assert all(stack == [] for stack in pycuda.stacks.values())


def test_a_context_of_the_caller_stays_on_top(pycuda):
    pycuda.stack.append("the caller's")
    device = cuda.Pycuda()
    use(device)
    assert pycuda.stack == ["the caller's"]
    device.close()
    assert pycuda.stack == ["the caller's"]


def test_the_primary_context_is_retained_once(pycuda):
    for _ in range(3):
        cuda.Pycuda().close()
    assert pycuda.retained == 1


def test_errors_of_pycuda_are_ours_and_leave_no_context(pycuda):
    device = cuda.Pycuda()
    pycuda.full = True
    with pytest.raises(EngineError, match="CUDA: cuMemAlloc failed: out of memory. Free device memory, or ask for sm"):
        use(device)
    assert pycuda.stack == []


class FakeRuntime:
    """cuda.bindings.runtime as far as devices, streams and failing calls go."""

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


def test_cuda_python_gives_a_thread_its_device_back_and_says_what_fails(monkeypatch):
    runtime = FakeRuntime()
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: runtime)
    device = cuda.CudaPython()
    with device.current():
        assert runtime.device == 0
    assert runtime.device == 1
    with pytest.raises(EngineError, match="cudaMalloc failed: cudaErrorMemoryAllocation. Free device memory"):
        use(device)
    assert runtime.device == 1


def test_streams_leave_the_legacy_stream_alone_so_that_other_threads_may_capture(pycuda, monkeypatch):
    runtime = FakeRuntime()
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: runtime)
    for device in (cuda.Pycuda(), cuda.CudaPython()):
        with device.current():
            assert device.stream() == 7
    assert (pycuda.streams, runtime.flags) == ([1], [1])


class FakeGraphs:
    """libcuda as far as graphs go: every capture holds one node."""

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


def test_graphs_are_dropped_one_by_one_and_all_at_the_end(monkeypatch):
    driver = FakeGraphs()
    monkeypatch.setattr(cuda_graph, "cuda_driver", lambda: driver)
    graphs = cuda_graph.Graphs()
    made = []
    for _ in range(3):
        graphs.begin(7)
        made.append(graphs.end(7))
    graphs.drop(made[1])
    assert (driver.alive, driver.graphs) == ({1, 3}, 0)
    graphs.close()
    assert driver.alive == set()


def test_a_capture_that_took_nothing_in_is_an_error_and_leaves_no_graph(monkeypatch):
    driver = FakeGraphs(nodes=0)
    monkeypatch.setattr(cuda_graph, "cuda_driver", lambda: driver)
    graphs = cuda_graph.Graphs()
    graphs.begin(7)
    with pytest.raises(EngineError, match="took nothing in"):
        graphs.end(7)
    assert (driver.alive, driver.graphs) == (set(), 0)


@pytest.fixture(params=["pycuda", "cuda-python"])
def real(request):
    """The real device through each binding."""
    pytest.importorskip("pycuda.driver" if request.param == "pycuda" else "cuda.bindings.runtime")
    device = cuda.cuda_from_name(request.param)
    yield device
    device.close()


@pytest.mark.gpu
def test_what_goes_to_the_device_comes_back_in_the_order_of_the_stream(real):
    with real.current():
        stream, size = real.stream(), 1 << 22
        sent, received, address = real.pinned(size), real.pinned(size), real.allocate(size)
        begun, ended = real.event(), real.event()
        for seed in range(3):
            sent[:] = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
            received[:] = 0
            real.record(begun, stream)
            real.to_device(address, sent, stream)
            real.to_host(received, address, stream)
            real.record(ended, stream)
            real.synchronize(stream)
            assert np.array_equal(received, sent)
            assert 0 < real.milliseconds(begun, ended) < 1000


@pytest.mark.gpu
def test_a_thread_of_its_own_uses_the_device_and_ends(real):
    def work():
        with real.current():
            return real.allocate(1 << 20)

    with ThreadPoolExecutor(1) as pool:  # pycuda would abort when this thread ends with a context still pushed
        assert pool.submit(work).result() > 0


@pytest.mark.gpu
def test_more_memory_than_the_device_has_is_refused_in_words(real):
    with pytest.raises(EngineError, match="Free device memory, or ask for smaller batches"), real.current():
        real.allocate(1 << 46)


@pytest.mark.gpu
def test_a_captured_graph_is_replayed_on_new_inputs(real):
    with real.current():
        graphs, stream, size = cuda_graph.Graphs(), real.stream(), 4096
        sent, received, address = real.pinned(size), real.pinned(size), real.allocate(size)
        graphs.begin(stream)
        real.to_device(address, sent, stream)
        real.to_host(received, address, stream)
        graph = graphs.end(stream)
        for value in (1, 2, 3):
            sent[:] = value
            graphs.launch(graph, stream)
            real.synchronize(stream)
            assert (received == value).all()
        graphs.begin(stream)
        with pytest.raises(EngineError, match="took nothing in: run with cuda_graph=False"):
            graphs.end(stream)
        graphs.close()
