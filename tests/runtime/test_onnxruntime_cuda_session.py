"""The session on ONNX Runtime's CUDA provider. Without a GPU it runs on the CPU provider: the same bindings and calls,
with host memory in the place of device memory."""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from fake_cuda import HostCuda

from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.errors import BudgetError, DataError, EngineError, MissingDependencyError
from tokfilter.runtime import bound_runs, cuda_bindings, onnxruntime_cuda_session
from tokfilter.runtime.model_files import find_model_file
from tokfilter.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession
from tokfilter.runtime.sessions import SessionOptions, open_session


@dataclass
class OnCpu(OnnxRuntimeCudaSession):
    """The session with the CPU provider and host memory."""

    provider: str = "cpu"

    @property
    def _place(self):
        return "cpu", 0

    def _device_memory(self):
        self.host = HostCuda()
        return self.host

    def _provider_options(self):
        return {}


@pytest.fixture(scope="session")
def cuda_export(export_directory, tmp_path_factory):
    """The small export with its graphs fused for CUDA."""
    from tokfilter.export.graph import without_functions
    from tokfilter.export.onnx_file import load_graph, save_graph
    from tokfilter.export.onnxruntime_cuda import cuda_graph_from_form

    folder = tmp_path_factory.mktemp("cuda") / "out"
    shutil.copytree(export_directory, folder)
    manifest, added = load_manifest(folder), []
    for entry in manifest.entries("filtered", "onnx") + manifest.entries("full", "onnx"):
        name = entry.path.replace(".onnx", ".cuda.onnx")
        graph, _ = cuda_graph_from_form(without_functions(load_graph(folder / entry.path)))
        save_graph(graph, folder / name)
        details = {"runtime": "onnx-cuda", "precision": entry.precision, "budget": entry.budget}
        added.append(entry_from_file(folder, name, entry.role, **details))
    save_manifest(folder, replace(manifest, files=[*manifest.files, *added]))
    return folder


def on_cpu(directory, role="filtered", **options):
    return OnCpu(find_model_file(directory, role, provider="cuda"), threads=1, **options)


def images_of(batch, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def plain(export_directory):
    with open_session(export_directory, options=SessionOptions(threads=1)) as session:
        yield session


def test_results_are_those_of_the_plain_graph_at_every_shape(cuda_export, plain):
    with on_cpu(cuda_export) as session:
        assert session.model_file.entry.path == "model.cuda.onnx"
        for batch, k in ((1, 8), (3, 1), (2, 16), (1, 8), (5, 15), (3, 1)):
            images = images_of(batch, seed=batch)
            found, expected = session.run(images, k), plain.run(images, k)
            np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(found.indices, expected.indices)
            assert found.timing.latency_ms > 0
            kept = found.logits.copy()
            session.run(images_of(batch, seed=99), k)
            np.testing.assert_array_equal(found.logits, kept)  # results are the caller's


def test_the_full_graph_has_no_indices(cuda_export):
    with on_cpu(cuda_export, "full") as session:
        result = session.run(images_of(2))
        assert result.logits.shape == (2, 5) and result.indices is None


def test_the_least_recently_used_shape_is_dropped_and_memory_is_bounded(cuda_export, monkeypatch):
    monkeypatch.setattr(bound_runs, "SHAPES", 2)
    with on_cpu(cuda_export) as session:
        for batch in (1, 2):
            session.run(images_of(batch), 8)
        held = len(session.host.memory)
        session.run(images_of(1), 8)
        session.run(images_of(3), 8)
        assert list(session._runs._kept) == [(1, 8), (3, 8)]
        assert len(session.host.memory) == held
    assert not [m for m in session.host.memory if m.nbytes in {images_of(b).nbytes for b in (2,)}]
    assert session.host.closed


def test_bad_images_and_budgets_have_the_messages_of_every_session(cuda_export):
    with on_cpu(cuda_export) as session:
        with pytest.raises(DataError, match="images must be .* got .*float64"):
            session.run(images_of(1).astype(np.float64))
        with pytest.raises(DataError, match="NaN or infinity"):
            session.run(np.full((1, 3, 32, 32), np.nan, np.float32))
        with pytest.raises(BudgetError):
            session.run(images_of(1), 17)
    with pytest.raises(EngineError, match="is closed"):
        session.run(images_of(1))


def test_images_on_the_device_are_read_where_they_are(cuda_export, plain):
    tensor = torch.from_numpy(images_of(3))
    with on_cpu(cuda_export) as session:
        bound = []
        session.run(tensor, 8)
        original = session._runs._binding
        session._runs._binding = lambda addresses, shapes: (bound.append(addresses), original(addresses, shapes))[1]
        found = session.run(tensor, 8)
        assert bound[0]["images"] == tensor.data_ptr()
        np.testing.assert_allclose(found.logits, plain.run(tensor.numpy(), 8).logits, rtol=1e-4, atol=1e-5)
        tensor.add_(1)  # the same memory with other contents
        np.testing.assert_allclose(
            session.run(tensor, 8).logits, plain.run(tensor.numpy(), 8).logits, rtol=1e-4, atol=1e-5
        )


class Elsewhere:
    """A tensor on a GPU."""

    def __init__(self, kind, number):
        self.place = kind, number

    def __dlpack_device__(self):
        return self.place


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 32, 64)[..., ::2], r"is not contiguous: call images.contiguous\(\)"),
        (torch.zeros(2, 3, 32, 33), r"images must be \[batch, 3, 32, 32\] float32, got \[2, 3, 32, 33\]"),
        (torch.zeros(0, 3, 32, 32), "images must be"),
        (torch.zeros(3, 32, 32), "images must be"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.float16), r"got tensor\(float16\): convert them on the device"),
        (torch.zeros(2, 3, 32, 32, requires_grad=True), "DLPack refuses"),
        (Elsewhere(2, 1), "must be on the CPU, where this session runs, but they are on cuda:1.*device=1"),
        (Elsewhere(99, 0), "device type 99"),
    ],
)
def test_images_on_a_device_that_do_not_fit(cuda_export, images, message):
    with on_cpu(cuda_export) as session, pytest.raises(DataError, match=message):
        session.run(images)


def test_images_of_another_gpu_are_refused(cuda_export):
    session = on_cpu(cuda_export)
    with session, pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnCpu, "_place", property(lambda self: ("cuda", 1)))
        with pytest.raises(DataError, match="must be on cuda:1, where this session runs, but they are on cuda:0"):
            session.run(Elsewhere(2, 0))


def test_a_graph_that_was_not_captured_is_an_error(cuda_export):
    """The CPU provider ignores gpu_graph_id and computes each time, as CUDA would after a capture that was skipped."""
    with on_cpu(cuda_export, cuda_graph=True) as session:
        before = len(session.host.memory)
        with pytest.raises(EngineError, match="captured no CUDA graph and says nothing of it: run with cuda_graph=F"):
            session.run(images_of(2), 8)
        assert not session._runs._kept
        assert len(session.host.memory) <= before + 2  # page-locked memory is kept for the next call


class Replaying:
    """An ONNX Runtime session that captures as CUDA does: a number belongs to the addresses of its first run."""

    def __init__(self, session):
        self.session, self.captured, self.released = session, {}, []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run_with_iobinding(self, binding, options):
        number = options.get_run_config_entry("gpu_graph_id")
        self.session.run_with_iobinding(self.captured.setdefault(number, binding), options)

    def release_captured_graph(self, number):
        self.released.append(number)
        del self.captured[str(number)]


@pytest.fixture
def replaying(cuda_export, monkeypatch):
    monkeypatch.setattr(bound_runs, "SHAPES", 2)
    with on_cpu(cuda_export, cuda_graph=True) as session:
        session._runs.session = Replaying(session._session)
        yield session


def test_graphs_are_replayed_per_shape_and_released(replaying, plain):
    for batch, k in ((1, 8), (4, 8), (1, 8), (4, 3), (8, 16), (1, 8)):  # a batch larger than captured gets its own
        images = images_of(batch, seed=k)
        np.testing.assert_allclose(replaying.run(images, k).logits, plain.run(images, k).logits, rtol=1e-4, atol=1e-5)
    assert replaying._runs.session.released == [2, 1, 3]
    assert list(replaying._runs._kept) == [(8, 16), (1, 8)]
    assert len(replaying._runs.session.captured) == 2


def test_a_graph_reads_copies_of_images_on_the_device(replaying, plain):
    for seed in (1, 2):
        tensor = torch.from_numpy(images_of(2, seed))
        expected = plain.run(tensor.numpy(), 8).logits
        np.testing.assert_allclose(replaying.run(tensor, 8).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_the_computation_alone_is_repeated(request, cuda_export, cuda_graph):
    with nullcontext(request.getfixturevalue("replaying")) if cuda_graph else on_cpu(cuda_export) as session:
        session.run(images_of(2), 8)
        sent, original = [], session.host.to_device
        session.host.to_device = lambda *arguments: (sent.append(arguments), original(*arguments))
        times = session.compute(images_of(2), 8, 0.05)
        assert len(sent) == 1  # the images are copied once
        assert len(times) >= 2 and all(time.host_ms > 0 and time.device_ms > 0 for time in times)
        assert len(session.compute(images_of(2), 8, 0.0)) == 1


def test_out_of_memory_in_a_capture(replaying):
    def full(binding, options):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0\nmore")

    replaying._runs.session.run_with_iobinding = full
    before = len(replaying.host.memory)
    with pytest.raises(EngineError, match="at 8 tokens: ONNX Runtime failed: CUDA failure 2.*smaller batches.*capture"):
        replaying.run(images_of(2), 8)
    assert replaying.host.ended == replaying._stream
    assert len(replaying.host.memory) <= before + 1 and not replaying._runs._kept


def test_an_onnxruntime_without_contrib_ops(cuda_export, tmp_path):
    """An operator that is not registered gives the same message as a build without them."""
    import onnx

    shutil.copytree(cuda_export, tmp_path / "out")
    path = tmp_path / "out" / "model.cuda.onnx"
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.op_type = {"MultiHeadAttention": "NotRegistered"}.get(node.op_type, node.op_type)
    onnx.save(graph, path)
    manifest = load_manifest(tmp_path / "out")
    details = {"runtime": "onnx-cuda", "precision": "fp32"}
    changed = entry_from_file(tmp_path / "out", path.name, "filtered", **details)
    save_manifest(tmp_path / "out", replace(manifest, files=[changed]))
    with pytest.raises(EngineError, match="has no contrib ops.*install onnxruntime-gpu, or export without --cuda"):
        on_cpu(tmp_path / "out").__enter__()


def test_no_cuda_provider_no_driver_no_such_gpu(cuda_export, monkeypatch):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(MissingDependencyError, match="has no CUDAExecutionProvider"):
            open_session(cuda_export, options=SessionOptions(provider="cuda")).__enter__()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])

    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(cuda_bindings.ctypes, "CDLL", absent)
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
        open_session(cuda_export, options=SessionOptions(provider="cuda", device=3)).__enter__()


def test_an_old_onnxruntime_cannot_release_graphs(cuda_export, monkeypatch):
    monkeypatch.delattr(onnxruntime.capi.onnxruntime_inference_collection.Session, "release_captured_graph")
    with pytest.raises(MissingDependencyError, match=r"need ONNX Runtime 1.27 or later.*pip install -U"):
        on_cpu(cuda_export, cuda_graph=True).__enter__()


def test_cuda_graphs_need_the_provider_cuda(cuda_export):
    with pytest.raises(EngineError, match="need --provider cuda, got cpu"):
        open_session(cuda_export, options=SessionOptions(cuda_graph=True))


def test_options_of_the_provider(cuda_export, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime_cuda_session, "DriverCuda", lambda device: HostCuda())
    seen = {}

    def started(path, options, providers):
        seen["graph"], seen["providers"] = Path(path).read_bytes(), providers
        raise RuntimeError("fake")

    monkeypatch.setattr(onnxruntime, "InferenceSession", started)
    monkeypatch.setattr(started, "release_captured_graph", None, raising=False)
    session = open_session(cuda_export, options=SessionOptions(provider="cuda", device=1, cuda_graph=True))
    with pytest.raises(EngineError, match="cannot load .*fake"):
        session.__enter__()
    ((name, options),) = seen["providers"]
    assert name == "CUDAExecutionProvider"
    assert seen["graph"] == (cuda_export / "model.cuda.onnx").read_bytes()
    assert options == {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_skip_layer_norm_strict_mode": "1",
        "device_id": "1",
        "user_compute_stream": "7",
        "enable_cuda_graph": "1",
    }


def on_gpu(bundle_file, folder, precision):
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]'")
    export_bundle(bundle_file, folder, ExportOptions(precisions=(precision,), cuda=True))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_fused_graphs_equal_golden_on_a_gpu(bundle_file, tmp_path, precision, cuda_graph):
    from tokfilter.runtime.verification import verdicts

    on_gpu(bundle_file, tmp_path / "out", precision)
    options = SessionOptions(provider="cuda", precision=precision, cuda_graph=cuda_graph)
    found = list(verdicts(tmp_path / "out", options, batches=[1, 3]))
    assert {verdict.path for verdict in found} == {
        path.format("" if precision == "fp32" else f".{precision}")
        for path in ("full{}.cuda.onnx", "model{}.cuda.onnx")
    }


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_tensors_on_a_gpu(bundle_file, tmp_path, cuda_graph):
    on_gpu(bundle_file, tmp_path / "out", "fp16")
    options = SessionOptions(provider="cuda", precision="fp16", cuda_graph=cuda_graph)
    with open_session(tmp_path / "out", options=options) as session:
        for batch, k in ((1, 8), (4, 8), (1, 3), (1, 8)):
            images = images_of(batch, seed=k)
            expected = session.run(images, k)
            found = session.run(torch.from_numpy(images).cuda(), k)
            np.testing.assert_array_equal(found.logits, expected.logits)
            np.testing.assert_array_equal(found.indices, expected.indices)
        with pytest.raises(DataError, match="contiguous"):
            session.run(torch.zeros(2, 3, 32, 64, device="cuda")[..., ::2])
        with pytest.raises(DataError, match="must be on cuda:0.*on the CPU"):
            session.run(torch.zeros(2, 3, 32, 32))


@pytest.mark.gpu
def test_more_shapes_than_are_kept_on_a_gpu(bundle_file, tmp_path):
    on_gpu(bundle_file, tmp_path / "out", "fp16")
    options = SessionOptions(provider="cuda", precision="fp16", cuda_graph=True)
    with open_session(tmp_path / "out", options=options) as session:
        first = session.run(images_of(1), 8).logits
        for batch in range(2, bound_runs.SHAPES + 3):
            session.run(images_of(batch), 8)
        np.testing.assert_array_equal(session.run(images_of(1), 8).logits, first)


@pytest.mark.gpu
def test_a_gpu_that_is_not_there(bundle_file, tmp_path):
    on_gpu(bundle_file, tmp_path / "out", "fp32")
    with pytest.raises(MissingDependencyError, match="device must be a number from 0 to"):
        open_session(tmp_path / "out", options=SessionOptions(provider="cuda", device=99)).__enter__()


@pytest.mark.gpu
def test_a_plain_graph_cannot_be_captured_on_a_gpu(bundle_file, tmp_path):
    from tokfilter.export.pipeline import export_bundle

    on_gpu(bundle_file, tmp_path / "out", "fp32")
    export_bundle(bundle_file, tmp_path / "plain")
    session = open_session(tmp_path / "plain", options=SessionOptions(provider="cuda", cuda_graph=True))
    with pytest.raises(EngineError, match="cannot load|captured no CUDA graph"), session:
        session.run(images_of(1), 8)
