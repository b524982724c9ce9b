"""Golden tensors: inputs and outputs that torch computed once, and that every later stage is compared with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Golden
from tokfilter.vit.model import FilteredViT

__all__ = ["golden_from_model"]


@torch.inference_mode()
def golden_from_model(model: FilteredViT, images: Tensor, keeps: Sequence[Keep]) -> Golden:
    """Golden tensors of a model in evaluation mode at some budgets; the full token count is left out.

    images: [G, 3, H, W], normalised
    """
    was_training = model.training
    model.eval()
    full = model(images, 1.0)
    logits: dict[int, Tensor] = {}
    indices: dict[int, Tensor] = {}
    for k in sorted({tokens_from_keep(keep, model.num_patches) for keep in keeps} - {model.num_patches}):
        logits[k] = model(images, k).clone()
        assert model.last.indices is not None
        indices[k] = model.last.indices.clone()
    scores = model.scores(images)
    model.train(was_training)
    return Golden(images.clone(), scores.clone(), full.clone(), logits, indices)
