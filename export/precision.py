"""Cast a graph to fp16 or bf16: since TensorRT 11 an engine takes its types from the graph only.

These stay fp32:

* everything up to the scores of a filter before the blocks. An error there changes **which** tokens are kept; in fp32
  every precision keeps the same ones. The patch embedding and the filter are 1 to 3 % of the MACs. Scores from inside
  the blocks have the precision of the blocks.
* layer norms and sums over tokens: their squares and sums exceed fp16's range and bf16's digits.
* the inputs and outputs of the graph.
* the nodes that a caller names: those that overflow or lose too many digits (``fp32_search`` finds them).

Everything else, weights included, is fp16 or bf16. Softmax is too: the matrix products around it round its input and
output in any case, engines accumulate inside it in fp32, and fused attention needs it between two low-precision
products (TensorRT documentation, "Fused Attention").

A pass over the graph takes milliseconds where another trace takes half a minute, and is the same for both types.
Libraries that were considered: onnxconverter-common has no bf16, NVIDIA's AutoCast needs calibration data and a dozen
packages, and neither keeps the scores in fp32 and the logits not.
"""

from collections.abc import Collection
from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.errors import ExportError
from tokfilter.export.functions import select_nodes
from tokfilter.kernels.op import NAME

__all__ = ["LOW_TYPES", "ancestors", "cast_precision", "retype", "scoring_nodes", "with_fp32_nodes"]

LOW_TYPES: Final = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

_NUMPY: Final = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}

_WIDE_OPS: Final = {
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "ReduceL1",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "RMSNormalization",
}


def cast_precision(slots_graph: ir.Model, precision: str, fp32: Collection[str] = ()) -> ir.Model:
    """A copy of a traced fp32 graph (the slots form) in ``precision``. Raises ExportError.

    The other forms are made from it, so that they share its types.

    fp32: names of further nodes that stay fp32
    """
    graph = slots_graph.clone()
    if precision == "fp32":
        return graph
    passes.ShapeInferencePass()(graph)
    _CastPass(graph.graph, precision).apply(scoring_nodes(graph) | _named(graph, fp32))
    passes.RemoveUnusedNodesPass()(graph)
    return graph


def with_fp32_nodes(graph: ir.Model, precision: str, fp32: Collection[str]) -> ir.Model:
    """A copy of a cast graph, in any form, in which further nodes are fp32: those whose names are given.

    For where the fp32 graph is not at hand. Weights of these nodes keep the digits that the cast left them.
    """
    wide = graph.clone()
    passes.ShapeInferencePass()(wide)
    were_fp32 = _uncast(wide.graph, LOW_TYPES[precision])
    _CastPass(wide.graph, precision).apply(were_fp32 | _named(wide, fp32))
    passes.RemoveUnusedNodesPass()(wide)
    return wide


class _CastPass:
    """One pass from inputs to outputs. Every value is fp32 or low; a Cast is inserted where the other is needed."""

    def __init__(self, graph: ir.Graph, precision: str) -> None:
        self.graph = graph
        self.precision = precision
        self.low = LOW_TYPES[precision]
        self.other: dict[ir.Value, ir.Value] = {}

    def apply(self, wide: set[ir.Node]) -> None:
        """Cast every node; those in ``wide``, and layer norms and sums, are fp32."""
        for node in list(self.graph):
            if node.op_type == NAME and node not in wide:
                self._take(node, 0, self.low)
                retype(node.outputs[0], self.low)
                continue
            kind = ir.DataType.FLOAT if node in wide or node.op_type in _WIDE_OPS else self.low
            if any(value is not None and value.dtype in (ir.DataType.FLOAT, self.low) for value in node.inputs):
                for position in range(len(node.inputs)):
                    self._take(node, position, kind)
                for output in node.outputs:
                    if output.dtype == ir.DataType.FLOAT:
                        retype(output, kind)
        for position, output in enumerate(self.graph.outputs):
            if output.dtype == self.low:
                self.graph.outputs[position] = self._widened_output(output)

    def _take(self, node: ir.Node, position: int, kind: ir.DataType) -> None:
        """Give input ``position`` of ``node`` the type ``kind``."""
        value = node.inputs[position]
        if value is None or value.dtype == kind or value.dtype not in (ir.DataType.FLOAT, self.low):
            return
        if value not in self.other:
            self.other[value] = self._rounded_weight(value) if value.is_initializer() else self._cast(value, kind)
        node.replace_input_with(position, self.other[value])

    def _cast(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        name = f"{value.name}_{'fp32' if kind == ir.DataType.FLOAT else self.precision}"
        cast = ir.node("Cast", [value], {"to": kind}, name=f"{name}/Cast")
        _describe(cast.outputs[0], name, kind, value.shape)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], cast)
        else:
            self.graph.insert_after(producer, cast)
        return cast.outputs[0]

    def _rounded_weight(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        wide = value.const_value.numpy()
        with np.errstate(over="ignore"):
            low = wide.astype(_NUMPY[self.precision])
        if not np.isfinite(low.astype(np.float32)).all():
            raise ExportError(
                f"{value.name} holds weights up to {np.abs(wide).max():.3g}, beyond {self.precision}. Use bf16."
            )
        rounded = ir.Value(name=f"{value.name}_{self.precision}")
        rounded.const_value = ir.tensor(low, dtype=self.low, name=rounded.name)
        self.graph.register_initializer(rounded)
        return rounded

    def _widened_output(self, output: ir.Value) -> ir.Value:
        """The output cast to fp32, under its old name."""
        name = output.name
        output.name = f"{name}_{self.precision}"
        wide = self._cast(output, ir.DataType.FLOAT)
        wide.name = name
        return wide


def _named(graph: ir.Model, names: Collection[str]) -> set[ir.Node]:
    return {node for node in graph.graph if node.name in names}


def _uncast(graph: ir.Graph, low: ir.DataType) -> set[ir.Node]:
    """Undo a cast in place: every value is fp32 again. Returns the nodes that were fp32."""
    casts = [node for node in graph if node.op_type == "Cast" and _is_between(node, low)]
    wide = {node for node in graph if not any(output.dtype == low for output in node.outputs)} - set(casts)
    for cast in casts:
        source, result = cast.inputs[0], cast.outputs[0]
        assert source is not None
        if result in graph.outputs:
            source.name, result.name = result.name, f"{result.name}_cast"
            graph.outputs[graph.outputs.index(result)] = source
        result.replace_all_uses_with(source)
        graph.remove(cast, safe=True)
    for value in graph.initializers.values():
        if value.const_value is not None and value.dtype == low:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            retype(value, ir.DataType.FLOAT)
    for node in graph:
        for output in node.outputs:
            if output.dtype == low:
                retype(output, ir.DataType.FLOAT)
    return wide


def _is_between(cast: ir.Node, low: ir.DataType) -> bool:
    """Whether a Cast turns fp32 into the low type, or back."""
    source = cast.inputs[0]
    return source is not None and {source.dtype, cast.outputs[0].dtype} == {ir.DataType.FLOAT, low}


def ancestors(node: ir.Node) -> set[ir.Node]:
    """All nodes that the inputs of ``node`` depend on."""
    found: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in found:
                found.add(producer)
                waiting.append(producer)
    return found


def scoring_nodes(graph: ir.Model) -> set[ir.Node]:
    """The nodes up to the scores of a filter before the blocks; none where scores come from an attention."""
    found = {above for node in select_nodes(graph) for above in ancestors(node)}
    return set() if any(node.op_type == "Softmax" for node in found) else found


def retype(value: ir.Value, kind: ir.DataType) -> None:
    """Give a value the element type ``kind``."""
    value.type = ir.TensorType(kind)


def _describe(value: ir.Value, name: str, kind: ir.DataType, shape: ir.Shape | None) -> None:
    value.name, value.shape = name, shape
    retype(value, kind)
