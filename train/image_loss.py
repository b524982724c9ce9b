"""Loss of each image of a batch: cross-entropy on its label, or the distance from the full model's own output.

The distances need no labels. They are zero for the full model itself.
"""

from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tokfilter.errors import DataError

__all__ = ["CROSS_ENTROPY", "LossName", "check_loss", "image_loss", "output_distance"]

LossName = Literal["cross-entropy", "feature", "kl"]
"""cross-entropy on the class; feature: cosine distance from the full model's output; kl: divergence from its classes"""

CROSS_ENTROPY: Final = "cross-entropy"


def image_loss(outputs: Tensor, labels: Tensor, loss: LossName = CROSS_ENTROPY, full: Tensor | None = None) -> Tensor:
    """Loss of each image, in fp32; in nats for cross-entropy and kl. Where a model gives masks, the mean over pixels.

    outputs: logits [B, classes], masks [B, M, H', W'] as logits, or embeddings [B, C]
    labels: classes [B], or [B, H', W']; used by cross-entropy only
    full: as ``outputs``, of the full model; used by the other losses only
    Returns [B]. Raises DataError as ``output_distance``.
    """
    if loss != CROSS_ENTROPY:
        assert full is not None
        return output_distance(outputs, full, loss)
    losses = F.cross_entropy(outputs.float(), labels, reduction="none")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(dim=1)


def output_distance(outputs: Tensor, full: Tensor, loss: LossName) -> Tensor:
    """Distance of outputs from the full model's, in fp32: 1 - cosine, or the Kullback-Leibler divergence in nats.

    outputs, full: [B, ...], the same shapes
    Returns [B]. Raises DataError where the cosine is not defined: an output is zero or not finite.
    """
    if loss == "feature":
        # 1 - cos is half the squared distance of unit vectors, which does not lose small distances to rounding.
        return (_unit(outputs) - _unit(full)).square().sum(dim=1) / 2
    wanted = full.float().log_softmax(1)
    terms = F.kl_div(outputs.float().log_softmax(1), wanted, reduction="none", log_target=True).sum(dim=1)
    return terms if terms.ndim == 1 else terms.flatten(1).mean(dim=1)


def check_loss(loss: LossName, classes: int) -> None:
    """Raise DataError for a loss that the model's output does not allow.

    classes: of the model; 0 for one that gives an embedding (timm's num_classes=0)
    """
    if classes or loss == "feature":
        return
    what = "compares with class labels" if loss == CROSS_ENTROPY else "compares class distributions"
    raise DataError(
        f"the loss {loss} {what}, and this model gives an embedding (num_classes=0): choose the loss feature "
        "(--loss feature), which compares embeddings."
    )


def _unit(outputs: Tensor) -> Tensor:
    rows = outputs.float().flatten(1)
    lengths = rows.norm(dim=1, keepdim=True)
    if not bool(((lengths > 0) & torch.isfinite(lengths)).all()):
        raise DataError(
            "the loss feature is a cosine distance, and the model's output for an image is zero or not finite: check "
            "that the model has its trained weights, and its preprocessing."
        )
    unit: Tensor = rows / lengths
    return unit
