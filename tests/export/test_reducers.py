"""Models that reduce inside their blocks as graphs: one for every budget, fixed ones, and the full one."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import tokfilter
from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import entry_from_file, load_manifest
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.errors import BudgetError, ExportError
from tokfilter.export.cpu_form import for_cpu
from tokfilter.export.functions import select_nodes
from tokfilter.export.graph import slots_graph_from_model
from tokfilter.export.graph_stats import attentions, lengths_of, macs
from tokfilter.export.later_slots import stage_of
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.precision import cast_precision
from tokfilter.export.reference import ImageSet, Reference
from tokfilter.export.selection import plain_graph
from tokfilter.export.serving.deepstream import deepstream_classifier
from tokfilter.export.serving.triton import triton_repository
from tokfilter.export.shapes import infer_shapes
from tokfilter.export.verify import check_graph
from tokfilter.runtime.predict import picture_from_prediction, predict
from tokfilter.runtime.verification import verdicts
from tokfilter.trt.build import BuildOptions, build_engine
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.macs import macs as macs_in_torch

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
FAMILIES = ("deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2")
"""Beside vit_tiny_patch16_224, whose graphs are those of the exports below: five budgets, batches of 1 and 2."""
IN_BLOCK = sorted(set(REDUCERS) - {"filter"})


def model_of(reducer, family="vit_tiny_patch16_224", settings=(), **changes):
    torch.manual_seed(0)
    config = ReducerConfig(reducer, {"stages": (1, 2, 3), **dict(settings)})
    model = tokfilter.patch(timm.create_model(family, **{**SHAPE, **changes}).eval(), 0.7, reducer=config)
    for name, weight in model.drop.named_parameters():
        if name in ("w1", "w2"):  # of the frequency-aware reducer, which start at 0 and change nothing
            torch.nn.init.normal_(weight, std=0.3)
    return model


def test_every_block_merges_the_same_number_in_every_form(tmp_path):
    model = model_of("tome", settings={"schedule": "constant"})
    save_bundle(model, tmp_path / "model.pt")
    export_bundle(tmp_path / "model.pt", tmp_path / "out", ExportOptions(keeps=(14,)))
    manifest = load_manifest(tmp_path / "out")
    assert manifest.model.reducer["settings"] == {"stages": [1, 2, 3], "schedule": "constant"}
    checks = manifest.verification["checks"]
    assert all(check["passed"] for check in checks) and {check["budget"] for check in checks} >= {8, 14, 16}
    assert manifest.model.macs["14"] == macs_in_torch(model, 14)
    for budget, rows in ((14, 12 + 10), (9, 5 + 3)):
        with tokfilter.open_session(tmp_path / "out") as session:
            result = session.run(np.zeros((2, 3, 32, 32), np.float32), budget)
        assert result.later_indices.shape == (2, rows)
    image = Image.new("RGB", (40, 40), (200, 30, 90))
    by_torch, by_engine = (predict(tmp_path / name, image, 14) for name in ("model.pt", "out"))
    assert [stage.summary for stage in by_torch.stages] == [stage.summary for stage in by_engine.stages]
    assert len(by_engine.stages[2].alone) + len(by_engine.stages[2].groups) == 10


@pytest.mark.parametrize("reducer", IN_BLOCK)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_graph_gives_torchs_outputs_at_every_budget(reducer, family, tmp_path):
    model = model_of(reducer, family)
    traced = slots_graph_from_model(model)
    low, high = model.drop.smallest, model.drop.largest
    budgets = sorted({low, low + 1, model.keep_tokens, high - 1, high})  # that of 0.7 in the middle
    _check_plugin_form(model, traced)
    save_graph(plain_graph(for_cpu(traced)), tmp_path / "model.onnx")
    entry = entry_from_file(tmp_path, "model.onnx", "filtered", runtime="onnx", precision="fp32")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    image_set = ImageSet("golden", ("a", "b", "c"), images, images.numpy())
    checks = check_graph(tmp_path, entry, Reference(model), image_set, [], budgets)
    assert [check.errors for check in checks] == [()] * 10 and {check.batch for check in checks} == {1, 3}
    infer_shapes(traced)
    for k in (low, 12):
        lengths = lengths_of(traced, k)
        assert macs(traced, lengths) == macs_in_torch(model, k)
        found = [one.queries for one in attentions(traced, lengths) if one.queries == one.keys]
        assert found == [row.attention for row in model.drop.blocks(k, 3)]


def _check_plugin_form(model, traced):
    """Every choice of tokens is one node for the plugin, IdleViT's gathers of tokens and keys included."""
    nodes = select_nodes(traced)
    assert [stage_of(node) for node in nodes] == model.drop.choices
    assert all(node.attributes.get_string("plugin_namespace", "") == "tokfilter" for node in nodes)
    chosen = [node for node in traced.graph if node.op_type in ("TopK", "GatherND", "GatherElements")]
    assert chosen == [] or model.drop.name in ("tome", "frequency")
    if model.drop.name == "idle":
        widths = {node.inputs[0].shape[2] for node in nodes}
        assert widths == {2 * SHAPE["embed_dim"]}  # a token and its key


def test_tensorrt_rtx_builds_it_without_a_gpu(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'tokfilter[rtx]'")
    graph, options = slots_graph_from_model(model_of("idle")), BuildOptions(batch=(1, 2, 4), budget=(1, 12, 16))
    for precision, form in (("fp32", graph), ("fp16", cast_precision(graph, "fp16"))):
        save_graph(plain_graph(form), tmp_path / f"{precision}.onnx")
        build_engine("tensorrt-rtx", tmp_path / f"{precision}.onnx", tmp_path / f"{precision}.plan", options)
        assert (tmp_path / f"{precision}.plan").stat().st_size > 10_000


@pytest.mark.parametrize("reducer", IN_BLOCK)
def test_an_export_is_verified_in_two_precisions(reducer, tmp_path):
    save_bundle(model_of(reducer), tmp_path / "model.pt")
    export_bundle(tmp_path / "model.pt", tmp_path / "out", ExportOptions(keeps=(0.5,), precisions=("fp32", "fp16")))
    manifest = load_manifest(tmp_path / "out")
    assert manifest.model.reducer["name"] == reducer
    assert all(check["passed"] for check in manifest.verification["checks"])
    checked = [check for check in manifest.verification["checks"] if check["path"] == "model.onnx"]
    assert len({check["budget"] for check in checked}) >= 5 and {check["batch"] for check in checked} == {1, 2}
    with tokfilter.open_session(tmp_path / "out") as session:
        result = session.run(np.zeros((2, 3, 32, 32), np.float32), 9)
    assert result.indices.shape == (2, 9) and result.later_indices.shape == (2, 6 + 4)
    assert (result.partners is None) == (reducer != "tome") and manifest.model.choices == [[1, 0], [2, 1], [3, 2]]
    assert golden_of(tmp_path / "out", manifest).later[8].choices[:, 0].tolist() == [8, 4, 2]
    compared = list(verdicts(tmp_path / "out"))
    assert {found.same_later for found in compared if found.tokens < 16} == {1.0}
    images = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    by_torch, by_engine = (predict(tmp_path / name, Image.fromarray(images), 9) for name in ("model.pt", "out"))
    assert [stage.summary for stage in by_torch.stages] == [stage.summary for stage in by_engine.stages]
    assert picture_from_prediction(by_engine).size == picture_from_prediction(by_torch).size
    triton_repository(tmp_path / "out", tmp_path / "triton")
    assert deepstream_classifier(tmp_path / "out", tmp_path / "deepstream").tokens == 11
    with tokfilter.open_session(tmp_path / "out", "full") as session:
        assert session.run(np.zeros((2, 3, 32, 32), np.float32)).indices is None


def test_what_only_the_filter_has_is_refused(tmp_path):
    save_bundle(model_of("evit"), tmp_path / "model.pt")
    for options, error, message in (
        ({"keeps": (1.0,)}, BudgetError, "budgets of 1 to 15 of this model's 16 patch tokens, got 16"),
        (
            {"budget_range": (1, 8, 16)},
            BudgetError,
            "1 <= min <= opt <= max <= 15, the budgets of this model's reducer",
        ),
        ({"cuda": True}, ExportError, "--cuda is made for the token filter, and this model reduces tokens by evit"),
        ({"tensorrt8": ("8.6",)}, ExportError, "graphs for TensorRT 8 have one selection of tokens, evit has several"),
    ):
        with pytest.raises(error, match=message):
            export_bundle(tmp_path / "model.pt", tmp_path / "out", ExportOptions(**options))
    assert not (tmp_path / "out").exists()
