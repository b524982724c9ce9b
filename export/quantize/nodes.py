"""Q/DQ nodes around the Linear layers of a graph: ONNX Runtime, OpenVINO and TensorRT read them.

Only matrix products with constant weights inside the blocks are quantised: qkv, proj, fc1, fc2 (85 % of the MACs of a
ViT-S at 197 tokens). Everything else stays in float: residual adds, softmax, layer norms, the products of attention,
GELU, the head, and all that the kept tokens depend on, so that a quantised graph keeps the tokens of the fp32 one.

============  ===========================  ====================================================================
type          weights                      activations
============  ===========================  ====================================================================
int8          int8, one scale per output   int8, one scale, zero point 0: TensorRT takes no other zero point, and
              channel, -127..127           ONNX Runtime and OpenVINO are as fast with it as with uint8 (docs/int8.md)
fp8           float8 E4M3FN, one scale     float8 E4M3FN, one scale
              per output channel
============  ===========================  ====================================================================

The largest absolute value of a tensor maps to the largest number of the type. The biases stay in float.
ONNX Runtime's own ``quantize_static`` was considered for this step: it computes other scales for float8, wants a file
without functions, and takes seconds where the search for sensitive layers (``gate``) needs milliseconds.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tokfilter.errors import ExportError
from tokfilter.export.functions import select_node
from tokfilter.export.layer_groups import IN_BLOCK
from tokfilter.export.precision import ancestors

__all__ = ["FP8_OPSET", "QUANTIZED", "Linear", "linears_of", "quantized_graph"]

FP8_OPSET: Final = 19
"""QuantizeLinear takes float8 since this version of ONNX's operators."""


@dataclass(frozen=True)
class _Type:
    onnx: ir.DataType
    numpy: np.dtype[np.generic]
    largest: float


QUANTIZED: Final = {
    "int8": _Type(ir.DataType.INT8, np.dtype(np.int8), 127.0),
    "fp8": _Type(ir.DataType.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn), 448.0),
}
"""Precision -> its type, and the number that the largest absolute value of a tensor maps to."""


_ZERO: Final = 1e-20
"""Values below are zero: engines flush scales of such values to zero, and divide by them."""


@dataclass(frozen=True)
class Linear:
    """One Linear layer of a graph.

    name: of its module, such as "blocks.3.mlp.fc1"
    node: name of the matrix product
    activation, weight: names of its inputs
    """

    name: str
    node: str
    activation: str
    weight: str


def linears_of(graph: ir.Model) -> list[Linear]:
    """The layers that are quantised, in the order of the graph. Raises ExportError where there are none."""
    before = ancestors(select_node(graph))
    found = [
        Linear((node.name or "").rpartition("/")[0], node.name or "", activation.name or "", weight.name or "")
        for node in graph.graph
        if node not in before
        and (activation := _activation(node)) is not None
        and (weight := _weight(node)) is not None
    ]
    if not found:
        raise ExportError(
            "int8 and fp8 need Linear layers inside the blocks of a ViT (blocks.0.mlp.fc1 and so on), and this graph "
            "has none whose weights are constant. Choose another --precision, or report this model."
        )
    return found


def quantized_graph(
    slots_graph: ir.Model, precision: str, largest: Mapping[str, float], exempt: Collection[str] = ()
) -> ir.Model:
    """A copy of a traced fp32 graph in which the inputs of each Linear layer pass through Q/DQ nodes.

    precision: int8 or fp8
    largest: largest absolute value of each activation, by its name
    exempt: names of matrix products that stay in float
    Raises ExportError.
    """
    graph, kind = slots_graph.clone(), QUANTIZED[precision]
    values = {output.name: output for node in graph.graph for output in node.outputs}
    nodes = {node.name: node for node in graph.graph}
    activations: dict[str, ir.Value] = {}
    for linear in linears_of(graph):
        if linear.node in exempt:
            continue
        node = nodes[linear.node]
        if linear.activation not in activations:
            (scale,) = _scales(np.array([largest[linear.activation]]), kind)
            activations[linear.activation] = _through_qdq(graph.graph, values[linear.activation], scale, kind)
        weight = graph.graph.initializers[linear.weight]
        axis = 0 if _transposed(node) else 1
        node.replace_input_with(0, activations[linear.activation])
        node.replace_input_with(1, _dequantized_weight(graph.graph, node, weight, axis, kind))
        if not weight.uses():
            del graph.graph.initializers[linear.weight]
    return graph


def _activation(node: ir.Node) -> ir.Value | None:
    """Input of a matrix product inside a block; None for another node."""
    inside = node.op_type in ("MatMul", "Gemm") and not node.domain and IN_BLOCK.match(node.name or "")
    value = node.inputs[0] if inside else None
    return None if value is None or value.producer() is None else value


def _weight(node: ir.Node) -> ir.Value | None:
    """The constant 2-D weight of a matrix product, or None."""
    value = node.inputs[1]
    constant = None if value is None or not value.is_initializer() else value.const_value
    return value if constant is not None and len(constant.shape) == 2 else None


def _transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1


def _through_qdq(graph: ir.Graph, value: ir.Value, scale: np.float32, kind: _Type) -> ir.Value:
    """``value`` after QuantizeLinear and DequantizeLinear, inserted behind its producer."""
    scale_value = _initializer(graph, f"{value.name}_scale", np.array(scale))
    zero = _initializer(graph, f"{value.name}_zero_point", np.zeros((), kind.numpy), kind.onnx)
    quantize = ir.node("QuantizeLinear", [value, scale_value, zero], name=f"{value.name}/QuantizeLinear")
    quantized = quantize.outputs[0]
    quantized.name, quantized.shape, quantized.dtype = f"{value.name}_quantized", value.shape, kind.onnx
    back = ir.node("DequantizeLinear", [quantized, scale_value, zero], name=f"{value.name}/DequantizeLinear")
    result = back.outputs[0]
    result.name, result.shape, result.dtype = f"{value.name}_dequantized", value.shape, ir.DataType.FLOAT
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, [quantize, back])
    return result


def _dequantized_weight(graph: ir.Graph, node: ir.Node, weight: ir.Value, axis: int, kind: _Type) -> ir.Value:
    """The weight stored in the low type, after DequantizeLinear; ``axis`` is that of the output channels."""
    assert weight.const_value is not None
    name = f"{node.name}/weight"
    quantized, scales = _quantized_weight(weight.const_value.numpy(), axis, kind)
    stored = _initializer(graph, f"{name}_quantized", quantized, kind.onnx)
    scale = _initializer(graph, f"{name}_scale", scales)
    zero = _initializer(graph, f"{name}_zero_point", np.zeros(scales.shape, kind.numpy), kind.onnx)
    back = ir.node("DequantizeLinear", [stored, scale, zero], {"axis": axis}, name=f"{name}/DequantizeLinear")
    result = back.outputs[0]
    result.name, result.shape, result.dtype = f"{name}_dequantized", weight.shape, ir.DataType.FLOAT
    graph.insert_before(node, back)
    return result


def _quantized_weight(weight: NDArray[np.float32], axis: int, kind: _Type) -> tuple[NDArray[np.generic], ...]:
    """The weight [.., ..] in the low type, and its scales [channels]. Raises ExportError for NaN and infinity."""
    largest = np.abs(weight).max(axis=1 - axis)
    scales = _scales(largest, kind)
    scaled = weight / np.expand_dims(scales, 1 - axis)
    bounded = np.clip(scaled, -kind.largest, kind.largest)
    rounded = np.rint(bounded) if kind.onnx == ir.DataType.INT8 else bounded
    return rounded.astype(kind.numpy), scales


def _scales(largest: NDArray[np.floating], kind: _Type) -> NDArray[np.float32]:
    """Scales for largest absolute values; a tensor of zeros, or nearly so, has the scale of 1. Raises ExportError."""
    if not np.isfinite(largest).all():
        raise ExportError(
            "a weight or an activation is NaN or infinite, which has no scale. Train the model again, or look at the "
            "calibration images."
        )
    return (np.where(largest < _ZERO, 1.0, largest) / kind.largest).astype(np.float32)


def _initializer(graph: ir.Graph, name: str, array: NDArray[np.generic], dtype: ir.DataType | None = None) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, dtype=dtype, name=name))
    graph.register_initializer(value)
    return value
