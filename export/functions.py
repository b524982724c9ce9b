"""The TokenSelect node of a graph, and its model-local function.

Neither torch nor onnxscript is needed here: an edge device builds engines from graphs that were written elsewhere.
"""

from collections.abc import Iterable

import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.kernels.onnx_function import token_select_function
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["is_select_node", "select_node", "select_nodes", "with_function", "without_functions"]


def is_select_node(node: ir.Node) -> bool:
    """Whether a node is a TokenSelect."""
    return (node.domain, node.op_type) == (DOMAIN, NAME)


def select_node(graph: ir.Model) -> ir.Node:
    """The graph's TokenSelect node. Raises ExportError unless there is exactly one."""
    nodes = select_nodes(graph)
    if len(nodes) != 1:
        raise ExportError(f"expected a graph with one {DOMAIN}::{NAME} node, got {len(nodes)}.")
    return nodes[0]


def select_nodes(graph: ir.Model) -> list[ir.Node]:
    """The graph's TokenSelect nodes, one for each stage of its reducer, in order."""
    return [node for node in graph.graph if is_select_node(node)]


def with_function(graph: ir.Model, rows: str = "flat") -> ir.Model:
    """Attach the function body of the TokenSelect nodes, in place; rows as in ``token_select_function``.

    Nodes of both orders get the attribute that their body reads. Raises ExportError where there is no node, or where
    some take the budget as an input and others do not.
    """
    nodes = [node for node in graph.graph if is_select_node(node)]
    slots = {len(node.inputs) > 2 for node in nodes}
    if len(slots) != 1:
        raise ExportError(f"expected {DOMAIN}::{NAME} nodes that all take their budget in one way, got {len(nodes)}.")
    orders = {node.attributes.get_string("order", "position") for node in nodes}
    if len(orders) > 1:
        for node in nodes:
            by_position = node.attributes.get_string("order", "position") == "position"
            node.attributes.add(ir.AttrInt64("by_position", int(by_position)))
    function = token_select_function(
        graph.opset_imports[""],
        "slots" if slots == {True} else "attribute",
        "either" if len(orders) > 1 else str(orders.pop()),
        rows,
        None if slots == {True} else _same(node.attributes.get_int("k", 0) for node in nodes),
        _same(node.attributes.get_int("prefix_tokens", 1) for node in nodes),
    )
    attached = ir.serde.deserialize_function(function)
    graph.functions[attached.identifier()] = attached
    graph.opset_imports[DOMAIN] = 1
    return graph


def _same(numbers: Iterable[int]) -> int | None:
    """The number that all nodes have; None where they differ."""
    found = set(numbers)
    return found.pop() if len(found) == 1 else None


def without_functions(graph: ir.Model) -> ir.Model:
    """Remove all model-local functions: TensorRT before 10.7 prefers them to the plugin."""
    graph.functions.clear()
    return graph
