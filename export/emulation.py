"""fp16 and bf16 on a CPU: an fp32 graph that rounds after every low-precision operation.

ONNX Runtime's CPU has no kernels for bf16. It has few for fp16: between operations that it computes in fp32 it keeps
their results in fp32 (1.31, tried: a product of 80,000 goes on as 80,000), so that a graph which overflows on a GPU
gives the right answer there. An explicit pair of casts is kept.
"""

from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.export.precision import LOW_TYPES, retype

__all__ = ["emulate_low_precision"]

_MOVES: Final = {
    "Cast",
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "TokenSelect",
    "Transpose",
    "Unsqueeze",
}
"""Ops that move numbers without rounding."""


def emulate_low_precision(graph: ir.Model) -> ir.Model:
    """An fp32 graph that rounds where ``graph``, in fp16 or bf16, does.

    Weights are cast to fp32, which is exact, and every result of such an operation is rounded and widened again, as by
    hardware that multiplies in the low type and accumulates in fp32.
    """
    emulated = graph.clone()
    passes.ShapeInferencePass()(emulated)
    low_types = set(LOW_TYPES.values())
    for value in emulated.graph.initializers.values():
        if value.const_value is not None and value.dtype in low_types:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            retype(value, ir.DataType.FLOAT)
    for node in list(emulated.graph):
        low = [output for output in node.outputs if output.dtype in low_types]
        for output in low:
            if node.op_type not in _MOVES or node.op_type == "Cast":
                _round_trip(emulated.graph, node, output)
            retype(output, ir.DataType.FLOAT)
        if node.op_type == "Cast" and low:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    return emulated


def _round_trip(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    assert output.dtype is not None
    down = ir.node("Cast", [output], {"to": output.dtype}, name=f"{output.name}/round")
    back = ir.node("Cast", [down.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{output.name}/widen")
    output.replace_all_uses_with(back.outputs[0])
    down.replace_input_with(0, output)
    for result, name in ((down.outputs[0], "rounded"), (back.outputs[0], "widened")):
        result.name = f"{output.name}_{name}"
    graph.insert_after(node, [down, back])
