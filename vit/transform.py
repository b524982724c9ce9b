"""The resize, crop and normalisation of a bundle as a torch transform: timm's, with transformers' rounding where asked."""

from dataclasses import asdict
from typing import Any

import torchvision.transforms.functional as F  # noqa: N812
from PIL import Image
from timm.data.transforms import CenterCropOrPad
from timm.data.transforms_factory import create_transform
from torchvision.transforms import CenterCrop

from tokfilter.artifacts.bundle import Preprocessing

__all__ = ["transform_from_preprocessing"]


def transform_from_preprocessing(preprocessing: Preprocessing, normalize: bool = True) -> Any:
    """A callable from an RGB image to [3, H, W]: float32, normalised; or uint8 without normalisation."""
    fields = asdict(preprocessing)
    mode = fields.pop("crop_mode")
    transform: Any = create_transform(
        **fields, crop_mode=mode.removesuffix("-floor"), is_training=False, normalize=normalize
    )
    if mode.endswith("-floor"):
        transform.transforms = [_with_floor(part, preprocessing) for part in transform.transforms]
    return transform


def _with_floor(part: Any, preprocessing: Preprocessing) -> Any:
    _, height, width = preprocessing.input_size
    return FloorCrop(height, width) if isinstance(part, CenterCrop | CenterCropOrPad) else part


class FloorCrop:
    """Crop the centre; an odd margin is rounded down at the top and the left, as transformers' ``center_crop`` does."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, image: Image.Image) -> Image.Image:
        """The crop, with black borders where the image is smaller."""
        top, left = _margin(image.height, self.height), _margin(image.width, self.width)
        cropped: Image.Image = F.crop(image, top, left, self.height, self.width)
        return cropped


def _margin(size: int, wanted: int) -> int:
    """Pixels that are cut off at the start of an axis; negative: added."""
    return (size - wanted) // 2 if size >= wanted else -((wanted - size) // 2)
