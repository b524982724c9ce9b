"""The session on PyTorch: the same interface and checks as the engines', in every precision, eager and compiled."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import tokfilter
from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import (
    BudgetError,
    BundleError,
    DataError,
    EngineError,
    MissingDependencyError,
    UnsupportedModelError,
)
from tokfilter.runtime.predict import prediction_from_session
from tokfilter.runtime.session import Budgets
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.torch_network import MODES, Network, mode_from_option
from tokfilter.runtime.verification import verdicts

ONE = SessionOptions(threads=1)
TORCH = replace(ONE, runtime="torch")


@pytest.fixture
def images(export_directory):
    return golden_of(export_directory, load_manifest(export_directory)).images


def sources(export_directory, bundle_file, model):
    """Each way to open the same weights."""
    return [
        (export_directory, replace(TORCH, bundle=str(bundle_file))),
        (bundle_file, ONE),
        (str(bundle_file), TORCH),
        (model, ONE),
    ]


def test_every_source_gives_what_onnx_runtime_gives(export_directory, bundle_file, model, images):
    with open_session(export_directory, options=ONE) as engine:
        for source, options in sources(export_directory, bundle_file, model):
            with open_session(source, options=options) as session:
                assert session.budgets == Budgets(1, 16, 8, 16) == engine.budgets
                assert session.inputs[0].shape == ("batch", 3, 32, 32) and not session.thread_safe
                for keep in (1, 0.5, 11, 1.0):
                    found, expected = session.run(images, keep), engine.run(images, keep)
                    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
                    if found.indices is not None:
                        np.testing.assert_array_equal(found.indices, expected.indices)
                        assert found.indices.dtype == np.int32
                assert session.run(images, 1.0).timing is None  # there are no stages on a CPU


def test_full_model_has_one_budget_and_no_indices(bundle_file, images):
    with open_session(bundle_file, "full", ONE) as session:
        assert session.run(images).indices is None
        with pytest.raises(BudgetError, match="serves the budget of 16 of 16 tokens only, got 8"):
            session.run(images, 0.5)


def test_checks_are_those_of_every_session(bundle_file, images):
    opened = open_session(bundle_file, options=ONE)
    with pytest.raises(EngineError, match="not open"):
        _ = opened.model_file
    with opened as session:
        with pytest.raises(DataError, match="got float64"):
            session.run(images.astype(np.float64))
        with pytest.raises(DataError, match=r"\[3, 3, 32, 31\]"):
            session.run(images[..., :31])
        with pytest.raises(BudgetError):
            session.run(images, 17)
        np.testing.assert_array_equal(session.run(images[::-1], 4).logits, session.run(images[::-1].copy(), 4).logits)
    with pytest.raises(EngineError, match="closed"):
        opened.run(images)


def test_a_model_in_memory_is_copied_when_the_session_opens(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    with open_session(model, options=replace(ONE, precision="bf16")) as session:
        first = session.run(images).logits
        with torch.no_grad():
            model.backbone.head.bias += 100
        np.testing.assert_array_equal(session.run(images).logits, first)
        with pytest.raises(DataError, match="no golden tensors"):
            _ = session.golden
    assert model.training and all(weight.dtype == torch.float32 for weight in model.parameters())
    assert torch.equal(model.backbone.head.bias, before["backbone.head.bias"] + 100)


def test_threads_are_set_back(bundle_file, images):
    former = torch.get_num_threads()
    with open_session(bundle_file, options=replace(ONE, threads=former + 1)) as session:
        session.run(images)
        assert torch.get_num_threads() == former + 1
    assert torch.get_num_threads() == former


def test_compute_alone_needs_a_gpu(bundle_file, images):
    wanted = pytest.raises(EngineError, match="TorchSession measures calls with their transfers only")
    with open_session(bundle_file, "full", ONE) as session, wanted:
        session.compute(images, None, 0.01)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision_matches_the_golden_tensors(bundle_file, precision):
    found = list(verdicts(bundle_file, replace(TORCH, precision=precision), [1, 3]))
    assert {(v.batch, v.tokens) for v in found} == {(b, k) for b in (1, 3) for k in (4, 8, 11, 16)}
    assert all(v.largest_difference <= v.tolerance for v in found)
    assert (max(v.largest_difference for v in found) > 1e-5) == (precision != "fp32")


def test_the_filter_computes_in_fp32_and_attention_is_fused(model, images, monkeypatch):
    network = Network(model, "bf16")
    assert {weight.dtype for weight in model.scorer.parameters()} == {torch.float32}
    assert model.backbone.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(a[0].dtype) or fused(*a, **k))
    logits = network(torch.from_numpy(images), 8)["logits"]
    assert logits.dtype == torch.float32 and calls == [torch.bfloat16] * 2  # one per block


def test_the_manifests_choice_is_the_default(export_directory, bundle_file, tmp_path):
    import json
    import shutil

    out = tmp_path / "out"
    shutil.copytree(export_directory, out)
    shutil.copy(bundle_file, tmp_path / "model.pt")  # found beside the export
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "choice": {"tokens": 5}}))
    with open_session(out, options=TORCH) as session:
        assert session.budgets.default == 5


def test_a_name_in_the_manifest_that_is_a_path_is_not_followed(export_directory, bundle_file, tmp_path):
    import json
    import shutil

    shutil.copytree(export_directory, tmp_path / "out")
    shutil.copy(bundle_file, tmp_path / "model.pt")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["source"]["name"] = "../model.pt"
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="must be the name of a file inside the directory"):
        open_session(tmp_path / "out", options=TORCH)


def test_pictures_come_from_an_open_session(bundle_file):
    photo = Image.fromarray(np.zeros((40, 50, 3), np.uint8))
    with open_session(bundle_file, options=ONE) as session:
        found = prediction_from_session(session, session.model_file.manifest.model, photo, 0.5)
        figure = tokfilter.kept_tokens_figure(session, photo, keep=[1.0, 4])
    assert found.tokens == 8 and len(found.indices) == 8 and found.top(1)[0].name in {"ant", "bee", "cat", "dog", "eel"}
    assert np.array_equal(figure, tokfilter.kept_tokens_figure(bundle_file, photo, keep=[1.0, 4]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"provider": "tensorrt"}, EngineError, "the provider of PyTorch must be cpu or cuda, got tensorrt"),
        ({"cuda_graph": True}, EngineError, "a CUDA graph of PyTorch needs --provider cuda"),
        ({"torch_compile": "fastest"}, EngineError, "torch.compile has the modes default, .*, got 'fastest'"),
        ({"runtime": "tensorrt"}, EngineError, "tensorrt runs an export directory; a bundle or a model is run by PyT"),
    ],
)
def test_options_without_effect_are_refused(bundle_file, options, error, message):
    with pytest.raises(error, match=message), open_session(bundle_file, options=replace(ONE, **options)):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the error without a GPU")
def test_cuda_without_a_gpu_is_refused(bundle_file):
    opened = open_session(bundle_file, options=replace(ONE, provider="cuda"))
    with pytest.raises(MissingDependencyError, match="PyTorch finds no usable GPU"), opened:
        pass


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a bundle \(model\.pt\)"):
        open_session(tmp_path / "absent.pt")
    (tmp_path / "model.pt").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="not a bundle"), open_session(tmp_path / "model.pt"):
        pass
    unpatched = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1)
    with pytest.raises(UnsupportedModelError, match=r"tokfilter\.patch\(model\)"), open_session(unpatched):
        pass


def test_without_torch_the_remedy_is_named(bundle_file):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from tokfilter.runtime.sessions import open_session\n"
        f"open_session({str(bundle_file)!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "MissingDependencyError: PyTorch runs bundles and models, and the package torch is not" in done.stderr
    assert "tokfilter[train]" in done.stderr


def test_names_of_modes():
    assert mode_from_option(False) is None and mode_from_option(True) == "default"
    assert [mode_from_option(mode) for mode in MODES] == list(MODES)


def test_a_model_that_does_not_compile_says_so(model, images):
    class Broken(torch.nn.Module):
        def forward(self, patches):
            torch._dynamo.graph_break()
            return patches.mean(-1)

    model.drop.scorer = Broken()
    with (
        open_session(model, options=replace(ONE, torch_compile=True)) as session,
        pytest.raises(EngineError, match=r"does not compile this model: Unsupported: .* Run it without --torch-compi"),
    ):
        session.run(images)


@pytest.mark.slow
def test_a_compiled_session_equals_the_eager_one_and_compiles_six_times_at_most(model, images, monkeypatch):
    """With TorchDynamo's graphs run as they are: what a code generator makes of them takes minutes for six of them."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    with (
        open_session(model, options=ONE) as eager,
        open_session(model, options=replace(ONE, torch_compile=True)) as compiled,
    ):
        for batch in (3, 2, 1):
            for k in (8, 9, 2, 15, 1, 16):
                found, expected = compiled.run(images[:batch], k), eager.run(images[:batch], k)
                np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
                if k < 16:
                    np.testing.assert_array_equal(found.indices, expected.indices)
    assert counter.frame_count == 6


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cuda_graph": True},
        {"torch_compile": True},
        {"torch_compile": True, "cuda_graph": True},
        {"torch_compile": "reduce-overhead"},
    ],
)
def test_on_a_gpu_outputs_match_and_stages_are_timed(bundle_file, images, precision, options):
    given = replace(TORCH, provider="cuda", precision=precision, **options)
    assert all(v.largest_difference <= v.tolerance for v in verdicts(bundle_file, given, [1, 3]))
    with open_session(bundle_file, options=given) as session:
        for k in (8, 5, 16, 8):
            timing = session.run(images, k).timing
            assert timing.h2d_ms > 0 and timing.compute_ms > 0 and timing.d2h_ms > 0
            assert timing.latency_ms == pytest.approx(timing.h2d_ms + timing.compute_ms + timing.d2h_ms)


@pytest.mark.gpu
def test_on_a_gpu_bad_devices_and_doubled_graphs_are_refused(bundle_file):
    given = replace(TORCH, provider="cuda")
    count = torch.cuda.device_count()
    for options, message in (
        ({"device": count}, f"PyTorch has GPUs 0 to {count - 1}, got {count}"),
        ({"cuda_graph": True, "torch_compile": "reduce-overhead"}, "captures CUDA graphs by itself"),
    ):
        with pytest.raises(EngineError, match=message), open_session(bundle_file, options=replace(given, **options)):
            pass


@pytest.mark.gpu
def test_on_a_gpu_a_batch_beyond_its_memory_is_refused(bundle_file):
    with open_session(bundle_file, options=replace(TORCH, provider="cuda")) as session:
        session._gpu_call = lambda *_: torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        with pytest.raises(EngineError, match="no device memory for a batch of 1"):
            session.run(np.zeros((1, 3, 32, 32), np.float32))
