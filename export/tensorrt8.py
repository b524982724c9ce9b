"""Graphs for the ONNX parsers of TensorRT 8.5 and 8.6, from the graphs that every other engine takes.

These parsers know opset 17 and no model-local functions, and 8.5 no LayerNormalization. What they read otherwise than
ONNX defines it is rewritten: they ignore ``start`` and ``end`` of Shape without a message. The results are equal in
fp32, the only type of numbers here: TensorRT 8 chooses fp16 layer by layer when it builds.

int8 graphs are taken too. Their weights become fp32 with a pair of Q and DQ nodes: that is how NVIDIA's own tools wrote
them for TensorRT 8, which quantises them back to the same numbers when it builds.

Only onnx and onnx-ir are needed: an edge device makes these graphs from those of its export directory.
Source: onnx-tensorrt, branches 8.5-GA and 8.6-GA, ``builtin_op_importers.cpp`` and ``docs/operators.md``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx.reference
import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.errors import ExportError
from tokfilter.export.functions import with_function
from tokfilter.export.opset17 import OPSET, lower, replace_node
from tokfilter.export.selection import node_graph, selections
from tokfilter.export.tensorrt8_nodes import check_operators
from tokfilter.kernels.op import DOMAIN
from tokfilter.trt.operators import ParserVersion

__all__ = ["IR_VERSION", "graph_for_tensorrt8"]

IR_VERSION: Final = 8
"""ONNX IR version of that opset."""

_FOLDED_SIZE: Final = 64
"""Most elements of a constant that is computed here: shapes and counts, no weights."""

_KEPT: Final = {"DequantizeLinear", "QuantizeLinear"}
"""Operators that are not computed here though their inputs are constant: TensorRT looks for them before a product."""


def graph_for_tensorrt8(graph: ir.Model, plugin: bool, version: ParserVersion = "8.6") -> ir.Model:
    """A copy of an fp32 or int8 graph that the parser of TensorRT 8.5 or 8.6 takes.

    plugin: keep the node TokenSelect, for the plugin; else it becomes TopK and Gather
    version: 8.5 also takes it: LayerNormalization is decomposed, and without the plugin the budget must be fixed
    Raises ExportError for an operator that the parser does not read, or that cannot be written in opset 17.
    """
    plain = bool(selections(graph))
    graph = node_graph(graph)
    if plain:
        with_function(graph)
    if not plugin:
        _inline(graph)
    graph.functions.clear()
    for node in [node for node in graph.graph if not node.domain]:
        if graph.opset_imports[""] > OPSET:
            lower(graph.graph, node, graph.opset_imports[""])
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None:
            rewrite(graph.graph, node)
        if node.op_type == "LayerNormalization" and version == "8.5":
            _decompose_norm(graph.graph, node)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    _fold(graph.graph)
    passes.RemoveUnusedNodesPass()(graph)
    _name_nodes(graph.graph)
    graph.opset_imports.clear()
    graph.opset_imports[""] = OPSET
    if any(node.domain == DOMAIN for node in graph.graph):
        graph.opset_imports[DOMAIN] = 1
    graph.ir_version = IR_VERSION
    _forget_shapes(graph.graph)  # those of the other opset: inferred again, for the check
    passes.ShapeInferencePass()(graph)
    check_operators(graph, version, plugin)
    _forget_shapes(graph.graph)
    return graph


def _inline(graph: ir.Model) -> None:
    """Write functions out; their nodes are named after the (one) call and the operator."""
    names = {node.name for node in graph.graph}
    calls = [node.name for node in graph.graph if node.op_identifier() in graph.functions]
    passes.InlinePass()(graph)
    for node in graph.graph:
        if calls and node.name not in names:
            node.name = f"{calls[0]}/{node.op_type}"


def _cut_shape(graph: ir.Graph, node: ir.Node) -> None:
    """Shape with ``start`` and ``end``, which the parsers ignore, as Shape of everything and Slice."""
    start, end = node.attributes.pop("start", None), node.attributes.pop("end", None)
    first, last = (0 if start is None else start.as_int()), (None if end is None else end.as_int())
    if first == 0 and last is None:
        return
    result = node.outputs[0]
    shape = ir.node("Shape", [node.inputs[0]], name=f"{node.name}/all")
    shape.outputs[0].name = f"{result.name}_all"
    graph.insert_before(node, shape)
    borders = ([first], [np.iinfo(np.int64).max if last is None else last], [0])
    constants = [
        _constant(graph, f"{result.name}_{what}", value)
        for what, value in zip(("start", "end", "axis"), borders, strict=True)
    ]
    replace_node(graph, node, "Slice", [shape.outputs[0], *constants])


def _name_axes(graph: ir.Graph, node: ir.Node) -> None:
    """Squeeze without axes as Squeeze of the axes of length 1: the parsers take no axes of an unknown shape."""
    value = node.inputs[0]
    if value is None or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return
    producer = value.producer()
    if producer is not None and producer.op_type in ("Shape", "Slice") and _is_shape(producer):
        axes = [0]
    elif value.shape is not None and all(isinstance(length, int) for length in value.shape):
        axes = [axis for axis, length in enumerate(value.shape) if length == 1]
    else:
        raise ExportError(f"Squeeze ({node.name}) has no axes and a shape that is not known: report this model.")
    node.resize_inputs(2)
    node.replace_input_with(1, _constant(graph, f"{node.outputs[0].name}_axes", axes))


def _is_shape(node: ir.Node) -> bool:
    """Whether ``node`` gives a part of a shape, which has one axis."""
    source = None if node.inputs[0] is None else node.inputs[0].producer()
    return node.op_type == "Shape" or (source is not None and source.op_type == "Shape")


def _quantize_weight(graph: ir.Graph, node: ir.Node) -> None:
    """DequantizeLinear of a weight that is stored in int8, as Q and DQ of the same weight in fp32.

    The fp32 numbers are multiples of the scales, so quantising gives exactly the stored ones.
    """
    stored, scale = node.inputs[:2]
    if stored is None or scale is None or stored.const_value is None or scale.const_value is None:
        return
    numbers, scales = stored.const_value.numpy(), scale.const_value.numpy()
    axis = node.attributes.get_int("axis", 1)
    if scales.ndim:
        scales = scales.reshape([-1 if position == axis % numbers.ndim else 1 for position in range(numbers.ndim)])
    weight = _constant(graph, f"{stored.name}_as_fp32", (numbers * scales).astype(np.float32))
    quantize = ir.node("QuantizeLinear", [weight, *node.inputs[1:]], {"axis": axis}, name=f"{node.name}/quantize")
    quantize.outputs[0].name = f"{stored.name}_again"
    graph.insert_before(node, quantize)
    node.replace_input_with(0, quantize.outputs[0])
    if not stored.uses():
        del graph.initializers[str(stored.name)]


_REWRITES: Final[dict[str, Callable[[ir.Graph, ir.Node], None]]] = {
    "DequantizeLinear": _quantize_weight,
    "Shape": _cut_shape,
    "Squeeze": _name_axes,
}


def _decompose_norm(graph: ir.Graph, node: ir.Node) -> None:
    """LayerNormalization as mean, variance and quotient, as ONNX defines it."""
    x, scale, *rest = node.inputs
    assert x is not None and scale is not None and scale.shape is not None
    axes = list(range(-len(scale.shape), 0))
    name = node.outputs[0].name
    epsilon = _constant(graph, f"{name}_epsilon", np.float32(node.attributes.get_float("epsilon", 1e-5)))

    def add(op: str, inputs: Sequence[ir.Value], what: str, **attributes: Any) -> ir.Value:
        made = ir.node(op, inputs, attributes, name=f"{node.name}/{what}")
        made.outputs[0].name = f"{name}_{what}"
        graph.insert_before(node, made)
        return made.outputs[0]

    mean = add("ReduceMean", [x], "mean", axes=axes, keepdims=1)
    centred = add("Sub", [x, mean], "centred")
    variance = add("ReduceMean", [add("Mul", [centred, centred], "squared")], "variance", axes=axes, keepdims=1)
    deviation = add("Sqrt", [add("Add", [variance, epsilon], "with_epsilon")], "deviation")
    last = [add("Div", [centred, deviation], "normalised"), scale]
    if rest and rest[0] is not None:
        last = [add("Mul", last, "scaled"), rest[0]]
    for attribute in list(node.attributes):
        node.attributes.pop(attribute)
    replace_node(graph, node, "Add" if rest and rest[0] is not None else "Mul", last)


def _constant(graph: ir.Graph, name: str, values: Any) -> ir.Value:
    array = np.asarray(values)
    value = ir.Value(name=name, const_value=ir.tensor(array if array.dtype == np.float32 else array.astype(np.int64)))
    value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype  # type: ignore[union-attr]
    graph.register_initializer(value)
    return value


def _fold(graph: ir.Graph) -> None:
    """Compute what depends on constants only: 8.5 takes TopK's K, and both take axes, as initializers only."""
    for node in list(graph):
        if node.domain or node.op_type in _KEPT:
            continue
        values = [value for value in node.inputs if value is not None]
        if not values or len(node.outputs) != 1 or any(value.const_value is None for value in values):
            continue
        tensors = {str(value.name): value.const_value.numpy() for value in values if value.const_value is not None}
        if any(array.size > _FOLDED_SIZE for array in tensors.values()):
            continue
        (computed,) = onnx.reference.ReferenceEvaluator(ir.to_proto(node)).run(None, tensors)
        result = np.asarray(computed)
        if result.size <= _FOLDED_SIZE and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(_constant(graph, f"{node.outputs[0].name}_folded", result))


def _name_nodes(graph: ir.Graph) -> None:
    """Give every node a name of its own, and its outputs names made of it: TensorRT names its layers after both."""
    seen: set[str] = set()
    borders = {value.name for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        name = base = node.name or f"{node.outputs[0].name}/{node.op_type}"
        number = 0
        while name in seen:
            number += 1
            name = f"{base}_{number}"
        node.name = name
        seen.add(name)
        for position, value in enumerate(node.outputs):
            if value.name not in borders:
                value.name = f"{name}:{position}"


def _forget_shapes(graph: ir.Graph) -> None:
    """Clear shapes and types inside the graph: TensorRT infers its own."""
    outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = value.type = None
