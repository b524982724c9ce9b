"""All steps on a machine without a GPU, with small models: each stops where it needs the device, and says so."""

from io import StringIO

import numpy as np
import pytest
import torch

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.document import Document
from tokfilter.benchmarks.gpu_proof.engine_graphs import graphs_of
from tokfilter.benchmarks.gpu_proof.export_worker import clear_images
from tokfilter.benchmarks.gpu_proof.prepare import ensure_graphs
from tokfilter.benchmarks.gpu_proof.runner import run_steps
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec, Settings
from tokfilter.benchmarks.gpu_proof.steps import STEPS

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
MODELS = tuple(ModelSpec(name, "vit_tiny_patch16_224", 16, 2, SMALL) for name in ("deit_small", "vit_base"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof")
    for name in ("libtokfilter_plugin.so", "libtokfilter.so"):
        (folder / name).write_bytes(b"a library")
    return Settings(
        folder / "work",
        minutes=60,
        dry_run=True,
        plugin=folder / "libtokfilter_plugin.so",
        library=folder / "libtokfilter.so",
        models=MODELS,
    )


@pytest.fixture(scope="module")
def found(settings):
    document = Document(settings.work.parent / "proof.json", settings, "gpu-proof --dry-run")
    run_steps(STEPS, settings, document)
    return document_from_file(document.path, "tokfilter/gpu-proof")


def states(found):
    return {step["name"]: (step["state"], step["reason"]) for step in found["steps"]}


@pytest.mark.slow
def test_every_step_reaches_the_device_or_says_what_is_missing(found):
    reached = states(found)
    assert reached["found"][0] == reached["prepare"][0] == "done"
    for name in ("golden", "speed-deit_small", "int8-deit_small", "speed-vit_base", "native", "attention", "library"):
        assert reached[name][0] == "device first needed", (name, reached[name])
        assert reached[name][1].startswith("TensorRT's builder selects kernels on the GPU: "), reached[name]
    for name in ("engines-deit_small", "engines-vit_base"):
        assert reached[name][0] == "device first needed" and "a CUDA context for PyTorch eager" in reached[name][1]
    if "missing" in found["found"]["compute-sanitizer"]:
        assert reached["sanitizer"] == ("cannot run", found["found"]["compute-sanitizer"]["missing"])
    else:
        assert reached["sanitizer"][0] == "device first needed"


@pytest.mark.slow
def test_graphs_and_golden_tensors_are_there_at_every_budget(found, settings):
    assert {p["part"]: p["error"] for p in found["prepared"]} == dict.fromkeys(
        ("deit_small", "deit_small in int8", "vit_base", "plugin")
    )
    assert len(found["prepared"]) == 4, "one record each"
    folder = graphs_of(settings, "deit_small")
    golden = golden_of(folder, load_manifest(folder))
    assert sorted(golden.logits) == [5, 8, 11] and golden.images.shape == (8, 3, 32, 32)
    assert {entry.path for entry in load_manifest(folder).files} >= {"model.fp16.onnx", "full.onnx"}


@pytest.mark.slow
def test_graphs_are_made_again_only_when_something_changed(found, settings):
    folder = graphs_of(settings, "deit_small")
    before = (folder / "manifest.json").stat().st_mtime_ns
    context = Context(settings, {}, StringIO())
    ensure_graphs(context, "deit_small")
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert context.replies.getvalue() == ""
    (folder / "key.txt").write_text("of other sources")
    ensure_graphs(context, "deit_small")
    assert (folder / "manifest.json").stat().st_mtime_ns > before
    ensure_graphs(context, "deit_small")
    assert context.replies.getvalue().count('"prepared"') == 1


@pytest.mark.slow
def test_tensorrt_rtx_parses_the_native_graph(found):
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'tokfilter[rtx]'")
    assert len(found["parsed"]) == 1 and found["parsed"][0]["layers"] > 50
    assert found["parsed"][0]["by"].startswith("TensorRT-RTX ")


@torch.inference_mode()
def test_golden_images_have_clear_scores(model):
    images = clear_images(model, [4, 8])
    assert images.shape == (8, 3, 32, 32)
    drawn = torch.randn(96, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def narrowest(batch):
        model(batch, 8)
        scores = model.scorer(model.embed(batch)[:, model.prefix_tokens :]).numpy()
        ranked = -np.sort(-scores, axis=1)
        return np.minimum(ranked[:, 3] - ranked[:, 4], ranked[:, 7] - ranked[:, 8]) / scores.std(axis=1)

    assert narrowest(images).min() >= np.quantile(narrowest(drawn), 0.9)
