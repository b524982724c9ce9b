"""From an image to the model's input with numpy and Pillow only: the same pixels as timm's evaluation transform.

Source of every rule: ``transforms_imagenet_eval`` in timm's ``data/transforms_factory.py``, and the resize and crop of
torchvision that it uses; for the crop modes with -floor, ``center_crop`` in transformers' ``image_transforms.py``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokfilter.artifacts.manifest import ModelCard
from tokfilter.artifacts.pixels import InputForm, normalise, pixels_from_input
from tokfilter.errors import DataError

__all__ = ["Array", "Preprocess", "preprocess_from_card", "preprocess_from_fields"]

Array = npt.NDArray[Any]
CropMode = Literal["center", "squash", "border", "center-floor", "squash-floor"]

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
_MARGIN: Final = 2
_MAX_PIXELS: Final = 100_000_000  # 300 MB of RGB


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing in timm's terms.

    height, width: of the input, in pixels
    mean, std: per channel, for pixels in 0..1
    interpolation: one of Pillow's filters
    crop_pct: input size over the size that the image is resized to
    crop_mode: center (shortest edge fitted), squash (both edges), border (longest edge, the rest filled with the mean);
        center-floor, squash-floor: the same, but an odd margin is rounded down instead of to the even half
    form: of the model's input: normalised floats, or pixels that the graph normalises
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"
    form: InputForm = "float"

    def reduction(self, width: int, height: int) -> int:
        """By how much (8, 4, 2 or 1) a JPEG file may be reduced while it is decoded, by libjpeg's scaled transform.

        The reduced image has whole numbers of pixels, so that nothing shifts, and is still twice as large as the size
        that it is resized to, so that the filter of the resize decides what detail is left.
        """
        for scale in (8, 4, 2):
            if width % scale == 0 and height % scale == 0:
                sizes = ((height, width), (width, height))  # stored upright, or on its side
                if all(
                    _MARGIN * edge <= stored // scale
                    for size in sizes
                    for edge, stored in zip(self._resized(*size), size, strict=True)
                ):
                    return scale
        return 1

    def view(self, image: Image.Image) -> Image.Image:
        """An RGB image resized and cropped to height x width, not yet normalised.

        Raises DataError for a strip so long that resizing its short edge would exhaust the memory.
        """
        high, wide = self._resized(image.height, image.width)
        if high * wide > _MAX_PIXELS:
            raise DataError(
                f"an image of {image.width} x {image.height} pixels is too elongated: resized it would have "
                f"{high * wide / 1e6:.0f} million pixels. Crop it to the part to be classified."
            )
        # The whole image is resized before the crop: Pillow's `box` is faster, but differs by some grey levels.
        resized = image.resize((wide, high), _FILTERS[self.interpolation])
        fill = tuple(round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        canvas = Image.new("RGB", (self.width, self.height), fill)
        floor = self.crop_mode.endswith("-floor")
        canvas.paste(resized, (_offset(wide, self.width, floor), _offset(high, self.height, floor)))
        return canvas

    def input_from_view(self, view: Image.Image) -> Array:
        """The model's input for a view: [3, height, width] float32, normalised; or the pixels, in ``form``."""
        pixels = np.asarray(view, dtype=np.uint8)
        if self.form == "uint8-nhwc":
            return np.ascontiguousarray(pixels)
        pixels = pixels.transpose(2, 0, 1)
        return normalise(pixels, self.mean, self.std) if self.form == "float" else np.ascontiguousarray(pixels)

    def view_from_input(self, image: Array) -> Image.Image:
        """Inverse of ``input_from_view``."""
        pixels = pixels_from_input(image, self.form, self.mean, self.std)
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))

    def __call__(self, image: Image.Image) -> Array:
        """The model's input for an RGB image, as ``input_from_view`` returns it."""
        return self.input_from_view(self.view(image))

    def _resized(self, high: int, wide: int) -> tuple[int, int]:
        """Size (height, width) of the whole image after the resize that precedes the crop."""
        scale = math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)
        mode = self.crop_mode.removesuffix("-floor")
        if mode == "squash":
            return scale
        if mode == "center" and scale[0] == scale[1]:
            # torchvision truncates the longer edge here; timm rounds it everywhere else.
            edge = scale[0]
            return (int(edge * high / wide), edge) if wide <= high else (edge, int(edge * wide / high))
        ratios = high / scale[0], wide / scale[1]
        ratio = max(ratios) if mode == "border" else min(ratios)
        return max(1, round(high / ratio)), max(1, round(wide / ratio))


def _offset(resized: int, wanted: int, floor: bool) -> int:
    """Start of the resized image on the canvas along an axis: negative when it is cropped."""
    if resized < wanted:
        return (wanted - resized) // 2
    return -((resized - wanted) // 2) if floor else -round((resized - wanted) / 2)


def preprocess_from_card(card: ModelCard) -> Preprocess:
    """The preprocessing of an exported model, in the form that its graphs take. Raises DataError."""
    return replace(preprocess_from_fields({**card.preprocessing, "input_size": card.input_size}), form=card.input)


def preprocess_from_fields(fields: Mapping[str, Any]) -> Preprocess:
    """Read the preprocessing of a bundle or manifest: input_size (3, H, W), mean, std and, when there, the rest.

    Raises DataError.
    """
    try:
        channels, height, width = (int(size) for size in fields["input_size"])
        mean, std = (tuple(float(value) for value in fields[name]) for name in ("mean", "std"))
        interpolation, mode = str(fields.get("interpolation", "bicubic")), str(fields.get("crop_mode", "center"))
        crop_pct = float(fields.get("crop_pct", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"preprocessing must have input_size, mean and std, got {dict(fields)} ({error!r}).") from error
    numbers_fit = min(height, width) >= 1 and 0 < crop_pct <= min(height, width)  # false for NaN too
    if channels != 3 or len(mean) != 3 or len(std) != 3 or 0 in std or not numbers_fit:
        raise DataError(f"preprocessing needs three channels, and a size and crop_pct above 0, got {dict(fields)}.")
    for name, value, allowed in (
        ("interpolation", interpolation, tuple(_FILTERS)),
        ("crop_mode", mode, get_args(CropMode)),
    ):
        if value not in allowed:
            raise DataError(f"preprocessing: {name} must be one of {', '.join(allowed)}, got {value!r}.")
    return Preprocess(height, width, mean, std, interpolation, crop_pct, cast(CropMode, mode))
