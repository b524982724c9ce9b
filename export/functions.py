"""The TokenSelect node of a graph, and its model-local function.

Neither torch nor onnxscript is needed here: an edge device builds engines from graphs that were written elsewhere.
"""

import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["select_node", "without_functions"]


def select_node(graph: ir.Model) -> ir.Node:
    """The graph's TokenSelect node. Raises ExportError unless there is exactly one."""
    nodes = [node for node in graph.graph if (node.domain, node.op_type) == (DOMAIN, NAME)]
    if len(nodes) != 1:
        raise ExportError(f"expected a graph with one {DOMAIN}::{NAME} node, got {len(nodes)}.")
    return nodes[0]


def without_functions(graph: ir.Model) -> ir.Model:
    """Remove all model-local functions: TensorRT before 10.7 prefers them to the plugin."""
    graph.functions.clear()
    return graph
