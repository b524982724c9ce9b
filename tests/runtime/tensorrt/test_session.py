"""The TensorRT session's own logic on a fake TensorRT; `make test-gpu` runs it on a GPU."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.errors import BudgetError, EngineError
from tokfilter.runtime.model_files import find_model_file
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.tensorrt_session import TensorRTSession
from tokfilter.runtime.verification import verify


@pytest.mark.parametrize("graph", [False, True])
def test_fake_engine_equals_golden_at_every_batch_and_budget(plan, fake, graph):
    with TensorRTSession(plan, cuda_graph=graph) as session:
        golden = golden_of(plan.directory, plan.manifest)
        for batch, k in [(1, 8), (3, 4), (4, 16), (1, 8), (2, 12), (3, 4), (1, 1)]:
            verdict = verify(session, plan, golden, batch, k)
            assert verdict.largest_difference is None or verdict.largest_difference < 1e-3
    assert fake.device.closed


def test_fake_session_describes_itself_and_its_timing(plan, fake):
    with TensorRTSession(plan) as session:
        assert [spec.name for spec in session.inputs] == ["images", "slots"]
        assert session.inputs[0].shape == ("batch", 3, 32, 32)
        assert session.outputs[1].shape == ("batch", "k")
        assert (session.budgets.low, session.budgets.high, session.thread_safe) == (1, 16, False)
        timing = session.run(np.zeros((2, 3, 32, 32), np.float32)).timing
        assert (timing.h2d_ms, timing.compute_ms, timing.d2h_ms) == (1.0, 1.0, 1.0)
        assert timing.enqueue_ms >= 0


@pytest.mark.parametrize("graph", [False, True])
def test_compute_repeats_the_call_without_its_transfers(plan, fake, graph):
    images = np.zeros((2, 3, 32, 32), np.float32)
    with TensorRTSession(plan, cuda_graph=graph) as session:
        before = len(fake.enqueued)
        times = session.compute(images, 8, 0.02)
        assert times and all(t.device_ms == 1.0 and t.host_ms >= 0 for t in times)
        runs = len(fake.replayed) if graph else len(fake.enqueued) - before - 1  # one prepares the context
        assert runs == len(times) + 1  # one brings the images to the device
        with pytest.raises(BudgetError, match="16 patch tokens, got 17"):
            session.compute(images, 17, 0.01)
    with pytest.raises(EngineError, match="closed"):
        session.compute(images, 8, 0.01)


def test_results_outlive_the_next_call(plan, fake):
    images = golden_of(plan.directory, plan.manifest).images
    with TensorRTSession(plan) as session:
        first = session.run(images, 8)
        kept = first.logits.copy()
        session.run(images[::-1].copy(), 8)
        np.testing.assert_array_equal(first.logits, kept)


def test_graph_is_captured_once_per_shape_and_replayed(plan, fake):
    images = np.zeros((2, 3, 32, 32), np.float32)
    with TensorRTSession(plan, cuda_graph=True) as session:
        for k in (8, 8, 4, 8):
            session.run(images, k)
        assert fake.replayed == [1, 1, 2, 1]
        assert all(context.enqueued == 2 for context in fake.enqueued)  # one plain, one captured


def test_failed_capture_is_an_error_and_no_silent_fallback(plan, fake, monkeypatch):
    def nothing_captured(stream):
        fake.capturing = None
        raise EngineError("CUDA graph capture is empty: run with cuda_graph=False.")

    monkeypatch.setattr(fake, "end", nothing_captured)
    with TensorRTSession(plan, cuda_graph=True) as session, pytest.raises(EngineError, match="cuda_graph=False"):
        session.run(np.zeros((1, 3, 32, 32), np.float32))


def test_an_enqueue_that_fails_in_a_capture_gives_the_reason_and_ends_the_capture(plan, fake, monkeypatch):
    def refuse_in_capture(context, stream):
        return fake.capturing is None

    monkeypatch.setattr(fake.Context, "execute_async_v3", refuse_in_capture)
    with (
        TensorRTSession(plan, cuda_graph=True) as session,
        pytest.raises(EngineError, match="could not enqueue .*CUDA graph capture: run with cuda_graph=False"),
    ):
        session.run(np.zeros((1, 3, 32, 32), np.float32))
    assert fake.capturing is None and not fake.graphs


@pytest.mark.parametrize("graph", [False, True])
def test_rtx_waits_for_the_kernels_of_a_shape_before_a_graph_keeps_them(plan, fake, graph):
    fake.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    with TensorRTSession(plan, cuda_graph=graph) as session:
        session.run(np.zeros((1, 3, 32, 32), np.float32))
    (config,) = fake.engine.configs
    assert config == (SimpleNamespace(dynamic_shapes_kernel_specialization_strategy="eager") if graph else None)


def test_an_rtx_plan_that_cannot_be_captured_is_refused(plan, fake, monkeypatch):
    monkeypatch.setattr(fake.Context, "is_stream_capturable", lambda context, stream: stream != 7, raising=False)
    images = np.zeros((1, 3, 32, 32), np.float32)
    with (
        TensorRTSession(plan, cuda_graph=True) as session,
        pytest.raises(EngineError, match="RTX cannot run this plan inside a CUDA graph: run with cuda_graph=False"),
    ):
        session.run(images)
    with TensorRTSession(plan) as session:
        session.run(images)


def test_contexts_and_graphs_are_evicted(plan, fake):
    with TensorRTSession(plan, cuda_graph=True) as session:
        for k in [*range(1, 17), 1]:
            session.run(np.zeros((1, 3, 32, 32), np.float32), k)
        assert len(session._prepared) == len(fake.graphs) == 8
        with pytest.raises(EngineError, match="got a batch of 5"):
            session.run(np.zeros((5, 3, 32, 32), np.float32), 8)
        assert len(session._prepared) == len(fake.graphs) == 8


@pytest.mark.parametrize(("target", "contexts"), [({}, 1), ({"shared_profiles": True}, 3)])
def test_8_6_has_one_context_per_profile_where_it_was_not_built_for_more(plan, fake, monkeypatch, target, contexts):
    monkeypatch.setattr(fake, "__version__", "8.6.0")
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    shared = replace(plan, entry=replace(plan.entry, target={"shared_profiles": True}))
    fake.engine.shares_profiles = True
    with TensorRTSession(shared) as session:
        expected = [session.run(images, k).logits for k in (2, 9, 16)]
    old = replace(plan, entry=replace(plan.entry, target=target))
    fake.engine.shares_profiles = bool(target)
    with TensorRTSession(old, cuda_graph=True) as session:
        for k, logits in zip((2, 9, 16), expected, strict=True):
            np.testing.assert_array_equal(session.run(images, k).logits, logits)
        assert len(session._prepared) == len(fake.graphs) == contexts
        np.testing.assert_array_equal(session.run(images, 2).logits, expected[0])


def test_narrowest_profile_is_taken(plan, fake):
    with TensorRTSession(plan) as session:
        session.run(np.zeros((1, 3, 32, 32), np.float32), 8)
        session.run(np.zeros((2, 3, 32, 32), np.float32), 8)
        session.run(np.zeros((1, 3, 32, 32), np.float32), 2)
    assert [context.profile for context in fake.enqueued[::2]] == [1, 0, 0]


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
    options = SessionOptions(runtime, cuda_graph=graph, backend=backend)
    chosen = find_model_file(tmp_path / "out", "filtered", runtime)
    with open_session(tmp_path / "out", "filtered", options) as session:
        golden = golden_of(chosen.directory, chosen.manifest)
        for batch, k in [(1, 8), (4, 4), (2, 12), (1, 8)]:
            verify(session, chosen, golden, batch, k)
        with ThreadPoolExecutor(1) as pool:  # pycuda would abort when this thread ends with a context still pushed
            pool.submit(verify, session, chosen, golden, 2, 8).result()
        timing = session.run(golden.tiled(4), 8).timing
        assert timing is not None and timing.compute_ms > 0
