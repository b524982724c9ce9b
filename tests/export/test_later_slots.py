"""Counts of later stages, read back from a graph; exports of every reducer are in test_reducers.py."""

import onnx_ir as ir
import pytest

from tokfilter.errors import ExportError
from tokfilter.export.later_slots import derive_later_slots, kept_lengths
from tokfilter.vit.reducers.counts import CONSTANT, RATIO, stage_counts


def slots_graph(stages: int) -> ir.Model:
    inputs = [
        ir.Value(name="slots" if i == 0 else f"slots_{i + 1}", type=ir.TensorType(ir.DataType.INT32))
        for i in range(stages)
    ]
    for value in inputs:
        value.shape = ir.Shape([None])
    ends = [ir.node("Identity", [value], name=f"end_{i}") for i, value in enumerate(inputs)]
    graph = ir.Graph(inputs, [end.outputs[0] for end in ends], nodes=ends, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("schedule", [RATIO, CONSTANT])
@pytest.mark.parametrize("k", [1, 7, 25, 49])
def test_the_counts_of_a_graph_are_those_of_the_model(schedule: str, k: int) -> None:
    model = slots_graph(4)
    derive_later_slots(model.graph, 49, 4, schedule)
    assert list(kept_lengths(model, k).values()) == list(stage_counts(k, 49, 4, schedule))
    assert kept_lengths(slots_graph(1), k) == {"kept": k}


def test_a_graph_that_does_not_say_them_is_refused() -> None:
    model = slots_graph(3)
    derive_later_slots(model.graph, 49, 3)
    for node in model.graph:
        if node.op_type == "Div":
            node.name = "another"
    with pytest.raises(ExportError, match="does not say how many tokens its later stages keep"):
        kept_lengths(model, 8)
