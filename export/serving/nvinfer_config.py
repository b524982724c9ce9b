"""The configuration file of DeepStream's Gst-nvinfer element, and how its preprocessing differs from timm's.

nvinfer computes ``y = net-scale-factor * (x - offsets[c])`` on pixels in 0..255 and resizes whole frames. timm computes
``(x / 255 - mean[c]) / std[c]`` on a resized and cropped image. So the mean is an offset, one std is the factor, and
the graph multiplies by what remains of the three stds (``Normalisation.rest``). ``differences`` lists what the resize
cannot do.

Sources: DeepStream's guide, page "Gst-nvinfer"
(https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html), and the element's own list of
keys, ``sources/gst-plugins/gst-nvinfer/gstnvinfer_property_parser.h`` of DeepStream 6 (later releases add to it).
"""

import configparser
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tokfilter.errors import DataError, ExportError

__all__ = [
    "KEYS",
    "STD_TOLERANCE",
    "Normalisation",
    "differences",
    "normalisation_from_card",
    "resize_keys",
    "text_from_keys",
]

# fmt: off
KEYS: Final = frozenset(
    (
        "gie-unique-id", "process-mode", "interval", "labelfile-path", "gpu-id", "secondary-reinfer-interval",
        "output-tensor-meta", "enable-dla", "use-dla-core", "batch-size", "tensor-meta-pool-size",
        "network-mode", "model-engine-file", "int8-calib-file", "workspace-size", "output-blob-names",
        "is-classifier", "network-type", "force-implicit-batch-dim", "infer-dims", "output-io-formats",
        "layer-device-precision", "model-color-format", "net-scale-factor", "offsets", "mean-file",
        "maintain-aspect-ratio", "symmetric-padding", "scaling-filter", "scaling-compute-hw",
        "network-input-order", "input-tensor-from-meta", "custom-lib-path", "parse-bbox-func-name",
        "parse-bbox-instance-mask-func-name", "engine-create-func-name", "parse-classifier-func-name",
        "custom-network-config", "model-file", "proto-file", "uff-file", "uff-input-order", "input-dims",
        "uff-input-dims", "uff-input-blob-name", "tlt-encoded-model", "tlt-model-key", "onnx-file",
        "num-detected-classes", "enable-dbscan", "cluster-mode", "classifier-type", "classifier-threshold",
        "classifier-async-mode", "segmentation-threshold", "segmentation-output-order",
        "output-instance-mask", "input-object-min-width", "input-object-min-height", "input-object-max-width",
        "input-object-max-height", "operate-on-gie-id", "operate-on-class-ids", "filter-out-class-ids",
        "parse-func",
    )
)
# fmt: on
"""Keys of the group [property], all of gstnvinfer_property_parser.h; others are ignored by nvinfer with a warning."""

STD_TOLERANCE: Final = 0.5 / 255
"""Stds within this relative difference count as equal: no pixel changes by more than half a grey level of 8 bits."""

# NvBufSurfTransform_Inter on the GPU: 0 nearest, 1 bilinear, 2 cubic, 3 super, 4 Lanczos (nvbufsurftransform.h).
_FILTERS: Final = {"nearest": 0, "bilinear": 1, "bicubic": 2, "box": 3, "hamming": 3, "lanczos": 4}


@dataclass(frozen=True)
class Normalisation:
    """nvinfer's arithmetic for a model.

    factor: net-scale-factor
    offsets: [3]
    rest: [3], the remaining factor of each channel; None where one factor is enough
    """

    factor: float
    offsets: tuple[float, ...]
    rest: npt.NDArray[np.float32] | None


def normalisation_from_card(preprocessing: Mapping[str, Any]) -> Normalisation:
    """Split a bundle's mean and std into nvinfer's settings and the graph's factors. Raises DataError."""
    try:
        mean, std = (np.array(preprocessing[name], dtype=np.float64) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"preprocessing must have mean and std, got {dict(preprocessing)}. Export again.") from error
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise DataError(
            f"nvinfer needs a mean and a positive std for each of three channels, got {dict(preprocessing)}."
        )
    common = float(np.exp(np.log(std).mean()))
    rest = common / std
    alike = float(np.abs(rest - 1).max()) <= STD_TOLERANCE
    offsets = tuple(float(value) for value in 255 * mean)
    return Normalisation(1 / (255 * common), offsets, None if alike else rest.astype(np.float32))


def resize_keys(preprocessing: Mapping[str, Any]) -> dict[str, str]:
    """nvinfer's settings that resize a frame most nearly as the model's preprocessing does."""
    border = preprocessing.get("crop_mode", "center") == "border"
    return {
        "maintain-aspect-ratio": str(int(border)),
        "symmetric-padding": str(int(border)),
        "scaling-filter": str(_filter(preprocessing)[1]),
        "scaling-compute-hw": "1",
    }


def _filter(preprocessing: Mapping[str, Any]) -> tuple[str, int]:
    name = str(preprocessing.get("interpolation", "bicubic"))
    if name not in _FILTERS:
        raise DataError(f"interpolation must be one of {', '.join(_FILTERS)}, got {name!r}.")
    return name, _FILTERS[name]


def differences(preprocessing: Mapping[str, Any]) -> list[str]:
    """Messages on what the model's preprocessing does and nvinfer cannot."""
    mode, fraction = preprocessing.get("crop_mode", "center"), float(preprocessing.get("crop_pct", 1.0))
    name, filter_ = _filter(preprocessing)
    found = [f"Pillow's {name} filter uses all pixels when it shrinks an image; nvinfer's filter {filter_} does not."]
    if mode in ("center", "center-floor"):
        found.append(
            "The model resizes the short edge and crops the centre; nvinfer resizes the whole frame. Crop the "
            "frame before it (nvvideoconvert src-crop, or nvdspreprocess) where its shape is not the model's."
        )
    if mode == "border":
        found.append("The model pads borders with its mean colour; nvinfer pads with black.")
    if fraction < 1:
        found.append(f"The model gets the inner {fraction:g} of each edge; nvinfer gives it the whole.")
    return found


def text_from_keys(keys: Mapping[str, str], remarks: list[str]) -> str:
    """The file's text, read back before it is returned. Raises ExportError for an unknown key."""
    unknown = sorted(set(keys) - KEYS)
    if unknown:
        raise ExportError(f"nvinfer has no keys {', '.join(unknown)}.")
    lines = [*(f"# {remark}" for remark in remarks), "[property]", *(f"{key}={value}" for key, value in keys.items())]
    text = "\n".join(lines) + "\n"
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.read_string(text)
    if dict(parser["property"]) != dict(keys):
        raise ExportError("a value of the nvinfer configuration reads back differently: does it hold a line break?")
    return text
