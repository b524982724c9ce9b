"""CUDA through pycuda, cuda-python and the driver: fakes for contexts and failing calls, the real ones on a GPU."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_cuda import FakeCudaRuntime, FakeDriver, FakeGraphDriver, FakePycuda

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime import cuda, cuda_bindings, cuda_graph
from tokfilter.runtime.cuda_driver import DriverCuda
from tokfilter.trt.gpus import driver_version

NO_DRIVER = driver_version() is None


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


def test_errors_of_pycuda_become_engine_errors_and_leave_no_context(pycuda):
    device = cuda.Pycuda()
    pycuda.full = True
    with pytest.raises(EngineError, match="CUDA: cuMemAlloc failed: out of memory. Free device memory, or use sm"):
        use(device)
    assert pycuda.stack == []


def test_cuda_python_restores_the_device_of_a_thread_and_names_the_failed_call(monkeypatch):
    runtime = FakeCudaRuntime()
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: runtime)
    device = cuda.CudaPython()
    with device.current():
        assert runtime.device == 0
    assert runtime.device == 1
    with pytest.raises(EngineError, match="cudaMalloc failed: cudaErrorMemoryAllocation. Free device memory"):
        use(device)
    assert runtime.device == 1


def test_streams_leave_the_legacy_stream_alone_so_that_other_threads_may_capture(pycuda, monkeypatch):
    runtime = FakeCudaRuntime()
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: runtime)
    for device in (cuda.Pycuda(), cuda.CudaPython()):
        with device.current():
            assert device.stream() == 7
    assert (pycuda.streams, runtime.flags) == ([1], [1])


def test_graphs_are_destroyed_one_by_one_and_all_at_close(monkeypatch):
    driver = FakeGraphDriver()
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


def test_an_empty_capture_is_an_error_and_leaves_no_graph(monkeypatch):
    driver = FakeGraphDriver(nodes=0)
    monkeypatch.setattr(cuda_graph, "cuda_driver", lambda: driver)
    graphs = cuda_graph.Graphs()
    graphs.begin(7)
    with pytest.raises(EngineError, match="capture is empty"):
        graphs.end(7)
    assert (driver.alive, driver.graphs) == (set(), 0)


@pytest.mark.parametrize(
    ("driver", "kind", "message"),
    [
        (FakeDriver(init=100), MissingDependencyError, "no NVIDIA GPU: the driver is installed and finds none"),
        (FakeDriver(devices=0), MissingDependencyError, "CUDA_VISIBLE_DEVICES"),
        (FakeDriver(init=803), EngineError, "CUDA error 803"),
    ],
)
def test_driver_without_a_usable_gpu_is_refused(monkeypatch, driver, kind, message):
    monkeypatch.setattr(cuda_bindings.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(kind, match=message):
        cuda_bindings.cuda_driver()


def test_missing_bindings_are_named_with_the_command_that_installs_them(monkeypatch):
    def nothing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(cuda_bindings, "import_module", nothing)
    with pytest.raises(MissingDependencyError, match="pycuda cannot be imported"):
        cuda.Pycuda()
    with pytest.raises(MissingDependencyError, match="pip install cuda-python"):
        cuda.CudaPython()


def test_unknown_backend(monkeypatch):
    monkeypatch.setattr(cuda, "cuda_driver", lambda: None)
    with pytest.raises(EngineError, match="one of pycuda, cuda-python, got 'opencl'"):
        cuda.cuda_from_name("opencl")


def test_cuda_calls_that_fail_are_named():
    pytest.importorskip("cuda.bindings.runtime")
    if not NO_DRIVER:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(EngineError, match="cudaGetDevice failed: cudaError.*tokfilter doctor"):
        cuda.CudaPython()


@pytest.fixture(params=["pycuda", "cuda-python", "driver"])
def real(request):
    """The real device through each binding, and through libcuda itself."""
    if request.param != "driver":
        pytest.importorskip("pycuda.driver" if request.param == "pycuda" else "cuda.bindings.runtime")
    device = DriverCuda() if request.param == "driver" else cuda.cuda_from_name(request.param)
    yield device
    with device.current():
        device.close()


@pytest.mark.gpu
def test_copies_to_the_device_and_back_run_in_stream_order(real):
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
def test_a_new_thread_uses_the_device_and_ends(real):
    def work():
        with real.current():
            return real.allocate(1 << 20)

    with ThreadPoolExecutor(1) as pool:  # pycuda would abort when this thread ends with a context still pushed
        assert pool.submit(work).result() > 0


@pytest.mark.gpu
def test_out_of_device_memory_is_an_engine_error(real):
    with pytest.raises(EngineError, match="Free device memory, or use smaller batches"), real.current():
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
        with pytest.raises(EngineError, match="capture is empty: run with cuda_graph=False"):
            graphs.end(stream)
        graphs.close()
