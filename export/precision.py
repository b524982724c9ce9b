"""Cast a graph to fp16 or bf16: since TensorRT 11 an engine takes its types from the graph only.

These stay fp32:

* everything up to the scores. An error there changes **which** tokens are kept; in fp32 every precision keeps the same
  ones. The patch embedding and the filter are 1 to 3 % of the MACs.
* layer norms and sums over tokens: their squares and sums exceed fp16's range and bf16's digits.
* the inputs and outputs of the graph.

Everything else, weights included, is fp16 or bf16. Softmax is too: the matrix products around it round its input and
output in any case, engines accumulate inside it in fp32, and fused attention needs it between two low-precision
products (TensorRT documentation, "Fused Attention").

A pass over the graph takes milliseconds where another trace takes half a minute, and is the same for both types.
Libraries that were considered: onnxconverter-common has no bf16, NVIDIA's AutoCast needs calibration data and a dozen
packages, and neither keeps the scores in fp32 and the logits not.
"""

from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.errors import ExportError
from tokfilter.export.functions import select_node
from tokfilter.export.simplify import without_dead_code

__all__ = ["LOW_TYPES", "cast_precision", "emulate_bf16"]

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

_MOVES: Final = {
    "Cast",
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "TokenSelect",
    "Transpose",
    "Unsqueeze",
}
"""Ops that move numbers without rounding."""


def cast_precision(slots_graph: ir.Model, precision: str) -> ir.Model:
    """A copy of a traced fp32 graph (the slots form) in ``precision``. Raises ExportError.

    The other forms are made from it, so that they share its types.
    """
    graph = slots_graph.clone()
    if precision == "fp32":
        return graph
    passes.ShapeInferencePass()(graph)
    _CastPass(graph.graph, precision).apply(_ancestors(select_node(graph)), select_node(graph))
    return without_dead_code(graph)


class _CastPass:
    """One pass from inputs to outputs. Every value is fp32 or low; a Cast is inserted where the other is needed."""

    def __init__(self, graph: ir.Graph, precision: str) -> None:
        self.graph = graph
        self.precision = precision
        self.low = LOW_TYPES[precision]
        self.other: dict[ir.Value, ir.Value] = {}

    def apply(self, wide: set[ir.Node], select: ir.Node) -> None:
        for node in list(self.graph):
            if node in wide:
                continue
            if node is select:
                self._take(node, 0, self.low)
                _retype(node.outputs[0], self.low)
                continue
            kind = ir.DataType.FLOAT if node.op_type in _WIDE_OPS else self.low
            if any(value is not None and value.dtype in (ir.DataType.FLOAT, self.low) for value in node.inputs):
                for position in range(len(node.inputs)):
                    self._take(node, position, kind)
                for output in node.outputs:
                    if output.dtype == ir.DataType.FLOAT:
                        _retype(output, kind)
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


def _ancestors(node: ir.Node) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in found:
                found.add(producer)
                waiting.append(producer)
    return found


def _retype(value: ir.Value, kind: ir.DataType) -> None:
    value.type = ir.TensorType(kind)


def _describe(value: ir.Value, name: str, kind: ir.DataType, shape: ir.Shape | None) -> None:
    value.name, value.shape = name, shape
    _retype(value, kind)


def emulate_bf16(graph: ir.Model) -> ir.Model:
    """An fp32 graph that rounds where ``graph`` does: ONNX Runtime's CPU has no kernels for bf16.

    Weights are cast to fp32, which is exact, and every result of a bf16 operation is rounded to bf16 and back, as by
    hardware that multiplies in bf16 and accumulates in fp32.
    """
    emulated = graph.clone()
    passes.ShapeInferencePass()(emulated)
    low_types = set(LOW_TYPES.values())
    for value in emulated.graph.initializers.values():
        if value.const_value is not None and value.dtype in low_types:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            _retype(value, ir.DataType.FLOAT)
    for node in list(emulated.graph):
        low = [output for output in node.outputs if output.dtype in low_types]
        for output in low:
            if node.op_type not in _MOVES or node.op_type == "Cast":
                _round_trip(emulated.graph, node, output)
            _retype(output, ir.DataType.FLOAT)
        if node.op_type == "Cast" and low:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    return emulated


def _round_trip(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    assert output.dtype is not None
    down = ir.node("Cast", [output], {"to": output.dtype}, name=f"{output.name}/round")
    back = ir.node("Cast", [down.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{output.name}/widen")
    output.replace_all_uses_with(back.outputs[0])
    down.replace_input_with(0, output)
    for result, name in ((down.outputs[0], "rounded"), (back.outputs[0], "widened")):
        result.name = f"{output.name}_{name}"
    graph.insert_after(node, [down, back])
