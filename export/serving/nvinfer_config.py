"""The configuration file of DeepStream's Gst-nvinfer element: which of timm's preprocessing it can say, and which not.

nvinfer computes ``y = net-scale-factor * (x - offsets[c])`` on pixels in 0..255 and resizes whole frames. timm computes
``(x / 255 - mean[c]) / std[c]`` on a resized and cropped image. So the mean is an offset, one std is the factor, and
what the three stds differ by is left for the graph to multiply (``Normalisation.rest``). What the resize cannot say is
put into words (``differences``).

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
"""Stds nearer than this share count as one: no pixel moves by more than the half grey level that 8 bits round away."""

# NvBufSurfTransform_Inter on the GPU: 0 nearest, 1 bilinear, 2 cubic, 3 super, 4 Lanczos (nvbufsurftransform.h).
_FILTERS: Final = {"nearest": 0, "bilinear": 1, "bicubic": 2, "box": 3, "hamming": 3, "lanczos": 4}


@dataclass(frozen=True)
class Normalisation:
    """nvinfer's arithmetic for a model.

    factor: net-scale-factor
    offsets: [3]
    rest: [3], what each channel is still to be multiplied with; None where one factor serves all three
    """

    factor: float
    offsets: tuple[float, ...]
    rest: npt.NDArray[np.float32] | None


def normalisation_from_card(preprocessing: Mapping[str, Any]) -> Normalisation:
    """Split a bundle's mean and std into what nvinfer says and what the graph has to do. Raises DataError."""
    try:
        mean, std = (np.array(preprocessing[name], dtype=np.float64) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"preprocessing wants mean and std, got {dict(preprocessing)}.") from error
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise DataError(
            f"nvinfer wants a mean and a positive std for each of three channels, got {dict(preprocessing)}."
        )
    common = float(np.exp(np.log(std).mean()))
    rest = common / std
    alike = float(np.abs(rest - 1).max()) <= STD_TOLERANCE
    offsets = tuple(float(value) for value in 255 * mean)
    return Normalisation(1 / (255 * common), offsets, None if alike else rest.astype(np.float32))


def resize_keys(preprocessing: Mapping[str, Any]) -> dict[str, str]:
    """How nvinfer is to resize a frame: as near to the model's own way as it can."""
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
        raise DataError(f"preprocessing wants interpolation to be one of {', '.join(_FILTERS)}, got {name!r}.")
    return name, _FILTERS[name]


def differences(preprocessing: Mapping[str, Any]) -> list[str]:
    """What the model's own preprocessing does and nvinfer cannot say, in sentences."""
    mode, share = preprocessing.get("crop_mode", "center"), float(preprocessing.get("crop_pct", 1.0))
    name, filter_ = _filter(preprocessing)
    found = [f"Pillow's {name} filter looks at all pixels when it shrinks; nvinfer's filter {filter_} does not."]
    if mode == "center":
        found.append(
            "The model wants the short edge fitted and the centre cut out; nvinfer squeezes the whole frame. Cut the "
            "frame before it (nvvideoconvert src-crop, or nvdspreprocess) where its shape is not the model's."
        )
    if mode == "border":
        found.append("The model wants borders in its mean colour; nvinfer's are black.")
    if share < 1:
        found.append(f"The model sees the inner {share:g} of each edge; nvinfer shows it the whole.")
    return found


def text_from_keys(keys: Mapping[str, str], remarks: list[str]) -> str:
    """The file's text, read back before it is returned. Raises ExportError for a key that nvinfer does not know."""
    unknown = sorted(set(keys) - KEYS)
    if unknown:
        raise ExportError(f"nvinfer knows no keys {', '.join(unknown)}.")
    lines = [*(f"# {remark}" for remark in remarks), "[property]", *(f"{key}={value}" for key, value in keys.items())]
    text = "\n".join(lines) + "\n"
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.read_string(text)
    if dict(parser["property"]) != dict(keys):
        raise ExportError("a value of the nvinfer configuration does not survive being written: it holds a line break?")
    return text
