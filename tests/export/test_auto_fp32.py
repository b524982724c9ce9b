"""Models in which fp16 is too narrow for known layers: the search finds exactly these, with ONNX Runtime."""

import numpy as np
import onnx_ir as ir
import pytest
from narrow_models import cancel_in_attention, overflow_in_attention, overflow_in_mlp
from small_models import small_bundle

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import ExportError, VerificationError
from tokfilter.export import pipeline
from tokfilter.export.graph import slots_graph_from_model
from tokfilter.export.onnx_file import load_graph
from tokfilter.export.options import ExportOptions
from tokfilter.export.shapes import infer_shapes
from tokfilter.vit.bundle import model_from_bundle, save_bundle

NARROW = {
    "MLP of block 1": [lambda model: overflow_in_mlp(model, 1)],
    "attention of block 1": [lambda model: overflow_in_attention(model, 1)],
    "attention of block 0, MLP of block 1": [
        lambda model: cancel_in_attention(model, 0),
        lambda model: overflow_in_mlp(model, 1),
    ],
}


@pytest.fixture(scope="module", params=NARROW)
def narrow(request, tmp_path_factory):
    """(groups that need fp32, bundle file, traced graph)"""

    def change(model):
        model.scorer.trained = True
        for step in NARROW[request.param]:
            step(model)

    bundle = small_bundle(0, change)
    path = tmp_path_factory.mktemp("narrow") / "model.pt"
    save_bundle(bundle, path)
    return set(request.param.split(", ")), path, slots_graph_from_model(model_from_bundle(bundle))


def export(path, traced, out, monkeypatch, **options):
    monkeypatch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: traced.clone())
    steps, checks = [], []
    options = ExportOptions(precisions=("fp16",), **options)
    manifest = pipeline.export_bundle(path, out, options, steps.append, checks.append)
    return manifest, [step for step in steps if "build " in step], checks


def test_without_the_option_nothing_is_written_and_it_is_named(narrow, tmp_path, monkeypatch):
    _, path, traced = narrow
    with pytest.raises(VerificationError) as caught:
        export(path, traced, tmp_path / "out", monkeypatch)
    for words in ("nothing was written", "first class equal on", "cosine", "largest difference", "--auto-fp32"):
        assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_exactly_the_layers_that_need_fp32_are_found_and_kept(narrow, tmp_path, monkeypatch):
    needed, path, traced = narrow
    manifest, builds, checks = export(path, traced, tmp_path / "out", monkeypatch, auto_fp32=True)
    assert all(check.passed for check in checks) and any(check.emulated for check in checks)
    graphs = [entry for entry in load_manifest(tmp_path / "out").files if entry.runtime == "onnx"]
    assert graphs == [entry for entry in manifest.files if entry.runtime == "onnx"] and len(graphs) == 2
    for entry in graphs:
        assert set(entry.kept_fp32["groups"]) == needed
        assert entry.kept_fp32["minimal"] and entry.kept_fp32["probes"] == len(builds) <= 13
        kept = {name for nodes in entry.kept_fp32["groups"].values() for name in nodes}
        graph = infer_shapes(load_graph(tmp_path / "out" / entry.path)).graph
        types = {node.name: node.outputs[0].dtype for node in graph}
        assert {types[name] for name in kept if name in types} == {ir.DataType.FLOAT}
        assert ir.DataType.FLOAT16 in types.values(), "the others are fp16 still"


def test_too_few_builds_give_a_right_export_that_says_so(narrow, tmp_path, monkeypatch):
    needed, path, traced = narrow
    manifest, builds, checks = export(path, traced, tmp_path / "out", monkeypatch, auto_fp32=True, auto_fp32_builds=2)
    assert len(builds) == 2 and all(check.passed for check in checks)
    kept = manifest.files[0].kept_fp32
    assert needed < set(kept["groups"]) and not kept["minimal"]


def test_a_good_model_is_built_once(bundle_file, traced_graph, tmp_path, monkeypatch):
    manifest, builds, _ = export(bundle_file, traced_graph, tmp_path / "out", monkeypatch, auto_fp32=True)
    assert builds == [] and all(entry.kept_fp32 == {} for entry in manifest.files)
    assert "kept_fp32" not in (tmp_path / "out" / "manifest.json").read_text()


def test_a_model_that_no_set_repairs_is_refused(bundle_file, traced_graph, tmp_path, monkeypatch):
    """The graph has another weight than the model, which no type mends."""
    wrong = traced_graph.clone()
    name = next(name for name in wrong.graph.initializers if name.endswith("head.weight"))
    value = wrong.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.5), name=name)
    with pytest.raises(VerificationError, match=r"differs with all 7 groups of its layers in fp32, too.*--precision"):
        export(bundle_file, wrong, tmp_path / "out", monkeypatch, auto_fp32=True)
    assert not list(tmp_path.iterdir())


def test_the_option_needs_a_comparison():
    with pytest.raises(ExportError, match="give it without --no-verify"):
        ExportOptions(auto_fp32=True, verify=False)
