"""Heads that timm's arguments cannot express, built into a timm model through its slot ``attn_pool``."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tokfilter.errors import UnsupportedModelError

__all__ = ["ClassAndMean", "use_class_and_mean"]


class ClassAndMean(nn.Module):
    """Joins the class token with the mean of the patch tokens, the kept ones when tokens were dropped.

    The features of DINOv2's linear classifier (arXiv 2304.07193; transformers' Dinov2ForImageClassification).
    prefix_tokens: class token and registers
    """

    def __init__(self, prefix_tokens: int) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, P+k, C]. Returns [B, 2C]."""
        return torch.cat([tokens[:, 0], tokens[:, self.prefix_tokens :].mean(dim=1)], dim=-1)


def use_class_and_mean(backbone: Any) -> None:
    """Give a VisionTransformer this pooling and a new linear head for it. Raises UnsupportedModelError."""
    if type(backbone) is not VisionTransformer or not backbone.has_class_token or backbone.attn_pool is not None:
        raise UnsupportedModelError(
            "the head class+mean needs timm's VisionTransformer with a class token and without attention pooling, "
            f"got {type(backbone).__name__} with global_pool={backbone.global_pool!r}."
        )
    if not isinstance(backbone.fc_norm, nn.Identity) or backbone.num_classes < 1:
        raise UnsupportedModelError(
            "the head class+mean needs classes and the norm before the pooling: num_classes above 0, fc_norm=False."
        )
    backbone.attn_pool = ClassAndMean(backbone.num_prefix_tokens)
    backbone.pool_include_prefix = True
    backbone.head = nn.Linear(2 * backbone.embed_dim, backbone.num_classes)
