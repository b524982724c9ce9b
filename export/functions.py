"""The TokenSelect node of a graph, and its model-local function.

Neither torch nor onnxscript is needed here: an edge device builds engines from graphs that were written elsewhere.
"""

import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.kernels.onnx_function import token_select_function
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["is_select_node", "select_node", "with_function", "without_functions"]


def is_select_node(node: ir.Node) -> bool:
    """Whether a node is a TokenSelect."""
    return (node.domain, node.op_type) == (DOMAIN, NAME)


def select_node(graph: ir.Model) -> ir.Node:
    """The graph's TokenSelect node. Raises ExportError unless there is exactly one."""
    nodes = [node for node in graph.graph if is_select_node(node)]
    if len(nodes) != 1:
        raise ExportError(f"expected a graph with one {DOMAIN}::{NAME} node, got {len(nodes)}.")
    return nodes[0]


def with_function(graph: ir.Model, rows: str = "flat") -> ir.Model:
    """Attach the function body of the TokenSelect node, in place; rows as in ``token_select_function``.

    Raises ExportError unless there is exactly one node.
    """
    node = select_node(graph)
    slots = len(node.inputs) > 2
    function = token_select_function(
        graph.opset_imports[""],
        "slots" if slots else "attribute",
        node.attributes.get_string("order", "position"),
        rows,
        None if slots else node.attributes.get_int("k"),
        node.attributes.get_int("prefix_tokens", 1),
    )
    attached = ir.serde.deserialize_function(function)
    graph.functions[attached.identifier()] = attached
    graph.opset_imports[DOMAIN] = 1
    return graph


def without_functions(graph: ir.Model) -> ir.Model:
    """Remove all model-local functions: TensorRT before 10.7 prefers them to the plugin."""
    graph.functions.clear()
    return graph
