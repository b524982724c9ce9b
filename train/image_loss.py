"""Cross-entropy of each image of a batch: of its class, or the mean over its pixels where a model gives masks."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["image_loss"]


def image_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Loss in nats, in fp32.

    outputs: logits [B, classes], or masks [B, M, H', W'] as logits
    labels: classes [B], or [B, H', W']
    Returns [B].
    """
    losses = F.cross_entropy(outputs.float(), labels, reduction="none")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(dim=1)
