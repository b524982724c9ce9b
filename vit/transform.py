"""A bundle's resize, crop and normalisation as a torch transform: timm's, or with the crop that transformers makes."""

from dataclasses import asdict
from typing import Any

from PIL import Image
from timm.data.transforms_factory import create_transform

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
    crops = type(part).__name__ in ("CenterCrop", "CenterCropOrPad")  # torchvision's and timm's
    return FloorCrop(height, width) if crops else part


class FloorCrop:
    """Crop the centre; an odd margin is rounded down at the top and the left, as transformers' ``center_crop`` does."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, image: Image.Image) -> Image.Image:
        """The crop, with black borders where the image is smaller."""
        top, left = _margin(image.height, self.height), _margin(image.width, self.width)
        return image.crop((left, top, left + self.width, top + self.height))


def _margin(size: int, wanted: int) -> int:
    """Pixels that are cut off at the start of an axis; negative: added."""
    return (size - wanted) // 2 if size >= wanted else -((wanted - size) // 2)
