"""Delta loss estimated from one gradient per image instead of one forward pass per token (ours).

The loss with token x replaced by its mask m is, to first order, the loss plus gradient times (m - x).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tokfilter.train.image_loss import image_loss
from tokfilter.train.masking import MaskConfig, mask_tokens
from tokfilter.vit.model import FilteredViT

__all__ = ["first_order_loss"]


def first_order_loss(
    model: FilteredViT, images: Tensor, labels: Tensor, config: MaskConfig, chunk: int
) -> tuple[Tensor, Tensor]:
    """First-order estimate of delta loss.

    images: [B, 3, H, W], normalised
    labels: [B]; of a model with a mask head [B, H', W']
    chunk: bounds the memory as for exact labels: a gradient needs the activations of every block, so fewer images
    Returns the estimate [B, N] and the unmasked loss [B], in nats.
    """
    at_once = max(1, chunk // (2 * len(model.backbone.blocks)))
    with _frozen(model):
        parts = [
            _estimate(model, images[i : i + at_once], labels[i : i + at_once], config)
            for i in range(0, len(images), at_once)
        ]
    delta, base = (torch.cat(column) for column in zip(*parts, strict=True))
    return delta, base


def _estimate(model: FilteredViT, images: Tensor, labels: Tensor, config: MaskConfig) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        tokens = model.embed(images)
        change = mask_tokens(model, images, tokens, config) - tokens[:, model.prefix_tokens :]
    with torch.enable_grad():
        tokens.requires_grad_()
        loss = image_loss(model.classify_tokens(tokens, images), labels)
        (gradient,) = torch.autograd.grad(loss.sum(), tokens)
    return (gradient[:, model.prefix_tokens :] * change).sum(dim=2), loss.detach()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for weights, so that the activations they would need are not kept."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
