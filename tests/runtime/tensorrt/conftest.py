"""A TensorRT that is fake by ONNX Runtime on host memory, so that a CPU can run the session's own logic."""

import ctypes
import inspect
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tokfilter.artifacts.manifest import entry_from_file, load_manifest
from tokfilter.errors import EngineError
from tokfilter.runtime import tensorrt_session
from tokfilter.runtime.model_files import ModelFile


class HostCuda:
    """CUDA's order of things on host memory: copies happen at once, a capture records and a replay repeats.

    Like CUDA it serves only a thread in which the device is current.
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


class FakeContext:
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
        return True

    def get_tensor_shape(self, name):
        batch = self.shapes["images"][0]
        return Dims([batch, 5] if name == "logits" else [batch, self.shapes["slots"][0]])

    def execute_async_v3(self, stream):
        self.enqueued += 1
        self.engine.fake.enqueued.append(self)
        if self.engine.fake.capturing is not None:
            self.engine.fake.capturing.append(self)
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


class FakeEngine:
    num_io_tensors = 4
    names = ("images", "slots", "logits", "indices")

    def __init__(self, fake, graph, profiles):
        self.fake, self.graph, self.profiles = fake, graph, profiles
        self.num_optimization_profiles, self.configs = len(profiles), []

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

    def create_runtime_config(self):
        return SimpleNamespace()

    def create_execution_context(self, config=None):
        self.configs.append(config)
        return FakeContext(self)


class Logger:
    """TensorRT's ILogger."""

    Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)


class Fake:
    """The module tensorrt, as far as the session uses it."""

    ILogger, Context, Device = Logger, FakeContext, HostCuda
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    nptype = staticmethod(lambda dtype: dtype)

    def __init__(self, path, profiles):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.capturing, self.enqueued, self.graphs, self.captures, self.replayed = None, [], {}, 0, []
        self.engine = FakeEngine(self, onnxruntime.InferenceSession(str(path), options), profiles)

    def begin(self, stream):
        self.capturing = []

    def end(self, stream):
        captured, self.capturing = self.capturing, None
        if not captured:
            raise EngineError("CUDA graph capture took nothing in")
        self.captures += 1
        self.graphs[self.captures] = captured
        return self.captures

    def drop(self, graph):
        del self.graphs[graph]

    def launch(self, graph, stream):
        self.replayed.append(graph)
        for context in self.graphs[graph]:
            context.compute()

    def close(self):
        self.graphs.clear()


PROFILES = [((1, 2, 4), (1, 8, 16)), ((1, 1, 1), (4, 8, 12))]


@pytest.fixture
def plan(export_directory, tmp_path):
    """An model_file whose file is a plan; what it holds is the fake engine's business."""
    shutil.copytree(export_directory, tmp_path / "out")
    (tmp_path / "out" / "model.plan").write_bytes(b"a plan")
    entry = entry_from_file(tmp_path / "out", "model.plan", "filtered", runtime="tensorrt", precision="fp32")
    return ModelFile(tmp_path / "out", load_manifest(tmp_path / "out"), replace(entry, budget_range=(1, 8, 16)))


@pytest.fixture
def fake(plan, monkeypatch):
    module = Fake(plan.directory / "model.onnx", PROFILES)

    def cuda_from_name(name):
        module.device = HostCuda()
        return module.device

    monkeypatch.setattr(tensorrt_session, "tensorrt_module", lambda runtime: module)
    monkeypatch.setattr(tensorrt_session, "cuda_from_name", cuda_from_name)
    monkeypatch.setattr(tensorrt_session, "engine_from_plan", lambda *_: (module.engine, None))
    monkeypatch.setattr(tensorrt_session, "Graphs", lambda: module)
    return module
