"""The CPU form gives the results of the traced one, for every kind of head, attention and prefix."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from families import traced_family

from tokfilter.export.cpu_form import STEPS, for_cpu
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots
from tokfilter.export.graph_stats import attentions, lengths_of, macs
from tokfilter.export.onnx_file import cpu_session, save_graph
from tokfilter.export.shapes import infer_shapes

PATCHES, DEPTH, WIDTH = 16, 2, 24


def run(graph, tmp_path, k=5, batch=3):
    path = tmp_path / "graph.onnx"
    save_graph(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    session = cpu_session(path, "fp32")
    size = session.get_inputs()[0].shape[2:]
    feed = {"images": torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1)).numpy()}
    if len(session.get_inputs()) == 2:
        feed["slots"] = np.zeros(k, np.int32)
    return session.run(None, feed)


def assert_same(form, tmp_path, k=5, steps=STEPS):
    for batch in (1, 3):
        expected, found = (run(graph, tmp_path, k, batch) for graph in (form, for_cpu(form, steps)))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=2e-6)
        for indices, wanted in zip(found[1:], expected[1:], strict=True):
            np.testing.assert_array_equal(indices, wanted)


def forms_of(traced):
    return [traced, fixed_graph_from_slots(traced, 5), full_graph_from_slots(traced, PATCHES)]


@pytest.mark.parametrize("k", [1, 2, 15, PATCHES])
def test_every_budget_of_one_graph(traced_graph, tmp_path, k):
    assert_same(traced_graph, tmp_path, k)


@pytest.mark.parametrize("steps", [*((step,) for step in STEPS), STEPS[::-1], ()], ids=str)
def test_every_form_after_every_step(traced_graph, tmp_path, steps):
    for form in forms_of(traced_graph):
        before = str(form.graph)
        assert_same(form, tmp_path, steps=steps)
        assert str(form.graph) == before


@pytest.mark.parametrize("name", ["average pooling", "gated MLP, rotary"])
def test_other_architectures(name, tmp_path):
    _, traced = traced_family(name)
    for form in forms_of(traced):
        assert_same(form, tmp_path)
        assert len(for_cpu(form).graph) <= 1.1 * len(form.graph)


def test_operators_of_a_vit(traced_graph):
    for form in forms_of(traced_graph):
        graph = for_cpu(form)
        names = Counter(node.op_type for node in graph.graph if (node.name or "").startswith("blocks"))
        assert names["Slice"] == names["Squeeze"] == names["Split"] == 0
        assert names["Transpose"] == 5 * DEPTH
        assert names["MatMul"] == 8 * DEPTH


def test_the_multiply_accumulates_are_those_of_the_rows_that_are_left(traced_graph):
    """One row of the last block's projection and MLP (9 C^2) instead of all; every attention reads all tokens."""
    for k, form in ((5, traced_graph), (5, fixed_graph_from_slots(traced_graph, 5))):
        traced, graph = infer_shapes(form.clone()), infer_shapes(for_cpu(form))
        saved = macs(traced, lengths_of(traced, k)) - macs(graph, lengths_of(graph, k))
        assert saved == k * 9 * WIDTH * WIDTH
        assert [(found.queries, found.keys) for found in attentions(graph, lengths_of(graph, k))] == [(6, 6)] * DEPTH


def test_scores_are_computed_as_before(traced_graph):
    """The same operators on the same weights: the kept tokens cannot change by rounding."""
    before, after = (
        [(node.op_type, node.name, *(value.name for value in node.inputs)) for node in graph.graph if in_scorer(node)]
        for graph in (traced_graph, for_cpu(traced_graph))
    )
    assert len(before) > 10
    assert after == before


def in_scorer(node):
    return "scorer" in (node.name or "")
