"""One count of MACs: in the ONNX graph, and by torch."""

import pytest
import torch

from tokfilter.artifacts.bundle import Architecture
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, slots_graph_from_model
from tokfilter.export.graph_stats import lengths_of, macs
from tokfilter.export.shapes import infer_shapes
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.macs import macs as macs_of_model
from tokfilter.vit.model import FilteredViT

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
MODELS = {
    "one prefix token": ("deit_tiny_patch16_224", SMALL),
    "two prefix tokens": ("deit_tiny_distilled_patch16_224", SMALL),
    "no prefix token, average pooling": ("vit_medium_patch16_gap_240", {**SMALL, "global_pool": "avg"}),
    "registers": ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 70}),
    "attention pooling": ("vit_base_patch16_siglip_224", SMALL),
    "gated MLP, rotary": ("eva02_tiny_patch14_224", {**SMALL, "img_size": 70}),
}


@pytest.mark.parametrize("name", MODELS)
def test_graph_and_torch_count_the_same(name):
    architecture, kwargs = MODELS[name]
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(Architecture(architecture, kwargs))).eval()
    slots = slots_graph_from_model(model)
    n = model.num_patches
    full = infer_shapes(full_graph_from_slots(slots, n))
    assert macs(full, lengths_of(full)) == macs_of_model(model, n)
    fixed = infer_shapes(fixed_graph_from_slots(slots, n // 3))
    assert macs(fixed, lengths_of(fixed)) == macs_of_model(model, n // 3)
    infer_shapes(slots)
    for k in (1, 7, n // 2, n - 1):
        assert macs(slots, lengths_of(slots, k)) == macs_of_model(model, k)
