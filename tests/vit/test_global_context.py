import dataclasses

import pytest
import torch
from filter_graphs import forms_that_equal_torch

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.errors import BundleError, UnsupportedModelError
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT, weights_from_model
from tokfilter.vit.scorers import TokenFilter

SHAPE = {"img_size": (20, 28), "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
PATCHES = 35
CONFIG = FilterConfig(width=8, summary=6)


def model_of(config=CONFIG, learned=True, **changes):
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(Architecture("vit_tiny_patch16_224", SHAPE | changes)))
    model.drop.scorer = model.new_filter(config)
    if learned and config.summary:
        torch.nn.init.normal_(model.scorer.summary.expand.weight)
    return model.eval()


def images(batch=3):
    return torch.randn(batch, 3, 20, 28, generator=torch.Generator().manual_seed(1))


def bundle_of(model):
    backbone, weights = weights_from_model(model)
    return Bundle(
        Architecture("vit_tiny_patch16_224", SHAPE), backbone, CONFIG, weights, 0.5,
        Preprocessing((3, 20, 28), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), [], golden_from_model(model, images(), [0.5]),
        {},
    )  # fmt: skip


@torch.inference_mode()
def test_a_new_summary_adds_nothing_and_a_learned_one_adds_nothing_at_the_full_budget():
    plain, new, learned = (
        model_of(dataclasses.replace(CONFIG, summary=width), learned=learned)
        for width, learned in ((0, False), (6, False), (6, True))
    )
    for k in (1, 17, 34):
        torch.testing.assert_close(new(images(), k), plain(images(), k), rtol=0, atol=0)
        assert not torch.allclose(learned(images(), k), plain(images(), k), atol=1e-3)
    torch.testing.assert_close(learned(images(), 1.0), plain(images(), 1.0), rtol=0, atol=0)


@torch.inference_mode()
def test_it_changes_the_class_token_only_in_proportion_to_the_dropped_tokens():
    model = model_of(reg_tokens=2)
    tokens = model.embed(images())
    added = []
    for k in (5, 20, 35):
        kept = tokens[:, : 3 + k]
        changed = model.scorer.summary(kept, tokens)
        assert torch.equal(changed[:, 1:], kept[:, 1:])
        added.append(changed[:, 0] - kept[:, 0])
    torch.testing.assert_close(added[0] / 30, added[1] / 15, rtol=1e-4, atol=1e-6)
    assert added[1].abs().min() > 0 and not added[2].any()


def test_every_form_of_the_graph_equals_torch(tmp_path):
    graphs = forms_that_equal_torch(model_of(reg_tokens=1), images(), (1, 18, 34), tmp_path)
    assert not [weight for weight in graphs["full"].graph.initializers if "summary" in weight]
    assert not [node for node in graphs["fixed 18"].graph if node.op_type in ("Sub", "Cast")]  # folded


def test_it_travels_in_a_bundle_and_is_exported_in_every_precision(tmp_path):
    model = model_of()
    bundle = bundle_of(model)
    save_bundle(bundle, tmp_path / "model.pt")
    again = model_from_bundle(load_bundle(tmp_path / "model.pt"))
    with torch.inference_mode():
        assert torch.equal(again(images(), 0.5), model(images(), 0.5))
    export_bundle(
        tmp_path / "model.pt", tmp_path / "out", ExportOptions(keeps=(0.5,), precisions=("fp32", "fp16", "bf16"))
    )
    lacking = {name: value for name, value in bundle.filter.items() if "summary" not in name}
    with pytest.raises(BundleError, match="its filter lacks 4 tensors"):
        save_bundle(dataclasses.replace(bundle, filter=lacking), tmp_path / "other.pt")


def test_tensorrt_rtx_builds_an_engine_with_it(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'tokfilter[rtx]'")
    save_bundle(bundle_of(model_of()), tmp_path / "model.pt")
    export_bundle(tmp_path / "model.pt", tmp_path / "out", ExportOptions(rtx=True))
    assert {"model.rtx.plan", "full.rtx.plan"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_its_cost_is_counted_where_tokens_leave():
    plain, with_summary = model_of(dataclasses.replace(CONFIG, summary=0)), model_of()
    assert macs(with_summary, 10) - macs(plain, 10) == PATCHES * 24 * 6 + 6 * 24
    assert macs(with_summary, 1.0) == macs(plain, 1.0)


def test_what_cannot_be():
    with pytest.raises(UnsupportedModelError, match="added to the class token, and this VisionTransformer has none"):
        model_of(class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match="summary is a whole number from 0 to .*, got -1"):
        FilterConfig(summary=-1)
    with pytest.raises(ValueError, match="needs the number of the model's patches"):
        TokenFilter(24, CONFIG)
