"""What of the TensorRT session a CPU can run: its refusals with the real libraries, and its own logic over a TensorRT
that is played by ONNX Runtime on host memory. `make test-gpu` runs the rest on a GPU."""

import ctypes
import shutil
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tokfilter.errors import BudgetError, DataError, EngineError, MissingDependencyError
from tokfilter.manifest import Entry, entry_from_file, load_manifest
from tokfilter.runtime import bindings, cuda, cuda_graph, tensorrt_session
from tokfilter.runtime.artefacts import Artefact, artefact
from tokfilter.runtime.golden import golden_of, verify
from tokfilter.runtime.sessions import EngineOptions, open_session, session_for
from tokfilter.runtime.tensorrt_engine import Profile, engine_from_plan, serving_profile
from tokfilter.runtime.tensorrt_session import TensorRTSession

NO_DRIVER = not shutil.which("nvidia-smi")


class HostCuda:
    """CUDA's order of things on host memory: copies happen at once, a capture records and a replay repeats."""

    name = "host"

    def __init__(self):
        self.memory, self.clock, self.closed, self.captured = [], 0.0, False, None

    def attach(self):
        assert not self.closed

    def pinned(self, size):
        return np.zeros(size, np.uint8)

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

    def close(self):
        self.closed = True


class Dims(list):
    pass


class PlayedContext:
    """An execution context that runs the ONNX graph of the same model on the addresses that it was given."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.enqueued = engine, {}, {}, 0

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def get_tensor_shape(self, name):
        batch = self.shapes["images"][0]
        return Dims([batch, 5] if name == "logits" else [batch, self.shapes["slots"][0]])

    def execute_async_v3(self, stream):
        self.enqueued += 1
        self.engine.played.enqueued.append(self)
        if self.engine.played.capturing is not None:
            self.engine.played.capturing.append(self)
            return True
        return self.compute()

    def compute(self):
        images = self._array("images", self.shapes["images"], np.float32)
        slots = np.zeros(self.shapes["slots"], np.int32)
        logits, indices = self.engine.graph.run(None, {"images": images, "slots": slots})
        self._array("logits", logits.shape, np.float32)[...] = logits
        self._array("indices", indices.shape, np.int32)[...] = indices
        return True

    def _array(self, name, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype).reshape(shape)


class PlayedEngine:
    num_io_tensors = 4
    names = ("images", "slots", "logits", "indices")

    def __init__(self, played, graph, profiles):
        self.played, self.graph, self.profiles = played, graph, profiles
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_shape(self, name):
        shapes = {"images": [-1, 3, 32, 32], "slots": [-1], "logits": [-1, 5], "indices": [-1, -1]}
        return Dims(shapes[name])

    def get_tensor_mode(self, name):
        return "input" if name in ("images", "slots") else "output"

    def get_tensor_dtype(self, name):
        return np.int32 if name in ("slots", "indices") else np.float32

    def get_tensor_profile_shape(self, name, index):
        batches, budgets = self.profiles[index]
        return [(n, 3, 32, 32) for n in batches] if name == "images" else [(n,) for n in budgets]

    def create_execution_context(self):
        return PlayedContext(self)


class Played:
    """The module tensorrt, as far as the session uses it."""

    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    nptype = staticmethod(lambda dtype: dtype)

    def __init__(self, path, profiles):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.capturing, self.enqueued, self.graphs, self.replayed = None, [], [], []
        self.engine = PlayedEngine(self, onnxruntime.InferenceSession(str(path), options), profiles)

    def begin(self, stream):
        self.capturing = []

    def end(self, stream):
        captured, self.capturing = self.capturing, None
        if not captured:
            raise EngineError("CUDA graph capture took nothing in")
        self.graphs.append(captured)
        return len(self.graphs)

    def launch(self, graph, stream):
        self.replayed.append(graph)
        for context in self.graphs[graph - 1]:
            context.compute()

    def close(self):
        self.graphs.clear()


PROFILES = [((1, 2, 4), (1, 8, 16)), ((1, 1, 1), (4, 8, 12))]


@pytest.fixture
def plan(export_directory, tmp_path):
    """An artefact whose file is a plan; what it holds is the played engine's business."""
    shutil.copytree(export_directory, tmp_path / "out")
    (tmp_path / "out" / "model.plan").write_bytes(b"a plan")
    entry = entry_from_file(tmp_path / "out", "model.plan", "filtered", runtime="tensorrt", precision="fp32")
    return Artefact(tmp_path / "out", load_manifest(tmp_path / "out"), replace(entry, budget_range=(1, 8, 16)))


@pytest.fixture
def played(plan, monkeypatch):
    module, device = Played(plan.directory / "model.onnx", PROFILES), HostCuda()
    monkeypatch.setattr(tensorrt_session, "tensorrt_module", lambda runtime: module)
    monkeypatch.setattr(tensorrt_session, "cuda_from_name", lambda name: device)
    monkeypatch.setattr(tensorrt_session, "engine_from_plan", lambda *_: (module.engine, None))
    monkeypatch.setattr(tensorrt_session, "Graphs", lambda: module)
    module.device = device
    return module


@pytest.mark.parametrize("graph", [False, True])
def test_played_engine_equals_golden_at_every_batch_and_budget(plan, played, graph):
    with TensorRTSession(plan, cuda_graph=graph) as session:
        golden = golden_of(plan)
        for batch, k in [(1, 8), (3, 4), (4, 16), (1, 8), (2, 12), (3, 4), (1, 1)]:
            verdict = verify(session, plan, golden, batch, k)
            assert verdict.largest_difference is None or verdict.largest_difference < 1e-3
    assert played.device.closed


def test_played_session_describes_itself_and_its_timing(plan, played):
    with TensorRTSession(plan) as session:
        assert [spec.name for spec in session.inputs] == ["images", "slots"]
        assert session.inputs[0].shape == ("batch", 3, 32, 32)
        assert session.outputs[1].shape == ("batch", "k")
        assert (session.budgets.low, session.budgets.high, session.thread_safe) == (1, 16, False)
        timing = session.run(np.zeros((2, 3, 32, 32), np.float32)).timing
        assert (timing.h2d_ms, timing.compute_ms, timing.d2h_ms) == (1.0, 1.0, 1.0)
        assert timing.enqueue_ms >= 0


def test_results_outlive_the_next_call(plan, played):
    images = golden_of(plan).images
    with TensorRTSession(plan) as session:
        first = session.run(images, 8)
        kept = first.logits.copy()
        session.run(images[::-1].copy(), 8)
        np.testing.assert_array_equal(first.logits, kept)


def test_graph_is_captured_once_per_shape_and_replayed(plan, played):
    images = np.zeros((2, 3, 32, 32), np.float32)
    with TensorRTSession(plan, cuda_graph=True) as session:
        for k in (8, 8, 4, 8):
            session.run(images, k)
        assert played.replayed == [1, 1, 2, 1]
        assert all(context.enqueued == 2 for context in played.enqueued)  # one plain, one captured


def test_failed_capture_is_an_error_and_no_silent_fallback(plan, played, monkeypatch):
    def nothing_captured(stream):
        played.capturing = None
        raise EngineError("CUDA graph capture took nothing in: run with cuda_graph=False.")

    monkeypatch.setattr(played, "end", nothing_captured)
    with TensorRTSession(plan, cuda_graph=True) as session, pytest.raises(EngineError, match="cuda_graph=False"):
        session.run(np.zeros((1, 3, 32, 32), np.float32))


def test_contexts_do_not_pile_up(plan, played):
    with TensorRTSession(plan) as session:
        for k in range(1, 17):
            session.run(np.zeros((1, 3, 32, 32), np.float32), k)
        assert len(session._prepared) == 8


def test_narrowest_profile_is_taken(plan, played):
    with TensorRTSession(plan) as session:
        session.run(np.zeros((1, 3, 32, 32), np.float32), 8)
        session.run(np.zeros((2, 3, 32, 32), np.float32), 8)
        session.run(np.zeros((1, 3, 32, 32), np.float32), 2)
    assert [context.profile for context in played.enqueued[::2]] == [1, 0, 0]


def test_what_the_plan_does_not_serve(plan, played):
    with TensorRTSession(plan) as session:
        with pytest.raises(EngineError, match=r"batches of 1 to 4 at 1 to 16 tokens; .*got a batch of 5 at 8 tokens"):
            session.run(np.zeros((5, 3, 32, 32), np.float32), 8)
        with pytest.raises(BudgetError, match="serves budgets from 1 to 16 of 16 tokens|between 1 and"):
            session.run(np.zeros((1, 3, 32, 32), np.float32), 17)
        with pytest.raises(DataError, match="NaN"):
            session.run(np.full((1, 3, 32, 32), np.nan, np.float32))


def test_budget_range_of_the_plan_is_named(plan, played):
    played.engine.profiles = [((1, 2, 4), (4, 8, 12))]
    played.engine.num_optimization_profiles = 1
    with TensorRTSession(plan) as session, pytest.raises(BudgetError, match="budgets from 4 to 12 of 16 tokens, got 2"):
        session.run(np.zeros((1, 3, 32, 32), np.float32), 2)


def test_changed_plan_is_refused_before_any_gpu_is_touched(plan):
    (plan.directory / "model.plan").write_bytes(b"b plan")
    with pytest.raises(EngineError, match="model.plan is not the file"), TensorRTSession(plan):
        pass


def test_serving_profile_prefers_the_narrow_one():
    wide, narrow = Profile(0, (1, 32), (1, 196)), Profile(1, (1, 1), (98, 98))
    assert serving_profile([wide, narrow], 1, 98) is narrow
    assert serving_profile([wide, narrow], 2, 98) is wide
    assert serving_profile([Profile(0, (1, 4), None)], 4, 196).budget is None
    with pytest.raises(EngineError, match="batches of 1 to 1 at 98 to 98 tokens; got a batch of 1 at 97"):
        serving_profile([narrow], 1, 97)


@pytest.mark.skipif(not NO_DRIVER, reason="this machine has an NVIDIA driver")
def test_no_driver_has_its_sentence(plan):
    rtx = replace(plan, entry=replace(plan.entry, runtime="tensorrt-rtx"))
    pytest.importorskip("tensorrt_rtx")
    session = session_for(rtx, EngineOptions(runtime="tensorrt-rtx"))
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver.*--runtime onnx"), session:
        pass
    for name in (None, "pycuda", "cuda-python"):
        with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
            cuda.cuda_from_name(name)
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
        cuda_graph.Graphs()


class PlayedDriver:
    """libcuda as far as it is asked whether there is a GPU."""

    def __init__(self, init=0, devices=1):
        self.init, self.devices = init, devices

    def cuInit(self, flags):  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.devices
        return 0


@pytest.mark.parametrize(
    ("driver", "kind", "message"),
    [
        (PlayedDriver(init=100), MissingDependencyError, "no NVIDIA GPU: the driver is installed and sees none"),
        (PlayedDriver(devices=0), MissingDependencyError, "CUDA_VISIBLE_DEVICES"),
        (PlayedDriver(init=803), EngineError, "CUDA error 803"),
    ],
)
def test_driver_without_a_gpu_has_its_sentence(monkeypatch, driver, kind, message):
    monkeypatch.setattr(bindings.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(kind, match=message):
        bindings.cuda_driver()


def test_missing_packages_have_their_sentence(monkeypatch):
    def nothing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(bindings, "import_module", nothing)
    with pytest.raises(MissingDependencyError, match=r"tensorrt cannot be imported .*tokfilter\[trt\]"):
        bindings.tensorrt_module("tensorrt")
    with pytest.raises(MissingDependencyError, match=r"tensorrt_rtx cannot be imported .*tokfilter\[rtx\]"):
        bindings.tensorrt_module("tensorrt-rtx")
    with pytest.raises(MissingDependencyError, match="pycuda cannot be imported"):
        cuda.Pycuda()
    with pytest.raises(MissingDependencyError, match="pip install cuda-python"):
        cuda.CudaPython()
    monkeypatch.setattr(bindings, "import_module", lambda name: SimpleNamespace())
    with pytest.raises(MissingDependencyError, match="type stubs only"):
        bindings.tensorrt_module("tensorrt")


def test_unknown_backend(monkeypatch):
    monkeypatch.setattr(cuda, "cuda_driver", lambda: None)
    with pytest.raises(EngineError, match="one of pycuda, cuda-python, got 'opencl'"):
        cuda.cuda_from_name("opencl")


def test_cuda_calls_that_fail_are_named():
    pytest.importorskip("cuda.bindings.runtime")
    if not NO_DRIVER:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(EngineError, match="cudaSetDevice failed: cudaError"):
        cuda.CudaPython()


def test_real_tensorrt_rtx_refuses_a_foreign_plan_in_words(plan):
    """The library itself says no, without a GPU; its words and ours must reach the user."""
    module = pytest.importorskip("tensorrt_rtx")
    entry = Entry("model.plan", "filtered", "", 6, "tensorrt-rtx", "fp32", target={"gpu": "Orin", "tensorrt": "10.3"})
    with pytest.raises(EngineError, match=r"refuses .*model.plan: .*for gpu Orin, tensorrt 10.3.*tokfilter engine"):
        engine_from_plan(module, plan.directory / "model.plan", entry, [])


def wanting_plugin(plan):
    return replace(plan.entry, target={"plugin": "libtokfilter_plugin.so"})


def test_real_tensorrt_rtx_refuses_a_library_that_is_none(plan):
    module = pytest.importorskip("tensorrt_rtx")
    file = plan.directory / "model.plan"
    with pytest.raises(EngineError, match="cannot load the plugin library .*tokfilter plugin build"):
        engine_from_plan(module, file, wanting_plugin(plan), [plan.directory / "model.onnx"])
    with pytest.raises(EngineError, match=r"wants the plugin library libtokfilter_plugin.so, and manifest.json"):
        engine_from_plan(module, file, wanting_plugin(plan), [])


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Cannot find plugin: TokenSelect, version: 1, namespace:tokfilter.", "tokfilter plugin build"),
        (
            "The engine plan file is not compatible with this version of TensorRT, please rebuild",
            "of another TensorRT version. Build it again on this machine",
        ),
        ("generated on an incompatible device, expecting compute 8.7 got compute 9.0, please rebuild", "another GPU"),
        ("Serialization assertion failed", "Build it again on this machine"),
    ],
)
def test_refusals_come_with_a_remedy(plan, said, remedy):
    class Logger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            self.logger.log(1, said)
            self.logger.log(3, "chatter")

    module = ModuleType("tensorrt")
    module.ILogger, module.Runtime, module.__version__ = Logger, Runtime, "10.13"
    with pytest.raises(EngineError, match=remedy) as caught:
        engine_from_plan(module, plan.directory / "model.plan", plan.entry, [])
    assert "chatter" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("backend", ["pycuda", "cuda-python"])
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_engine_on_a_gpu_equals_golden(bundle_file, tmp_path, runtime, backend, graph):
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle

    pytest.importorskip(runtime.replace("-", "_"))
    pytest.importorskip("pycuda.driver" if backend == "pycuda" else "cuda.bindings.runtime")
    export_bundle(
        bundle_file, tmp_path / "out", ExportOptions(trt=runtime == "tensorrt", rtx=runtime == "tensorrt-rtx")
    )
    options = EngineOptions(runtime, cuda_graph=graph, backend=backend)
    chosen = artefact(tmp_path / "out", "filtered", runtime)
    with open_session(tmp_path / "out", "filtered", options) as session:
        golden = golden_of(chosen)
        for batch, k in [(1, 8), (4, 4), (2, 12), (1, 8)]:
            verify(session, chosen, golden, batch, k)
        timing = session.run(golden.tiled(4), 8).timing
        assert timing is not None and timing.compute_ms > 0
