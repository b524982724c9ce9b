"""A small model of each family of ViTs, traced once for all test files. 16 patch tokens, one block."""

from functools import cache

import onnx_ir as ir
import torch

from tokfilter.artifacts.bundle import Architecture
from tokfilter.export.graph import slots_graph_from_model
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT

PATCHES = 16
_SMALL = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 3, "patch_size": 8, "num_classes": 5}
FAMILIES = {
    "distilled": Architecture("deit_tiny_distilled_patch16_224", _SMALL),
    "average pooling": Architecture("vit_base_patch16_gap_224", _SMALL),
    "registers": Architecture("vit_small_patch14_reg4_dinov2", _SMALL | {"img_size": 56, "patch_size": 14}),
    "attention pooling": Architecture("vit_base_patch16_siglip_224", _SMALL),
    "norm before the blocks": Architecture("vit_base_patch16_clip_224", _SMALL),
    "gated MLP, rotary": Architecture(
        "eva02_tiny_patch14_224", _SMALL | {"img_size": 56, "patch_size": 14, "num_heads": 2}
    ),
    "rotary, one embedding per block": Architecture("vit_small_patch16_rope_mixed_224", _SMALL | {"num_heads": 2}),
}


@cache
def _traced(name: str) -> tuple[FilteredViT, ir.Model]:
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(FAMILIES[name])).eval()
    return model, slots_graph_from_model(model)


def traced_family(name: str) -> tuple[FilteredViT, ir.Model]:
    """The model, for reading, and a copy of its slots form."""
    model, graph = _traced(name)
    return model, graph.clone()
