"""Versions of TensorRT: which way each goes from a graph to an engine, in one table, and facts of single versions.

TensorRT-RTX has its own version numbers and loads no plugins; its way stands beside the table.
Sources: TensorRT's release notes and headers (``include/`` of each tag of NVIDIA/TensorRT), and the ONNX parser's
operator tables and change log (onnx-tensorrt, branches 8.5-GA to 10.1-GA).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tokfilter.errors import EngineError

__all__ = [
    "IR_VERSION",
    "MAX_OPSET",
    "MAX_TOPK",
    "RTX_WAY",
    "SINCE",
    "WAYS",
    "Feature",
    "Way",
    "creation_flags",
    "supports",
    "version_of",
    "way_of",
]

IR_VERSION: Final = 10
"""Highest ONNX IR version that the parser of TensorRT 10.3, and its tools, read."""

MAX_OPSET: Final = 21
"""Last ONNX opset of that IR version."""

MAX_TOPK: Final = 3840
"""Largest K of TensorRT's TopK layer (NvInfer.h, ITopKLayer): the most tokens that native ops keep."""

Feature = Literal["plugin preferred to function", "TopkLastDim"]

SINCE: Final[Mapping[Feature, tuple[int, int]]] = {
    # Earlier ONNX parsers use a model-local function even where a plugin of the same name is loaded.
    "plugin preferred to function": (10, 7),
    # A plugin of NVIDIA's own library: TopK along the last axis.
    "TopkLastDim": (11, 0),
}
"""Feature -> first TensorRT version (major, minor) that has it."""


@dataclass(frozen=True)
class Way:
    """How engines are built with one range of versions.

    name: for messages and the manifest
    first, last: (major, minor), both included
    graph: "typed": the export's graphs as they are. "tensorrt-8.5", "tensorrt-8.6": rewritten by
        ``export/tensorrt8.py`` for these parsers
    plugin: interface of TokenSelect's plugin; None where the engine loads no plugins
    network: flag of ``create_network``
    precision: "types": from the graph's types alone. "layers": fp16 where the builder finds it faster, from an fp32
        graph, except for the layers that are named
    python: whether this package builds with it; else trtexec does (docs/tensorrt-8.md)
    """

    name: str
    first: tuple[int, int]
    last: tuple[int, int]
    graph: Literal["typed", "tensorrt-8.5", "tensorrt-8.6"]
    plugin: Literal["IPluginV2DynamicExt", "IPluginV3"] | None
    network: Literal["EXPLICIT_BATCH", "STRONGLY_TYPED"]
    precision: Literal["types", "layers"]
    python: bool = True


_LATEST: Final = 10**6

WAYS: Final = (
    Way("8.5", (8, 5), (8, 5), "tensorrt-8.5", "IPluginV2DynamicExt", "EXPLICIT_BATCH", "layers", python=False),
    Way("8.6", (8, 6), (8, 6), "tensorrt-8.6", "IPluginV2DynamicExt", "EXPLICIT_BATCH", "layers"),
    Way("10.3 to 10.16", (10, 3), (10, _LATEST), "typed", "IPluginV3", "STRONGLY_TYPED", "types"),
    Way("11.0 and later", (11, 0), (_LATEST, _LATEST), "typed", "IPluginV3", "STRONGLY_TYPED", "types"),
)
"""TensorRT's versions and their ways. Between 8.6 and 10.3 nothing was tried, and no JetPack has such a version."""

RTX_WAY: Final = Way("TensorRT-RTX", (1, 7), (_LATEST, _LATEST), "typed", None, "STRONGLY_TYPED", "types")
"""The way of TensorRT-RTX."""


def version_of(module: Any) -> tuple[int, int]:
    """(major, minor) of a TensorRT module."""
    major, minor = module.__version__.split(".")[:2]
    return int(major), int(minor)


def way_of(module: Any) -> Way:
    """The way of this TensorRT or TensorRT-RTX. Raises EngineError for a version that has none."""
    if getattr(module, "__name__", "") == "tensorrt_rtx":
        return RTX_WAY
    version = version_of(module)
    for way in WAYS:
        if way.first <= version <= way.last:
            return way
    raise EngineError(
        f"TensorRT {module.__version__} is not supported: expected {', '.join(way.name for way in WAYS)}. Install one "
        "of these (on a Jetson the version comes with JetPack: 5.1 has 8.5, 6.0 has 8.6, 6.1 and later 10.3 or later)."
    )


def supports(module: Any, feature: Feature) -> bool:
    """Whether this TensorRT (not TensorRT-RTX) has a feature."""
    return version_of(module) >= SINCE[feature]


def creation_flags(module: Any) -> int:
    """Flags of ``create_network``: a batch dimension in the shapes (8.x), or strong types (later versions).

    TensorRT 11 types every network strongly, and may drop the flag.
    """
    flag = getattr(module.NetworkDefinitionCreationFlag, way_of(module).network, None)
    return 0 if flag is None else 1 << int(flag)
