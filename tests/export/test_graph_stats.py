"""One count of MACs: in the ONNX graph, and by torch."""

import pytest
from families import FAMILIES, traced_family

from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots
from tokfilter.export.graph_stats import lengths_of, macs
from tokfilter.export.shapes import infer_shapes
from tokfilter.vit.macs import macs as macs_of_model


def check(model, slots):
    n = model.num_patches
    full = infer_shapes(full_graph_from_slots(slots, n))
    assert macs(full, lengths_of(full)) == macs_of_model(model, n)
    fixed = infer_shapes(fixed_graph_from_slots(slots, n // 3))
    assert macs(fixed, lengths_of(fixed)) == macs_of_model(model, n // 3)
    infer_shapes(slots)
    for k in (1, 7, n // 2, n - 1):
        assert macs(slots, lengths_of(slots, k)) == macs_of_model(model, k)


@pytest.mark.parametrize("name", FAMILIES)
def test_graph_and_torch_count_the_same(name):
    check(*traced_family(name))


def test_they_count_the_same_in_two_blocks(model, traced_graph):
    check(model, traced_graph.clone())
