"""After the last attention, compute only the row that the head reads: that of the class token.

A ViT with a class token reads one row of the last block's output. What stands between the last attention and that row
(projection, residual sums, norms, MLP) is computed row by row (``row_wise``), so the row can be taken before it: of
DeiT-S with 12 blocks, 6 % of the multiply-accumulates. The attention itself, which reads every row, stays as it is.

The row keeps its axis, [B, 1, C]: ONNX Runtime would make a Gemm of a product of [B, C] with a bias, which it has no
8-bit form of.
"""

import numpy as np
import onnx_ir as ir

from tokfilter.export.contrib.walk import add_node, scalar
from tokfilter.export.row_wise import is_row_wise, token_inputs

__all__ = ["take_class_token_early"]


def take_class_token_early(graph: ir.Graph) -> int:
    """Move every Gather of one row [B, N, C] -> [B, C] before the row-wise nodes that it alone reads, in place.

    Shapes must be known (``ShapeInferencePass``). Returns the number of nodes that compute one row only.
    """
    return sum(_take_early(graph, node) for node in list(graph) if _takes_one_row(node))


def _takes_one_row(node: ir.Node) -> bool:
    index = node.inputs[1] if node.op_type == "Gather" and not node.domain else None
    shape = None if index is None or index.const_value is None else tuple(index.const_value.shape)
    return shape == () and node.attributes.get_int("axis", 0) == 1


def _take_early(graph: ir.Graph, gather: ir.Node) -> int:
    region = _read_by(graph, gather)
    index, source = gather.inputs[1], gather.inputs[0]
    assert source is not None
    if source.producer() not in region:
        return 0
    number = int(scalar(index) or 0)
    row = _numbers(graph, f"row_{number}", [number])
    inside = {node.outputs[0] for node in region}
    cut: dict[ir.Value, ir.Value] = {}
    for node in region:
        for value in token_inputs(node):
            if value not in inside and value not in cut:
                like = ir.Value(type=value.type, shape=_one_row(value))
                name = f"{value.name}/row_{number}"
                (cut[value],) = add_node(region[0], "Gather", [value, row], {"axis": 1}, name=name, like=[like])
    for node in region:
        for position, given in enumerate(node.inputs):
            if given is not None and given in cut:
                node.replace_input_with(position, cut[given])
    for value in inside:
        value.shape = _one_row(value)
    gather.replace_input_with(1, _numbers(graph, "only_row", 0))
    graph.sort()
    return len(region)


def _read_by(graph: ir.Graph, gather: ir.Node) -> list[ir.Node]:
    """The row-wise nodes whose results reach nothing but ``gather``, in the order of the graph."""
    found = [gather]
    for node in reversed(graph):
        if node is gather or not is_row_wise(node) or node.outputs[0].is_graph_output():
            continue
        readers = node.outputs[0].consumers()
        if readers and all(reader in found for reader in readers):
            found.append(node)
    return found[:0:-1]


def _one_row(value: ir.Value) -> ir.Shape:
    assert value.shape is not None
    return ir.Shape([value.shape[0], 1, value.shape[2]])


def _numbers(graph: ir.Graph, name: str, numbers: int | list[int]) -> ir.Value:
    if name not in graph.initializers:
        value = ir.Value(name=name, const_value=ir.tensor(np.array(numbers, np.int64), name=name))
        graph.register_initializer(value)
    return graph.initializers[name]
