"""Errors of TensorRT sessions and their remedies, with a fake TensorRT, and with the real libraries on a CPU."""

from dataclasses import replace

import numpy as np
import pytest

from tokfilter.artifacts.manifest import entry_from_file
from tokfilter.errors import BudgetError, DataError, EngineError, MissingDependencyError
from tokfilter.runtime import cuda, cuda_graph
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file
from tokfilter.runtime.tensorrt_session import TensorRTSession
from tokfilter.trt.gpus import driver_version
from tokfilter.trt.log import error_log

NO_DRIVER = driver_version() is None


def test_batches_budgets_and_images_outside_the_plan_are_refused(plan, fake):
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


def test_changed_plan_is_refused_before_any_gpu_is_used(plan):
    (plan.directory / "model.plan").write_bytes(b"b plan")
    with pytest.raises(EngineError, match="model.plan is not the file"), TensorRTSession(plan):
        pass


def test_a_changed_or_missing_plugin_library_is_refused_before_any_gpu_is_used(plan):
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
        (lambda x: x[:, :2], r"must be \[batch, 3, 32, 32\] float32, got \[3, 2, 32, 32\]"),
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


def test_allocations_are_released_when_opening_fails(plan, fake, monkeypatch):
    monkeypatch.setattr(fake.Device, "pinned", refuse_memory)
    session = TensorRTSession(plan, cuda_graph=True)
    with pytest.raises(EngineError, match="out of memory"), session:
        pass
    assert fake.device.closed
    assert session._buffers == {} and session._engine is session._outlived is session._graphs is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("execute_async_v3", "could not enqueue the inference: Illegal address. Use smaller batches"),
        ("set_input_shape", r"refuses images of shape \[1, 3, 32, 32\]: Illegal address. Build the engine with"),
        ("set_tensor_address", "refuses the memory for images: Illegal address. Export again"),
        ("set_optimization_profile_async", "no context for a batch of 1 at 8 tokens: Illegal address. Free"),
    ],
)
def test_logged_errors_are_in_the_message_and_do_not_accumulate(plan, fake, monkeypatch, call, message):
    logger = error_log(fake)

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
def test_a_missing_driver_is_named(plan):
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
