"""Operators of opsets 18 to 21 as opset 17 writes them, the last one that the parsers of TensorRT 8.5 and 8.6 know."""

from collections.abc import Sequence
from typing import Final

import onnx.defs
import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.export.options import DEFAULT_OPSET

__all__ = ["OPSET", "lower", "replace_node"]

OPSET: Final = 17
"""Last opset of the parsers of TensorRT 8.5 and 8.6."""

_WIDER_TYPES_ONLY: Final = {
    *("Cast", "Constant", "ConstantOfShape", "Equal", "Flatten", "Identity", "IsNaN", "Reshape", "Shape", "Size"),
    *("Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators that opsets 18 to 21 gave more types, and no other meaning."""

_AXES_BECAME_INPUT: Final = {
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    "ReduceSumSquare",
}
"""Reductions whose axes are an attribute in opset 17 and an input from opset 18."""

_MORE_REDUCTIONS: Final = {"ScatterElements", "ScatterND"}
"""Operators that opset 18 gave more reductions; without one they are those of opset 17."""


def lower(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Write ``node``, of a later opset, in opset 17. Raises ExportError where it cannot be written so."""
    op = node.op_type
    if op in _AXES_BECAME_INPUT:
        _axes_as_attribute(graph, node)
    elif op == "Split":
        _drop_num_outputs(node)
    elif _has_its_old_meaning(node):
        pass
    elif op not in _WIDER_TYPES_ONLY and _since(op, opset) != _since(op, OPSET):
        newer = opset > DEFAULT_OPSET
        remedy = "Export with the default --opset." if newer else "No engine of them can be made of this model."
        raise ExportError(
            f"{op} ({node.name}) of opset {opset} cannot be written in opset {OPSET}, the last of TensorRT 8.5 and "
            f"8.6. {remedy}"
        )


def _has_its_old_meaning(node: ir.Node) -> bool:
    """Whether an operator that later opsets gave more meanings has its old one: no reduction; no axes, no wrapping."""
    if node.op_type == "Pad":
        axes = len(node.inputs) > 3 and node.inputs[3] is not None
        return not axes and node.attributes.get_string("mode", "constant") != "wrap"
    return node.op_type in _MORE_REDUCTIONS and node.attributes.get_string("reduction", "none") == "none"


def _since(op: str, opset: int) -> int | None:
    """The opset in which the latest form of ``op`` up to ``opset`` came; None where it is unknown."""
    try:
        return int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _axes_as_attribute(graph: ir.Graph, node: ir.Node) -> None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    keep_all = node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    if axes is not None:
        node.attributes["axes"] = ir.AttrInt64s("axes", _numbers(node, axes))
    elif keep_all is not None and keep_all.as_int():
        replace_node(graph, node, "Identity", [node.inputs[0]])


def _drop_num_outputs(node: ir.Node) -> None:
    """Split into equal parts, which opset 17 does without an attribute; the last part may be smaller in opset 18."""
    parts = node.attributes.pop("num_outputs", None)
    if parts is None:
        return
    value, axis = node.inputs[0], node.attributes.get_int("axis", 0)
    length = None if value is None or value.shape is None else value.shape[axis]
    if not isinstance(length, int) or length % parts.as_int():
        raise ExportError(
            f"Split ({node.name}) makes parts of unequal or unknown length, which opset {OPSET} cannot say: no engine "
            "of TensorRT 8.5 or 8.6 can be made of this model."
        )


def replace_node(graph: ir.Graph, node: ir.Node, op: str, inputs: Sequence[ir.Value | None]) -> None:
    """Put one node with the same output in the place of ``node``."""
    old = node.outputs[0]
    new = ir.node(op, inputs, name=node.name)
    new.outputs[0].name, new.outputs[0].shape, new.outputs[0].type = old.name, old.shape, old.type
    old.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    graph.insert_after(node, new)
    graph.remove(node, safe=True)


def _numbers(node: ir.Node, value: ir.Value) -> list[int]:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise ExportError(f"{node.op_type} ({node.name}) computes its axes at run time: report this model.")
    return [int(number) for number in tensor.numpy().reshape(-1)]
