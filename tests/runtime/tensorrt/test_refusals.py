"""What TensorRT sessions refuse, each in a sentence that says what to do: with the real libraries where a CPU can load
them, and over a fake TensorRT."""

import shutil
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tokfilter.artifacts.manifest import Entry, entry_from_file
from tokfilter.errors import BudgetError, DataError, EngineError, MissingDependencyError
from tokfilter.runtime import cuda, cuda_graph
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file
from tokfilter.runtime.tensorrt_session import TensorRTSession
from tokfilter.trt import bindings
from tokfilter.trt import engine as tensorrt_engine
from tokfilter.trt.engine import engine_from_plan

NO_DRIVER = not shutil.which("nvidia-smi")


def test_what_the_plan_does_not_serve(plan, fake):
    with TensorRTSession(plan) as session:
        with pytest.raises(EngineError, match=r"batches of 1 to 4 at 1 to 16 tokens; .*got a batch of 5 at 8 tokens"):
            session.run(np.zeros((5, 3, 32, 32), np.float32), 8)
        with pytest.raises(BudgetError, match="serves budgets from 1 to 16 of 16 tokens|between 1 and"):
            session.run(np.zeros((1, 3, 32, 32), np.float32), 17)
        with pytest.raises(DataError, match="NaN"):
            session.run(np.full((1, 3, 32, 32), np.nan, np.float32))


def test_budget_range_of_the_plan_is_named(plan, fake):
    fake.engine.profiles = [((1, 2, 4), (4, 8, 12))]
    fake.engine.num_optimization_profiles = 1
    with TensorRTSession(plan) as session, pytest.raises(BudgetError, match="budgets from 4 to 12 of 16 tokens, got 2"):
        session.run(np.zeros((1, 3, 32, 32), np.float32), 2)


def test_changed_plan_is_refused_before_any_gpu_is_touched(plan):
    (plan.directory / "model.plan").write_bytes(b"b plan")
    with pytest.raises(EngineError, match="model.plan is not the file"), TensorRTSession(plan):
        pass


def test_a_changed_or_missing_plugin_library_is_refused_before_any_gpu_is_touched(plan):
    library = plan.directory / "libtokfilter_plugin.so"
    library.write_bytes(b"library")
    entry = entry_from_file(plan.directory, library.name, "plugin", runtime="tensorrt")
    listed = replace(plan, manifest=replace(plan.manifest, files=[*plan.manifest.files, entry]))
    library.write_bytes(b"Library")
    with pytest.raises(EngineError, match="libtokfilter_plugin.so is not the file that"), TensorRTSession(listed):
        pass
    library.unlink()
    with pytest.raises(EngineError, match="libtokfilter_plugin.so is missing, though"), TensorRTSession(listed):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :2], r"want \[batch, 3, 32, 32\] float32, got \[3, 2, 32, 32\]"),
        (lambda x: x.astype(np.float64), r"got float64: convert with images.astype\(np.float32\)"),
        (lambda x: x.tolist(), "numpy array .* got list"),
        (lambda x: x * np.float32("inf"), "NaN or infinity"),
    ],
)
def test_images_that_do_not_fit_never_reach_the_device(plan, fake, change, message):
    with TensorRTSession(plan) as session, pytest.raises(DataError, match=message):
        session.run(change(np.ones((3, 3, 32, 32), np.float32)))
    assert fake.enqueued == []


def refuse_memory(device, size):
    raise EngineError("CUDA: out of memory")


def test_what_was_allocated_is_given_back_when_opening_fails(plan, fake, monkeypatch):
    monkeypatch.setattr(fake.Device, "pinned", refuse_memory)
    session = TensorRTSession(plan, cuda_graph=True)
    with pytest.raises(EngineError, match="out of memory"), session:
        pass
    assert fake.device.closed
    assert session._buffers == {} and session._engine is session._outlived is session._graphs is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("execute_async_v3", "could not enqueue the inference: Illegal address. Ask for smaller batches"),
        ("set_input_shape", r"refuses images of shape \[1, 3, 32, 32\]: Illegal address. Export with"),
        ("set_tensor_address", "refuses the memory for images: Illegal address. Export again"),
        ("set_optimization_profile_async", "no context for a batch of 1 at 8 tokens: Illegal address. Free"),
    ],
)
def test_what_tensorrt_logs_reaches_the_user_and_does_not_pile_up(plan, fake, monkeypatch, call, message):
    logger = tensorrt_engine._logger(fake)

    def refuse(*_):
        logger.log(1, "Illegal address.")
        return False

    monkeypatch.setattr(fake.Context, call, refuse)
    with TensorRTSession(plan) as session:
        for _ in range(3):
            with pytest.raises(EngineError, match=message):
                session.run(np.zeros((1, 3, 32, 32), np.float32), 8)
    assert not logger.errors
    for _ in range(1000):
        logger.log(1, "again")
    assert len(logger.errors) <= 20


@pytest.mark.skipif(not NO_DRIVER, reason="this machine has an NVIDIA driver")
def test_no_driver_has_its_sentence(plan):
    rtx = replace(plan, entry=replace(plan.entry, runtime="tensorrt-rtx"))
    pytest.importorskip("tensorrt_rtx")
    session = session_from_model_file(rtx, SessionOptions(runtime="tensorrt-rtx"))
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver.*--runtime onnx"), session:
        pass
    for name in (None, "pycuda", "cuda-python"):
        with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
            cuda.cuda_from_name(name)
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
        cuda_graph.Graphs()


class FakeDriver:
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
        (FakeDriver(init=100), MissingDependencyError, "no NVIDIA GPU: the driver is installed and sees none"),
        (FakeDriver(devices=0), MissingDependencyError, "CUDA_VISIBLE_DEVICES"),
        (FakeDriver(init=803), EngineError, "CUDA error 803"),
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
    with pytest.raises(EngineError, match="cudaGetDevice failed: cudaError.*tokfilter doctor"):
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
        ("getPluginCreator could not find plugin TokenSelect version 2", "tokfilter plugin build, then tokfilter eng"),
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


def fake_tensorrt(said):
    """TensorRT that finds no plugin at first and logs that as an error, loads it, and refuses the plan."""

    class Logger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def get_plugin_registry(self):
            return self

        def get_creator(self, name, version, namespace):
            self.logger.log(1, f"Cannot find plugin: {name}, version: {version}, namespace:{namespace}.")

        def load_library(self, path):
            return object()

        def deserialize_cuda_engine(self, data):
            self.logger.log(1, said)

    module = ModuleType("tensorrt")
    module.ILogger, module.Runtime, module.__version__ = Logger, Runtime, "10.13"
    return module


def test_a_plugin_that_was_loaded_is_not_blamed(plan):
    module = fake_tensorrt("generated on an incompatible device, expecting compute 8.7 got compute 9.0")
    library = plan.directory / "libtokfilter_plugin.so"
    with pytest.raises(EngineError, match="another GPU") as caught:
        engine_from_plan(module, plan.directory / "model.plan", wanting_plugin(plan), [library])
    assert "Cannot find plugin" not in str(caught.value)


def test_a_driver_too_old_for_tensorrt_has_its_sentence(plan):
    module = fake_tensorrt("")

    def refuse(logger):
        logger.log(1, "CUDA initialization failure with error: 35.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module.Runtime = refuse
    with pytest.raises(EngineError, match=r"10.13 does not start: CUDA initialization failure.*update the driver"):
        engine_from_plan(module, plan.directory / "model.plan", plan.entry, [])
