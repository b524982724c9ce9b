"""Slices that cut nothing off: rotary position embeddings are traced with several in each block."""

import onnx_ir as ir

from tokfilter.export.contrib.walk import constant

__all__ = ["drop_whole_slices"]

_TO_THE_END = 2**62


def drop_whole_slices(graph: ir.Graph) -> None:
    """Bypass every Slice from 0 to the end in steps of 1, in place."""
    for node in graph:
        if node.op_type != "Slice" or node.domain or len(node.inputs) < 3:
            continue
        starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
        steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
        one_by_one = len(node.inputs) < 5 or node.inputs[4] is None or (steps is not None and (steps == 1).all())
        whole = starts is not None and ends is not None and (starts == 0).all() and (ends >= _TO_THE_END).all()
        if whole and one_by_one and node.inputs[0] is not None and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(node.inputs[0])
