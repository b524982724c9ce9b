"""A filter whose first layer reads neighbouring tokens: what it sees, in a bundle, in every graph, in training."""

import dataclasses

import pytest
import torch
from filter_graphs import forms_that_equal_torch

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.errors import BundleError
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT, weights_from_model
from tokfilter.vit.scorers import TokenFilter

ROWS, COLUMNS = GRID = 5, 7
WIDTH = 8
SHAPE = {"img_size": (20, 28), "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
CONFIG = FilterConfig(width=WIDTH, neighbours=True)
ALONE = dataclasses.replace(CONFIG, neighbours=False)


def model_of(config=CONFIG, learned=True):
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(Architecture("vit_tiny_patch16_224", SHAPE)))
    torch.manual_seed(1)
    model.drop.scorer = model.new_filter(config)
    if learned and config.neighbours:
        torch.nn.init.normal_(model.scorer.neighbours.convolution.weight, std=0.3)
    return model.eval()


def images(batch=3):
    return torch.randn(batch, 3, 20, 28, generator=torch.Generator().manual_seed(1))


def bundle_of(model):
    backbone, weights = weights_from_model(model)
    return Bundle(
        Architecture("vit_tiny_patch16_224", SHAPE), backbone, model.scorer.config, weights, 0.5,
        Preprocessing((3, 20, 28), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), [], golden_from_model(model, images(), [0.5]),
        {},
    )  # fmt: skip


@torch.inference_mode()
def test_new_weights_score_as_a_filter_without_neighbours():
    new, alone = model_of(learned=False).scorer, model_of(ALONE).scorer
    alone.load_state_dict({name: value for name, value in new.state_dict().items() if "neighbours" not in name})
    patches = torch.randn(2, ROWS * COLUMNS, 24)
    torch.testing.assert_close(new(patches), alone(patches), rtol=0, atol=0)


@torch.inference_mode()
def test_a_score_depends_on_the_tokens_around_it_and_on_no_other():
    scorer = model_of(dataclasses.replace(CONFIG, global_feature="none")).scorer
    patches = torch.randn(1, ROWS * COLUMNS, 24)
    changed = patches.clone()
    row, column = 2, COLUMNS - 1  # at the border, so that a wrong order of rows and columns reaches round it
    changed[0, row * COLUMNS + column] = torch.randn(24)
    moved = (scorer(changed) != scorer(patches)).reshape(GRID)
    expected = torch.zeros(GRID, dtype=torch.bool)
    expected[row - 1 : row + 2, column - 1 : column + 2] = True
    assert torch.equal(moved, expected)


def test_every_form_of_the_graph_equals_torch(tmp_path):
    graphs = forms_that_equal_torch(model_of(), images(), (1, 18, 34), tmp_path)
    assert not [weight for weight in graphs["full"].graph.initializers if "neighbours" in weight]


def test_it_travels_in_a_bundle_and_is_exported_in_every_precision(tmp_path):
    model = model_of()
    bundle = bundle_of(model)
    save_bundle(bundle, tmp_path / "model.pt")
    again = model_from_bundle(load_bundle(tmp_path / "model.pt"))
    with torch.inference_mode():
        assert torch.equal(again(images(), 0.5), model(images(), 0.5))
    options = ExportOptions(keeps=(0.5,), precisions=("fp32", "fp16", "bf16"))
    manifest = export_bundle(tmp_path / "model.pt", tmp_path / "out", options)
    assert {"model.onnx", "model.fp16.onnx", "model.bf16.onnx"} <= {entry.path for entry in manifest.files}
    lacking = {name: value for name, value in bundle.filter.items() if "neighbours" not in name}
    with pytest.raises(BundleError, match="its filter lacks 2 tensors"):
        save_bundle(dataclasses.replace(bundle, filter=lacking), tmp_path / "other.pt")


def test_a_bundle_without_neighbours_does_not_name_them(tmp_path):
    for config, named in ((ALONE, False), (CONFIG, True)):
        save_bundle(bundle_of(model_of(config)), tmp_path / "model.pt")
        fields = torch.load(tmp_path / "model.pt", weights_only=True)["filter"]["config"]
        assert ("neighbours" in fields) is named


def test_tensorrt_rtx_builds_an_engine_with_it(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'tokfilter[rtx]'")
    save_bundle(bundle_of(model_of()), tmp_path / "model.pt")
    export_bundle(tmp_path / "model.pt", tmp_path / "out", ExportOptions(rtx=True))
    assert {"model.rtx.plan", "full.rtx.plan"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_its_cost_is_counted():
    assert macs(model_of(), 10) - macs(model_of(ALONE), 10) == ROWS * COLUMNS * 9 * WIDTH * WIDTH
    assert macs(model_of(), 1.0) == macs(model_of(ALONE), 1.0)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="needs the model's grid of patches"):
        TokenFilter(24, CONFIG)
    for value in (1, "true", None):
        with pytest.raises(ValueError, match="neighbours is true or false, got"):
            FilterConfig(neighbours=value)
