"""Differences between versions of TensorRT. Supported: 10.3 (JetPack 6) to 11.4; TensorRT-RTX from 1.7.

TensorRT-RTX has its own version numbers and loads no plugins, so none of these facts applies to it.
Sources: TensorRT's release notes, and the change log of its ONNX parser (onnx-tensorrt).
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

__all__ = ["IR_VERSION", "MAX_OPSET", "SINCE", "Feature", "creation_flags", "supports"]

IR_VERSION: Final = 10
"""Highest ONNX IR version that the parser of TensorRT 10.3, and its tools, read."""

MAX_OPSET: Final = 21
"""Last ONNX opset of that IR version."""

Feature = Literal["plugin preferred to function", "TopkLastDim"]

SINCE: Final[Mapping[Feature, tuple[int, int]]] = {
    # Earlier ONNX parsers use a model-local function even where a plugin of the same name is loaded.
    "plugin preferred to function": (10, 7),
    # A plugin of NVIDIA's own library: TopK along the last axis.
    "TopkLastDim": (11, 0),
}
"""Feature -> first TensorRT version (major, minor) that has it."""


def supports(module: Any, feature: Feature) -> bool:
    """Whether this TensorRT (not TensorRT-RTX) has a feature."""
    major, minor = module.__version__.split(".")[:2]
    return (int(major), int(minor)) >= SINCE[feature]


def creation_flags(module: Any) -> int:
    """Flags of a strongly typed network. TensorRT 11 types every network strongly and may drop the flag."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)
