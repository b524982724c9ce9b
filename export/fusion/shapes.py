"""Types and shapes of a foreign graph, symbols included, and the sizes at which its fragments are run."""

import logging
import math
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Final

import onnx
import onnx.shape_inference
import onnx_ir as ir

from tokfilter.errors import MissingDependencyError

__all__ = ["Shapes", "Sizes"]

Sizes = Mapping[str, int]
"""A number for every symbolic dimension."""

_LIGHT_BYTES: Final = 1024  # larger initializers hold weights, whose values no shape depends on
_OTHER_SIZES: Final = (8, 16, 32, 64, 96, 128, 192, 224, 256, 384, 448, 512)


class Shapes:
    """Inferred types and shapes of a model's tensors; the model is not changed.

    ONNX's own inference cannot compute the shape arithmetic of the TorchScript exporter (Expand by a Where over
    ConstantOfShape); ONNX Runtime's symbolic inference can, so it is tried first.
    """

    def __init__(self, model: ir.Model) -> None:
        graph = ir.serde.deserialize_model(_inferred(_light_proto(model))).graph
        self._known = dict(ir.convenience.create_value_mapping(graph, include_subgraphs=False))
        self._free = _symbols(dim for value in graph.inputs for dim in value.shape or ())

    def dims(self, value: ir.Value) -> tuple[int | ir.SymbolicDim, ...] | None:
        """The dimensions of ``value``, or None when not even its rank is known."""
        shape = self._known.get(value.name or "", value).shape
        return None if shape is None else tuple(shape)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The element type of ``value``, or None when unknown."""
        return self._known.get(value.name or "", value).dtype or value.dtype

    def record(self, value: ir.Value, like: ir.Value, rows: int) -> None:
        """Record for the new ``value`` the type and shape of ``like`` [B, R, C] or [B, H, R, C], with R = ``rows``."""
        dims = self.dims(like)
        shape = None if dims is None else ir.Shape([*dims[:-2], rows, dims[-1]])
        type_ = self._known.get(like.name or "", like).type
        self._known[value.name or ""] = ir.Value(name=value.name, type=type_, shape=shape)

    def at(self, value: ir.Value, sizes: Sizes) -> tuple[int, ...] | None:
        """The shape of ``value`` at ``sizes``, or None when a dimension stays unknown."""
        numbers = [_evaluated(dim, sizes) for dim in self.dims(value) or (None,)]
        return None if None in numbers else tuple(number for number in numbers if number is not None)

    def probe_sizes(self, tokens: ir.Value, scores: ir.Value, least: int) -> list[dict[str, int]]:
        """Sizes for probes: batches of 2 and 3 where the batch is free, two values of at least ``least`` where N is.

        tokens: [B, R, C]
        scores: [B, N], or that with dimensions of 1
        """
        shapes = [self.dims(tokens) or (), self.dims(scores) or ()]
        batch = _symbols(dims[0] for dims in shapes if dims)
        others = (_symbols(dim for dims in shapes for dim in dims) | self._free) - batch
        two, three = dict.fromkeys(batch, 2), dict.fromkeys(batch, 3)
        lengths = [dict.fromkeys(others, size) for size in _OTHER_SIZES]
        enough = [rest for rest in lengths if self._patches(scores, {**rest, **two}) >= least] or lengths
        tried = [{**enough[0], **two}, {**enough[min(1, len(enough) - 1)], **three}]
        return tried if tried[0] != tried[1] else tried[:1]

    def _patches(self, scores: ir.Value, sizes: Sizes) -> int:
        return math.prod((self.at(scores, sizes) or (0, 0))[1:])


def _light_proto(model: ir.Model) -> onnx.ModelProto:
    """The model without its weights: large initializers become inputs, which inference treats alike."""
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _LIGHT_BYTES:
            del light.graph.initializers[name]
            if value not in light.graph.inputs:
                light.graph.inputs.append(value)
    return ir.serde.serialize_model(light)


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    symbolic = _symbolic_shape_infer()
    symbolic.logger.setLevel(logging.CRITICAL)
    try:
        known: onnx.ModelProto = symbolic.SymbolicShapeInference.infer_shapes(proto)
    except Exception:
        # It raises all kinds of errors for unknown operators. ONNX's own infers less.
        try:
            known = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except onnx.shape_inference.InferenceError:  # for nodes without their inputs
            known = proto
    return known


@cache
def _symbolic_shape_infer() -> Any:
    """onnxruntime.tools.symbolic_shape_infer, loaded without its package, which would import torch for seconds."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "tools"
    spec = PathFinder.find_spec("symbolic_shape_infer", [str(folder)])
    if spec is None or spec.loader is None:
        raise MissingDependencyError(
            f"fuse needs onnxruntime's symbolic shape inference; none in {folder}. Install another onnxruntime."
        )
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.onnx = _OnnxWithoutFiles()
    return module


class _OnnxWithoutFiles:
    """The package onnx for that module, which saves a model that it cannot infer into the working directory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(onnx, name)

    @staticmethod
    def save_model(*args: object, **kwargs: object) -> None:
        """Write nothing."""


def _symbols(dims: Iterable[Any]) -> set[str]:
    found: set[str] = set()
    for dim in dims:
        if isinstance(dim, ir.SymbolicDim):
            try:
                found |= dim.free_symbols()
            except ValueError:  # a name that is no expression, such as "batch size"
                found.add(str(dim.value))
    return found


def _evaluated(dim: int | ir.SymbolicDim | None, sizes: Sizes) -> int | None:
    if dim is None or isinstance(dim, int):
        return dim
    if dim.value is not None and dim.value in sizes:
        return sizes[dim.value]
    try:
        number = dim.evaluate(sizes)
    except ValueError:
        return None
    return number if isinstance(number, int) else None
