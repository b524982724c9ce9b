import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_models import SMALL, small_mask_model

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError, ExportError
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, slots_graph_from_model
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.selection import plain_graph
from tokfilter.export.serving.deepstream import deepstream_classifier
from tokfilter.export.serving.triton import triton_repository
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.mask_models import add_mask_head
from tokfilter.vit.patch import patch


def test_every_graph_gives_masks_of_standard_operators(mask_export_directory):
    card = load_manifest(mask_export_directory).model
    assert (card.output_name, card.output_shape, card.classes) == ("masks", (3, 16, 16), 3)
    for name in ("model.onnx", "model.k8.onnx", "full.onnx"):
        graph = onnx.load(mask_export_directory / name)
        assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
        assert graph.graph.output[0].name == "masks"
        shape = [dim.dim_value for dim in graph.graph.output[0].type.tensor_type.shape.dim]
        assert shape[1:] == [3, 16, 16]


def test_every_check_of_the_export_passed_at_five_budgets(mask_export_directory):
    checks = load_manifest(mask_export_directory).verification["checks"]
    elastic = {check["budget"] for check in checks if check["path"] == "model.onnx"}
    assert len(elastic) >= 5
    assert all(check["passed"] and check["relative"] < 1e-5 for check in checks)


def test_the_full_graph_has_no_fill_and_no_selection(mask_export_directory):
    names = [node.name for node in onnx.load(mask_export_directory / "full.onnx").graph.node]
    assert any(name.startswith("mask_head") for name in names)
    assert not any(name.startswith("mask_head.fill") or "TokenSelect" in name for name in names)


@pytest.mark.parametrize("fill", ["nearest", "dropped-mean"])
def test_other_fills_have_the_three_forms(fill):
    slots = slots_graph_from_model(small_mask_model(fill=fill))
    full, fixed = full_graph_from_slots(slots, 16), fixed_graph_from_slots(slots, 3)
    assert [value.name for value in full.graph.inputs] == ["images"]
    assert not any((node.name or "").startswith("mask_head.fill") for node in full.graph)
    assert [value.name for value in fixed.graph.outputs] == ["masks", "indices"]


def test_class_attention_that_drops_tokens_in_blocks_gives_masks_at_every_budget(tmp_path):
    """EViT without its fused token: two stages drop tokens, and one scatter puts what is left back to its places."""
    torch.manual_seed(0)
    model = patch(create_backbone(SMALL), reducer=("evit", {"stages": [1, 2], "fuse": False}))
    for weight in model.parameters():  # timm's small weights make scores that are nearly equal
        torch.nn.init.normal_(weight, std=0.2)
    add_mask_head(model, 3, size=16, width=8).eval().requires_grad_(False)
    save_graph(plain_graph(slots_graph_from_model(model)), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for k in (1, 5, 9, 16):
        masks = session.run(["masks"], {"images": images.numpy(), "slots": np.zeros(k, np.int32)})[0]
        torch.testing.assert_close(torch.from_numpy(masks), model(images, k), atol=1e-4, rtol=1e-4)


def test_int8_is_refused_because_there_is_no_top1(mask_bundle_file, tmp_path):
    options = ExportOptions(precisions=("int8",), calibrate=tmp_path)
    with pytest.raises(ExportError, match="int8 is checked by its top-1, which a model with masks has not"):
        export_bundle(mask_bundle_file, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("write", [triton_repository, deepstream_classifier])
def test_serving_of_classifiers_refuses_masks(mask_export_directory, tmp_path, write):
    with pytest.raises(DataError, match="takes models that classify, and this one gives masks"):
        write(mask_export_directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
