"""Slots of the stages after the first, computed in the graph: their length follows from the length of ``slots``.

A stage s keeps ceil(k_(s-1) * k / N) tokens, k the length of ``slots`` and N the number of patches; with the schedule
"constant" max(k_(s-1) - (N - k), ceil(k_(s-1) / 2)) (``vit/reducers/counts.py``). The graph computes these counts from
shapes, so a runtime knows them when it knows the shapes of the inputs.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.vit.reducers.counts import CONSTANT, RATIO, stage_counts

__all__ = ["derive_later_slots", "kept_dim", "kept_lengths", "slots_name", "stage_of"]


_MERGED = "slots/merged"
"""Name of the node that computes how many tokens each stage merges, with the schedule CONSTANT."""
_CountAfter = Callable[[str, ir.Value], ir.Value]
"""(name of a stage's slots, count of the stage before) -> count of the stage; adds the nodes that compute it."""


def slots_name(stage: int) -> str:
    """Name of the slots of a stage, counted from 0: slots, slots_2, slots_3."""
    return "slots" if stage == 0 else f"slots_{stage + 1}"


def kept_dim(stage: int) -> str:
    """Name of the dimension that is the number of tokens that a stage keeps."""
    return "kept" if stage == 0 else f"kept_{stage + 1}"


def kept_lengths(graph: ir.Model, k: int) -> dict[str, int]:
    """The number of tokens that each stage of a graph in the slots form keeps, by the name of its dimension.

    Raises ExportError for a graph that is none of ours.
    """
    ours = [node for node in graph.graph if (node.name or "").startswith("slots_")]
    if not ours:
        return {kept_dim(0): k}
    stages = 1 + sum(node.op_type == "ConstantOfShape" for node in ours)
    merged = next((node for node in graph.graph if node.name == _MERGED), None)
    divided = next((node for node in ours if node.op_type == "Div" and len(node.inputs) == 2), None)
    patches = merged.inputs[0] if merged is not None and merged.inputs else divided.inputs[1] if divided else None
    if patches is None or patches.const_value is None:
        raise ExportError("the graph does not say how many tokens its later stages keep. Export again.")
    schedule = RATIO if merged is None else CONSTANT
    counts = stage_counts(k, int(patches.const_value.numpy().item()), stages, schedule)
    return {kept_dim(stage): count for stage, count in enumerate(counts)}


def derive_later_slots(graph: ir.Graph, patches: int, stages: int, schedule: str = RATIO) -> None:
    """Compute the inputs ``slots_2``, ``slots_3`` ... from the length of ``slots``, in place."""
    if stages == 1:
        return
    inputs = {value.name: value for value in graph.inputs}
    length = ir.node("Shape", [inputs["slots"]], name="slots/Shape")
    nodes, previous = [length], length.outputs[0]
    counts = _constant_counts if schedule == CONSTANT else _ratio_counts
    count_after = counts(graph, patches, nodes)
    for stage in range(1, stages):
        name = slots_name(stage)
        count = count_after(name, previous)
        zero = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.int32)))
        made = ir.Node("", "ConstantOfShape", [count], [zero], name=f"{name}/ConstantOfShape")
        old, new = inputs[name], made.outputs[0]
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new)
        graph.inputs.remove(old)
        previous = count
        nodes.append(made)
    for node in nodes:
        node.outputs[0].name = f"{node.name}/output"
        if node.op_type != "ConstantOfShape":
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    graph.insert_before(graph[0], nodes)


def _ratio_counts(graph: ir.Graph, patches: int, nodes: list[ir.Node]) -> _CountAfter:
    number, up = _number(graph, "slots/patches", patches), _number(graph, "slots/up", patches - 1)
    length = nodes[0].outputs[0]

    def count_after(name: str, previous: ir.Value) -> ir.Value:
        product = ir.node("Mul", [previous, length], name=f"{name}/Mul")
        rounded = ir.node("Add", [product.outputs[0], up], name=f"{name}/Add")
        count = ir.node("Div", [rounded.outputs[0], number], name=f"{name}/Div")
        nodes.extend([product, rounded, count])
        return count.outputs[0]

    return count_after


def _constant_counts(graph: ir.Graph, patches: int, nodes: list[ir.Node]) -> _CountAfter:
    numbers = {"patches": patches, "one": 1, "two": 2}
    number, one, two = (_number(graph, f"slots/{name}", value) for name, value in numbers.items())
    merged = ir.node("Sub", [number, nodes[0].outputs[0]], name=_MERGED)
    nodes.append(merged)

    def count_after(name: str, previous: ir.Value) -> ir.Value:
        left = ir.node("Sub", [previous, merged.outputs[0]], name=f"{name}/Sub")
        rounded = ir.node("Add", [previous, one], name=f"{name}/Add")
        half = ir.node("Div", [rounded.outputs[0], two], name=f"{name}/Div")
        count = ir.node("Max", [left.outputs[0], half.outputs[0]], name=f"{name}/Max")
        nodes.extend([left, rounded, half, count])
        return count.outputs[0]

    return count_after


def stage_of(node: ir.Node) -> int:
    """The stage of a TokenSelect node in the slots form, counted from 0, by the slots that it reads."""
    slots = node.inputs[2]
    assert slots is not None
    maker = slots.producer()
    return 0 if maker is None else int((maker.name or "").removeprefix("slots_").partition("/")[0]) - 1


def _number(graph: ir.Graph, name: str, number: int) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.array([number], np.int64), name=name))
    graph.register_initializer(value)
    return value
