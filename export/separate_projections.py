"""One product each for q, k and v, in place of one product whose result is cut in three.

The cut is a copy of [B, N, 3 C] in every block, in engines on a CPU; three products need none, and cost as much as one.
On a GPU one large product is faster: there the joint form stays.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from tokfilter.export.contrib.projections import HEADS_FIRST, joint_projections, shape_of
from tokfilter.export.contrib.walk import add_node, biased, constant, lone_use, made_by, supersede

__all__ = ["separate_projections"]


def separate_projections(graph: ir.Graph) -> int:
    """Rewrite every projection to q, k and v whose weights are constants and that nothing else reads, in place.

    Shapes must be known (``ShapeInferencePass``). Returns the number of projections; the old nodes are left, unused.
    """
    return sum(_separate(graph, *joint) for joint in joint_projections(graph))


def _separate(graph: ir.Graph, reshape: ir.Node, joint: ir.Value, parts: dict[int, ir.Value]) -> bool:
    with_bias = biased(joint)
    product = made_by(joint if with_bias is None else with_bias[0], "MatMul")
    x, weight = (None, None) if product is None else product.inputs
    matrix, sizes = constant(weight), constant(reshape.inputs[1])
    bias = None if with_bias is None else constant(with_bias[1])
    readable = lone_use(joint) is not None and (with_bias is None or lone_use(with_bias[0]) is not None)
    if product is None or x is None or weight is None or matrix is None or matrix.ndim != 2 or not readable:
        return False
    assert sizes is not None and joint.shape is not None
    heads, depth = int(sizes[3]), int(sizes[4])
    width = heads * depth
    scope = (product.name or "qkv").rsplit("/", 1)[0]
    rows = ir.Value(type=joint.type, shape=ir.Shape([*joint.shape[:2], width]))
    by_token = ir.Value(type=joint.type, shape=ir.Shape([*joint.shape[:2], heads, depth]))
    for position, value in parts.items():
        columns, name = slice(position * width, (position + 1) * width), f"{scope}.{position}"
        (part,) = add_node(
            product,
            "MatMul",
            [x, _columns(graph, weight, matrix[:, columns], position)],
            name=f"{name}/MatMul",
            like=[rows],
        )
        if with_bias is not None and bias is not None:
            inputs = [part, _columns(graph, with_bias[1], bias[columns], position)]
            (part,) = add_node(reshape, "Add", inputs, name=f"{name}/Add", like=[rows])
        inputs = [part, shape_of(graph, (0, 0, heads, depth))]
        (part,) = add_node(reshape, "Reshape", inputs, name=f"{name}/Reshape", like=[by_token])
        attributes = {"perm": list(HEADS_FIRST)}
        (part,) = add_node(reshape, "Transpose", [part], attributes, name=f"{name}/Transpose", like=[value])
        supersede(value, part)
    return True


def _columns(graph: ir.Graph, whole: ir.Value, numbers: np.ndarray[Any, Any], position: int) -> ir.Value:
    name = f"{whole.name}/part_{position}"
    if name not in graph.initializers:
        numbers = np.ascontiguousarray(numbers)
        graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(numbers, name=name)))
    return graph.initializers[name]
