"""transformers' ``preprocessor_config.json`` as timm's preprocessing, with the same pixels.

Sources: ``image_processing_{vit, deit, bit, clip, siglip}.py``, ``image_processing_backends.py`` of transformers 5.24.
The resize is Pillow's, as in transformers' PIL processors; its torchvision processors differ from it by a grey level.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tokfilter.errors import UnsupportedModelError
from tokfilter.train.checkpoint.fields import Fields, read_json

__all__ = ["PROCESSORS", "RESAMPLE", "preprocessing_from_folder"]

_HALF: Final = [0.5, 0.5, 0.5]
_CLIP_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD: Final = [0.26862954, 0.26130258, 0.27577711]
_COMMON: Final = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_CROPPED: Final = {**_COMMON, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
_SQUARE: Final = {"size": {"height": 224, "width": 224}}
_CLIP: Final = {
    **_CROPPED,
    "resample": 3,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
    "size": {"shortest_edge": 224},
}

PROCESSORS: Final = {
    "ViT": {**_COMMON, **_SQUARE, "resample": 2, "image_mean": _HALF, "image_std": _HALF},
    "DeiT": {
        **_CROPPED,
        "resample": 3,
        "image_mean": _HALF,
        "image_std": _HALF,
        "size": {"height": 256, "width": 256},
    },
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "Siglip": {**_COMMON, **_SQUARE, "resample": 3, "image_mean": _HALF, "image_std": _HALF},
}
"""Image processors that are known, with their defaults."""

_SHORT_EDGE: Final = ("Bit", "CLIP", "Siglip")
"""Processors that take a single number as the length of the shorter edge (``default_to_square = False``)."""

RESAMPLE: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""timm's names in the order of Pillow's numbers."""

_REFUSED: Final = (
    "do_pad",
    "do_flip_channel_order",
    "do_thumbnail",
    "do_align_long_axis",
    "use_square_size",
    "crop_pct",
)


def preprocessing_from_folder(folder: Path) -> dict[str, Any]:
    """timm's fields: input_size (3, H, W), mean, std, interpolation, crop_pct and crop_mode.

    Raises DataError for an absent or unsound file, UnsupportedModelError for steps that timm's preprocessing has not.
    """
    fields = _file(folder)
    kind = _kind(fields)
    fields = fields.with_defaults(PROCESSORS[kind])
    for key in _REFUSED:
        if fields.values.get(key) not in (None, False):
            raise UnsupportedModelError(f"{fields.source}: {key} cannot be expressed in timm's preprocessing.")
    mean, std = _normalisation(fields)
    return {**_geometry(fields, kind), "mean": mean, "std": std, "interpolation": _interpolation(fields)}


def _file(folder: Path) -> Fields:
    path, joint = folder / "preprocessor_config.json", folder / "processor_config.json"
    if not path.is_file() and joint.is_file():
        return read_json(joint, "a processor's configuration").part("image_processor")
    return read_json(path, "an image processor's configuration (preprocessor_config.json)")


def _kind(fields: Fields) -> str:
    name = fields.text("image_processor_type") or fields.text("feature_extractor_type")
    stem = name
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        stem = stem.removesuffix(ending)
    if stem not in PROCESSORS or name == stem:
        known = ", ".join(f"{kind}ImageProcessor" for kind in PROCESSORS)
        raise UnsupportedModelError(
            f"{fields.source}: image_processor_type must be one of {known}, got {name[:100]!r}. Give --mean, --std, "
            "--interpolation, --input-size, --crop-pct and --crop-mode, which replace the file."
        )
    return stem


def _interpolation(fields: Fields) -> str:
    return RESAMPLE[fields.count("resample", 0, len(RESAMPLE) - 1)]


def _normalisation(fields: Fields) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels in 0..1; a rescale factor other than 1 / 255 is carried into them."""
    factor = fields.number("rescale_factor", 0, 1e6) if fields.flag("do_rescale", True) else 1.0
    normalise = fields.flag("do_normalize", True)
    mean = fields.triple("image_mean", -1e6, 1e6) if normalise else (0.0, 0.0, 0.0)
    std = fields.triple("image_std", 1e-6, 1e6) if normalise else (1.0, 1.0, 1.0)
    scale = 1.0 if math.isclose(factor * 255, 1, rel_tol=1e-9) else factor * 255
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def _geometry(fields: Fields, kind: str) -> dict[str, Any]:
    if not fields.flag("do_resize", True):
        raise UnsupportedModelError(f"{fields.source}: do_resize must be true: the model takes images of one size.")
    edges = _edges(fields, kind)
    crops = fields.flag("do_center_crop")
    crop = _crop(fields) if crops else None
    if len(edges) == 1:
        if crop is None or crop[0] != crop[1] or crop[0] > edges[0]:
            raise UnsupportedModelError(
                f"{fields.source}: after a resize of the shorter edge to {edges[0]} expected do_center_crop to a "
                f"square of at most that size, got {crop or 'no crop'}."
            )
        return {"input_size": (3, *crop), "crop_pct": _fraction(fields, crop, edges * 2), "crop_mode": "center-floor"}
    if crop is None:
        return {"input_size": (3, *edges), "crop_pct": 1.0, "crop_mode": "squash"}
    margins = [edge - side for edge, side in zip(edges, crop, strict=True)]
    if min(margins) < 0:
        raise UnsupportedModelError(f"{fields.source}: crop_size {crop} must fit into size {edges}.")
    # timm rounds half a margin to the even number, so only margins of 3, 7, 11 ... differ.
    mode = "squash-floor" if any(margin % 4 == 3 for margin in margins) else "squash"
    return {"input_size": (3, *crop), "crop_pct": _fraction(fields, crop, edges), "crop_mode": mode}


def _edges(fields: Fields, kind: str) -> tuple[int, ...]:
    """(shortest edge,) or (height, width)."""
    size = fields.values["size"]
    if not isinstance(size, Mapping):
        sides = fields.pair("size", 1, 4096)
        return sides[:1] if kind in _SHORT_EDGE and not isinstance(size, list) else sides
    part = fields.part("size")
    if set(size) == {"shortest_edge"}:
        return (part.count("shortest_edge", 1, 4096),)
    if set(size) == {"height", "width"}:
        return part.count("height", 1, 4096), part.count("width", 1, 4096)
    raise UnsupportedModelError(
        f"{fields.source}: size must be a number, height and width, or shortest_edge, got "
        f"{sorted(map(str, size))!r:.100}."
    )


def _crop(fields: Fields) -> tuple[int, int]:
    if not isinstance(fields.values["crop_size"], Mapping):
        return fields.pair("crop_size", 1, 4096)
    part = fields.part("crop_size")
    return part.count("height", 1, 4096), part.count("width", 1, 4096)


def _fraction(fields: Fields, crop: tuple[int, int], edges: tuple[int, ...]) -> float:
    """The crop_pct from which ``floor(side / crop_pct)`` gives exactly the edges."""
    for fraction in (crop[0] / edges[0], crop[1] / edges[1], crop[0] / (edges[0] + 0.5), crop[1] / (edges[1] + 0.5)):
        if all(math.floor(side / fraction) == edge for side, edge in zip(crop, edges, strict=True)):
            return fraction
    raise UnsupportedModelError(
        f"{fields.source}: crop_size {crop} and size {edges} must have one ratio for height and width."
    )
