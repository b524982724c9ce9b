"""model.pt and graphs of one model with random weights: ``export_worker SETTINGS NAME VERSION-OF-TENSORRT``.

The filter has a global context, as the default recipe makes it.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.benchmarks.gpu_proof.engine_graphs import engine_graph, graphs_of
from tokfilter.benchmarks.gpu_proof.prepare import PRECISIONS, bundle_of
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec, Settings
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.train.recipe import CONTEXT
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import bundle_from_model, save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.patch import patch
from tokfilter.vit.scorers import TokenFilter

__all__ = ["clear_images", "export_model"]

_IMAGES: Final = 8
_DRAWN: Final = 96


def export_model(settings: Settings, model: ModelSpec, version: str) -> None:
    """Weights and images of seed 0; golden tensors at every budget that is compared or timed. Raises TokfilterError."""
    torch.manual_seed(0)
    architecture = Architecture(model.architecture, dict(model.arguments))
    backbone: Any = create_backbone(architecture).eval()
    scorer = TokenFilter(backbone.embed_dim, FilterConfig(summary=CONTEXT), backbone.patch_embed.num_patches)
    scorer.trained = True  # a random filter is meant here: no warning
    assert scorer.summary is not None
    torch.nn.init.normal_(scorer.summary.expand.weight, std=0.02)  # zero when new, and then nothing would be compared
    filtered = patch(backbone, filter=scorer, architecture=(architecture.name, architecture.kwargs))
    images = clear_images(filtered, model.golden)
    bundle = bundle_from_model(filtered, examples=images)
    bundle = replace(bundle, golden=golden_from_model(filtered, images, model.golden))
    save_bundle(bundle, bundle_of(settings, model.name))
    # Each engine is compared with the golden tensors, and nothing is timed before: the check of the graphs on a CPU
    # would take as long as a build.
    options = ExportOptions(precisions=PRECISIONS, cuda=True, plugin_graphs=True, verify=False)
    export_bundle(bundle_of(settings, model.name), graphs_of(settings, model.name), options)
    engine_graph(settings, version, model.name, "filtered", "fp16", plugin=True)
    engine_graph(settings, version, model.name, "full", "fp16", plugin=False)


@torch.inference_mode()
def clear_images(model: FilteredViT, budgets: Sequence[int]) -> Tensor:
    """Random images [8, 3, H, W] whose kept tokens are clear: of 96, those with the widest gap between scores.

    Logits are compared only where the same tokens are kept. A random filter's scores are close together, and fp16 would
    exchange two of them in most images.

    budgets: the gap is that between the last kept and the first dropped token, the narrowest of all budgets, over the
        standard deviation of the image's scores
    """
    size = (_DRAWN, 3, *model.backbone.patch_embed.img_size)
    images = torch.randn(size, generator=torch.Generator().manual_seed(0))
    scores = model.scorer(model.embed(images)[:, model.prefix_tokens :])
    ranked = scores.sort(dim=1, descending=True).values
    gaps = torch.stack([ranked[:, k - 1] - ranked[:, k] for k in budgets]).amin(dim=0) / scores.std(dim=1)
    return images[gaps.argsort(descending=True)[:_IMAGES]]


if __name__ == "__main__":
    chosen = Settings.from_text(sys.argv[1])
    export_model(chosen, chosen.model(sys.argv[2]), sys.argv[3])
