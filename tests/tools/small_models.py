"""A small filtered model, its bundle and its export: everything here needs torch."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.mask_models import add_mask_head
from tokfilter.vit.model import FilteredViT, weights_from_model
from tokfilter.vit.patch import patch
from tokfilter.vit.scorers import TokenFilter

SMALL = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5},
)
SMALL_EMBEDDING = Architecture(SMALL.name, {**SMALL.kwargs, "num_classes": 0})
TEN_CLASSES = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10},
)


def small_model(seed: int = 0, architecture: Architecture = SMALL) -> FilteredViT:
    torch.manual_seed(seed)
    backbone = create_backbone(architecture)
    model = FilteredViT(backbone, keep=0.5)
    model.drop.scorer = TokenFilter(model.channels, FilterConfig(width=8))
    return model.eval()


def small_mask_model(seed: int = 0, fill: str = "embedding") -> FilteredViT:
    """The small model with three masks of 16 x 16 pixels."""
    torch.manual_seed(seed)
    model = patch(create_backbone(SMALL))
    model.drop.scorer = TokenFilter(model.channels, FilterConfig(width=8))
    model.scorer.trained = True
    add_mask_head(model, 3, size=16, width=8, fill=fill)
    return model.eval()


def small_embedding_model(seed: int = 0) -> FilteredViT:
    """The small model without its classifier: embeddings of 24 numbers."""
    torch.manual_seed(seed)
    model = patch(create_backbone(SMALL_EMBEDDING))
    model.drop.scorer = TokenFilter(model.channels, FilterConfig(width=8))
    model.scorer.trained = True
    return model.eval()


def small_bundle(seed: int = 0, change: Callable[[FilteredViT], None] = lambda _: None) -> Bundle:
    """change: applied to the model before its golden tensors are computed"""
    model = small_model(seed)
    change(model)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    backbone, scorer = weights_from_model(model)
    return Bundle(
        architecture=SMALL,
        backbone=backbone,
        filter_config=FilterConfig(width=8),
        filter=scorer,
        keep=0.5,
        preprocessing=Preprocessing((3, 32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        class_names=["ant", "bee", "cat", "dog", "eel"],
        golden=golden_from_model(model, images, [0.7, 0.5, 0.25]),
        training={"data": "random", "seeds": [seed]},
    )


class ForeignViT(torch.nn.Module):
    """What stands around a token selection in a foreign model: [B, P+16, 8] to [B, 3, kept] and what else it gives."""

    def __init__(self, select: Callable[..., Any], prefix: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.score, self.head = torch.nn.Linear(8, 1), torch.nn.Linear(8, 3)
        self.select, self.prefix = select, prefix

    def forward(self, x: torch.Tensor) -> Any:
        x = x * 1.5
        results = self.select(x, self.score(x[:, self.prefix :]).squeeze(-1).softmax(-1))
        results = results if isinstance(results, tuple) else (results,)
        return tuple(self.head(r.relu()).transpose(1, 2) if r.is_floating_point() else r for r in results)


def write_export(bundle: Path, directory: Path) -> None:
    """Export a bundle, with a graph for half of the tokens."""
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle

    export_bundle(bundle, directory, ExportOptions(keeps=(0.5,)))


if __name__ == "__main__":  # small_models.py DIRECTORY: an export of the small model
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(small_bundle(), Path(folder) / "model.pt")
        write_export(Path(folder) / "model.pt", Path(sys.argv[1]))
