"""ReduceMean of a known length as ReduceSum and Div: onnx2torch reads no axes as an input, as they are since opset 18.

ONNX Runtime computes a mean as the sum divided by the count, so the bits are the same there.
"""

import math

import numpy as np
import onnx_ir as ir

__all__ = ["means_as_sums"]


def means_as_sums(graph: ir.Model) -> ir.Model:
    """Rewrite the means over axes of known length, in place. Returns ``graph``."""
    for node in [node for node in graph.graph if node.op_type == "ReduceMean" and not node.domain]:
        count = _count(node)
        if count is not None:
            _replace(graph.graph, node, count)
    return graph


def _count(node: ir.Node) -> int | None:
    """Numbers in one mean, where the axes are an input and their lengths are known."""
    value, axes_input = (*node.inputs, None)[:2]
    axes = None if axes_input is None else ir.convenience.get_const_tensor(axes_input)
    if value is None or value.shape is None or axes is None or not axes.size:
        return None
    lengths = [value.shape[int(axis)] for axis in axes.numpy().reshape(-1)]
    return math.prod(n for n in lengths if isinstance(n, int)) if all(isinstance(n, int) for n in lengths) else None


def _replace(graph: ir.Graph, node: ir.Node, count: int) -> None:
    result = node.outputs[0]
    kind = (result.dtype or ir.DataType.FLOAT).numpy()
    divisor = ir.Value(name=f"{result.name}_count")
    divisor.const_value = ir.tensor(np.array(count, kind), name=divisor.name)
    graph.register_initializer(divisor)
    total = ir.node("ReduceSum", node.inputs, dict(node.attributes), name=f"{node.name}/sum")
    total.outputs[0].name = f"{result.name}_sum"
    mean = ir.node("Div", [total.outputs[0], divisor], name=node.name)
    total.outputs[0].type, total.outputs[0].shape = result.type, result.shape
    mean.outputs[0].type, mean.outputs[0].shape, name = result.type, result.shape, result.name
    result.name, mean.outputs[0].name = f"{name}_before", name
    result.replace_all_uses_with(mean.outputs[0], replace_graph_outputs=True)
    graph.insert_after(node, [total, mean])
    graph.remove(node, safe=True)
