"""``tokfilter.add_mask_head``: a patched model that gives masks in place of class logits."""

from collections.abc import Sequence
from typing import Any

from tokfilter.artifacts.mask_config import MaskHeadConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.dense.mask_head import MaskHead
from tokfilter.vit.model import FilteredViT, check_patched

__all__ = ["add_mask_head", "new_mask_head"]

_STRIDE = 4
"""Pixels of the image per pixel of the masks, as Mask2Former and others have it."""


def add_mask_head(
    model: FilteredViT,
    masks: int,
    *,
    size: int | Sequence[int] | None = None,
    width: int | None = None,
    fill: str = "embedding",
    align_corners: bool = False,
) -> FilteredViT:
    """Give a patched model a new mask head, in place: it returns masks [B, masks, H', W'] as logits from then on.

    masks: classes of semantic segmentation, the background among them
    size: (H', W') of the masks, or one number for both; default: a quarter of the image
    width: channels in which queries and tokens are compared; default: the model's own, 256 at most
    fill: what stands in the place of a dropped token: embedding, nearest, mask-token, kept-mean or dropped-mean
    align_corners: of the bilinear upsampling, as in ``torch.nn.functional.interpolate``
    Returns ``model``. Raises UnsupportedModelError.
    """
    check_patched(model)
    image = model.backbone.patch_embed.img_size
    sides: Any = [-(-side // _STRIDE) for side in image] if size is None else size
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    try:
        config = MaskHeadConfig(masks, sides, width or min(model.channels, 256), fill, align_corners)
    except ValueError as error:
        raise UnsupportedModelError(f"{error}.") from error
    model.mask_head = new_mask_head(model, config).to(next(model.parameters()))
    model.mask_head.train(model.training)
    return model


def new_mask_head(model: FilteredViT, config: MaskHeadConfig) -> MaskHead:
    """A head that fits this model, with new weights. Raises UnsupportedModelError."""
    if model.drop.adds_tokens:
        raise UnsupportedModelError(
            f"masks need the position of every token, and the reducer {model.drop.name} adds tokens that have none. "
            "Choose filter, idle, dynamic, or evit with fuse=False."
        )
    embedding = model.backbone.patch_embed
    image, patch = embedding.img_size, embedding.patch_size
    if any(side != count * step for side, count, step in zip(image, model.grid, patch, strict=True)):
        raise UnsupportedModelError(
            f"masks need patches that cover the image, and {image[0]} x {image[1]} pixels are no whole number of "
            f"patches of {patch[0]} x {patch[1]}: create the model with img_size a multiple of its patch size."
        )
    if config.size[0] > image[0] or config.size[1] > image[1]:
        raise UnsupportedModelError(
            f"masks are at most as large as the image, {image[0]} x {image[1]} pixels, got {config.size[0]} x "
            f"{config.size[1]}: upsample further outside."
        )
    return MaskHead(model.channels, model.grid, config)
