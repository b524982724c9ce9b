"""Slots of the stages after the first, computed in the graph: their length follows from the length of ``slots``.

A stage s keeps ceil(k_(s-1) * k / N) tokens (``vit/reducers/counts.py``), k the length of ``slots`` and N the number of
patches. The graph computes these counts from shapes, so a runtime knows them when it knows the shapes of the inputs.
"""

import numpy as np
import onnx_ir as ir

from tokfilter.vit.reducers.counts import stage_counts

__all__ = ["derive_later_slots", "kept_dim", "kept_lengths", "patches_of", "slots_name", "stage_of", "stages_of"]


def slots_name(stage: int) -> str:
    """Name of the slots of a stage, counted from 0: slots, slots_2, slots_3."""
    return "slots" if stage == 0 else f"slots_{stage + 1}"


def kept_dim(stage: int) -> str:
    """Name of the dimension that is the number of tokens that a stage keeps."""
    return "kept" if stage == 0 else f"kept_{stage + 1}"


def kept_lengths(k: int, patches: int, stages: int) -> dict[str, int]:
    """The number of tokens that each stage keeps, by the name of its dimension."""
    return {kept_dim(stage): count for stage, count in enumerate(stage_counts(k, patches, stages))}


def derive_later_slots(graph: ir.Graph, patches: int, stages: int) -> None:
    """Compute the inputs ``slots_2``, ``slots_3`` ... from the length of ``slots``, in place."""
    if stages == 1:
        return
    inputs = {value.name: value for value in graph.inputs}
    numbers = {
        name: _number(graph, f"slots/{name}", value) for name, value in (("patches", patches), ("up", patches - 1))
    }
    nodes = [ir.node("Shape", [inputs["slots"]], name="slots/Shape")]
    length = previous = nodes[0].outputs[0]
    for stage in range(1, stages):
        name = slots_name(stage)
        product = ir.node("Mul", [previous, length], name=f"{name}/Mul")
        up = ir.node("Add", [product.outputs[0], numbers["up"]], name=f"{name}/Add")
        count = ir.node("Div", [up.outputs[0], numbers["patches"]], name=f"{name}/Div")
        zero = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.int32)))
        made = ir.Node("", "ConstantOfShape", [count.outputs[0]], [zero], name=f"{name}/ConstantOfShape")
        old, new = inputs[name], made.outputs[0]
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new)
        graph.inputs.remove(old)
        previous = count.outputs[0]
        nodes += [product, up, count, made]
    for node in nodes:
        node.outputs[0].name = f"{node.name}/output"
        if node.op_type != "ConstantOfShape":
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    graph.insert_before(graph[0], nodes)


def stages_of(graph: ir.Model) -> int:
    """How many stages a graph in the slots form has."""
    return 1 + sum(node.op_type == "ConstantOfShape" and _is_ours(node) for node in graph.graph)


def stage_of(node: ir.Node) -> int:
    """The stage of a TokenSelect node in the slots form, counted from 0, by the slots that it reads."""
    slots = node.inputs[2]
    assert slots is not None
    maker = slots.producer()
    return 0 if maker is None else int((maker.name or "").removeprefix("slots_").partition("/")[0]) - 1


def patches_of(graph: ir.Model) -> int | None:
    """The number of patches by which the counts of later stages are computed; None where there is one stage."""
    for node in graph.graph:
        if node.op_type == "Div" and _is_ours(node):
            patches = node.inputs[1]
            assert patches is not None and patches.const_value is not None
            return int(patches.const_value.numpy().item())
    return None


def _is_ours(node: ir.Node) -> bool:
    return (node.name or "").startswith("slots_")


def _number(graph: ir.Graph, name: str, number: int) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.array([number], np.int64), name=name))
    graph.register_initializer(value)
    return value
