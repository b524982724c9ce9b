"""The form in which an exported model takes images: normalised floats, or 8-bit pixels that its graph normalises.

The arithmetic stands here once, in fp32 and in timm's order: ``(pixel / 255 - mean) / std``. Graphs with 8-bit input
have the same operations, so both forms of one model give the same bits on a CPU.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = [
    "INPUT_FORMS",
    "InputForm",
    "Pixels",
    "in_form",
    "input_shape",
    "normalise",
    "pixels_from_input",
    "pixels_from_normalised",
]

InputForm = Literal["float", "uint8", "uint8-nhwc"]
"""float: [B, 3, H, W] float32, normalised; uint8: [B, 3, H, W]; uint8-nhwc: [B, H, W, 3], as decoders give them."""

INPUT_FORMS: Final[tuple[InputForm, ...]] = get_args(InputForm)

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def normalise(pixels: Pixels, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Pixels [..., 3, H, W] in 0..255 as the backbone takes them; mean and std for pixels in 0..1."""
    shift, scale = _per_channel(mean), _per_channel(std)
    result: Floats = (pixels.astype(np.float32) / np.float32(255) - shift) / scale
    return np.ascontiguousarray(result)


def pixels_from_normalised(images: Floats, mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """The nearest pixels to normalised images [..., 3, H, W]: inverse of ``normalise``."""
    shift, scale = _per_channel(mean), _per_channel(std)
    pixels: Pixels = np.clip(np.rint((images * scale + shift) * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def in_form(images: Floats, form: InputForm, mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[Any]:
    """Normalised images [..., 3, H, W] as a model with this form takes them."""
    if form == "float":
        return images
    pixels = pixels_from_normalised(images, mean, std)
    return np.ascontiguousarray(np.moveaxis(pixels, -3, -1)) if form == "uint8-nhwc" else pixels


def pixels_from_input(images: npt.NDArray[Any], form: InputForm, mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """Pixels [..., 3, H, W] of what a model with this form takes: inverse of ``in_form``, rounded."""
    if form == "float":
        return pixels_from_normalised(images.astype(np.float32, copy=False), mean, std)
    return np.ascontiguousarray(np.moveaxis(images, -1, -3)) if form == "uint8-nhwc" else images


def input_shape(form: InputForm, input_size: Sequence[int]) -> tuple[int, int, int]:
    """Shape of one image; input_size: (3, H, W)."""
    channels, height, width = input_size
    return (height, width, channels) if form == "uint8-nhwc" else (channels, height, width)


def _per_channel(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float32)[:, None, None]
