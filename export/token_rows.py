"""Tokens as the rows of one matrix [B * N, C] between attentions, in place of [B, N, C].

ONNX Runtime on a CPU turns MatMul and Add of a matrix into one Gemm. With three dimensions it does so only where every
length is known, and runs the addition as a node of its own, or inside GELU, which costs more than the GELU itself.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from tokfilter.export.contrib.walk import add_node, constant
from tokfilter.export.row_wise import is_row_wise, token_inputs

__all__ = ["tokens_as_rows"]


def tokens_as_rows(graph: ir.Graph, untouched: Collection[ir.Node] = ()) -> int:
    """Rewrite the row-wise nodes of each number of tokens for which there is a product with a matrix, in place.

    Shapes must be known (``ShapeInferencePass``). Reshapes that nothing reads any more are left.

    untouched: nodes that stay as they are
    Returns the number of nodes that compute on a matrix now.
    """
    groups: dict[str, list[ir.Node]] = {}
    for node in graph:
        shape = node.outputs[0].shape
        if node not in untouched and is_row_wise(node) and not node.outputs[0].is_graph_output():
            assert shape is not None
            if isinstance(shape[2], int):
                groups.setdefault(str(shape[:2]), []).append(node)
    changed = [nodes for nodes in groups.values() if any(node.op_type == "MatMul" for node in nodes)]
    for number, nodes in enumerate(changed):
        _Rows(graph, nodes, f"lengths.{number}" if number else "lengths").rewrite()
    graph.sort()
    return sum(map(len, changed))


class _Rows:
    """The row-wise nodes of one number of images and tokens, in the order of the graph.

    name: first part of the names of nodes that compute their shape
    """

    def __init__(self, graph: ir.Graph, nodes: list[ir.Node], name: str) -> None:
        self.graph, self.nodes, self.name = graph, nodes, name
        self.inside = {node.outputs[0] for node in nodes}
        first = token_inputs(nodes[0])[0]
        assert first.shape is not None
        self.tokens, (self.batch, self.count) = first, first.shape[:2]
        self.shapes: dict[tuple[int, ...], ir.Value] = {}

    def rewrite(self) -> None:
        outside = {
            value: [(reader, position) for reader, position in value.uses() if reader not in self.nodes]
            for value in self.inside
        }
        cut: dict[ir.Value, ir.Value] = {}
        for node in self.nodes:
            for value in token_inputs(node):
                if value not in self.inside and value not in cut:
                    cut[value] = self._matrix(value, node)
        for node in self.nodes:
            for position, given in enumerate(node.inputs):
                if given is not None and given in cut:
                    node.replace_input_with(position, cut[given])
            if "axis" in node.attributes:
                node.attributes["axis"] = ir.AttrInt64("axis", -1)
        for value in self.inside:
            assert value.shape is not None
            value.shape = ir.Shape([self.batch * self.count, value.shape[2]])
        for value, uses in outside.items():
            self._leave(value, uses)

    def _matrix(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """[B, N, C] as [B * N, C], by a reshape of its own.

        One reshape from the heads [B, N, H, C / H] would do, but IREE 3.13 computes that wrongly where N is open.
        """
        assert value.shape is not None
        width = value.shape[2]
        assert isinstance(width, int)
        like = ir.Value(type=value.type, shape=ir.Shape([self.batch * self.count, width]))
        inputs = [value, self._numbers(-1, width)]
        return add_node(reader, "Reshape", inputs, name=f"{value.name}/rows", like=[like])[0]

    def _leave(self, value: ir.Value, uses: list[tuple[ir.Node, int]]) -> None:
        """Give other readers [B, N, C]. A reshape that keeps [B, N] reads the matrix itself."""
        assert value.shape is not None
        width, whole = value.shape[1], []
        assert isinstance(width, int)
        for reader, position in uses:
            target = constant(reader.inputs[1]) if reader.op_type == "Reshape" else None
            if target is not None and list(target[:2]) == [0, 0] and (target[2:] > 0).all():
                reader.replace_input_with(1, self._shape(*map(int, target[2:])))
            else:
                whole.append((reader, position))
        if whole:
            like = ir.Value(type=value.type, shape=ir.Shape([self.batch, self.count, width]))
            inputs, name = [value, self._shape(width)], f"{value.name}/tokens"
            (back,) = add_node(whole[0][0], "Reshape", inputs, name=name, like=[like])
            for reader, position in whole:
                reader.replace_input_with(position, back)

    def _shape(self, *rest: int) -> ir.Value:
        """The shape [B, N, *rest]: a constant where N is known, else made of the shape of the tokens."""
        if isinstance(self.count, int):
            return self._numbers(-1, self.count, *rest)
        if rest not in self.shapes:
            first, name = self.nodes[0], f"{self.name}_{'_'.join(map(str, rest))}"
            like = [
                ir.Value(type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([size])) for size in (2, 2 + len(rest))
            ]
            if not self.shapes:
                bounds = {"start": 0, "end": 2}
                (self.lengths,) = add_node(
                    first, "Shape", [self.tokens], bounds, name=f"{self.name}/Shape", like=like[:1]
                )
            inputs = [self.lengths, self._numbers(*rest)]
            (self.shapes[rest],) = add_node(
                first, "Concat", inputs, {"axis": 0}, name=f"{self.name}_{name}/Concat", like=like[1:]
            )
        return self.shapes[rest]

    def _numbers(self, *numbers: int) -> ir.Value:
        name = "_".join(map(str, ("numbers", *numbers)))
        if name not in self.graph.initializers:
            value = ir.Value(name=name, const_value=ir.tensor(np.array(numbers, np.int64), name=name))
            self.graph.register_initializer(value)
        return self.graph.initializers[name]
