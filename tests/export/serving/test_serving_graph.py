"""Graphs rewritten for hosts: equal to what they were made of, and their originals untouched."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tokfilter.artifacts.compare import TOLERANCES
from tokfilter.errors import ExportError, VerificationError
from tokfilter.export.graph import fixed_graph_from_slots
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.serving.serving_graph import batched_slots_graph, classifier_graph, outputs_of, require_same

SIZES = [(1, 1), (2, 7), (5, 16)]


@pytest.fixture
def slots_file(traced_graph, tmp_path):
    save_graph(traced_graph.clone(), tmp_path / "slots.onnx")
    return tmp_path / "slots.onnx"


def pictures(batch):
    return np.random.default_rng(batch).standard_normal((batch, 3, 32, 32), np.float32)


@pytest.mark.parametrize(("batch", "k"), SIZES)
def test_slots_with_a_row_for_each_image(traced_graph, slots_file, tmp_path, batch, k):
    save_graph(batched_slots_graph(traced_graph), tmp_path / "batched.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "batched.onnx"))
    wanted = outputs_of(slots_file, "fp32", {"images": pictures(batch), "slots": np.zeros(k, np.int32)})
    slots = np.random.default_rng(0).integers(-9, 9, (batch, k)).astype(np.int32)  # values are not read
    found = outputs_of(tmp_path / "batched.onnx", "fp32", {"images": pictures(batch), "slots": slots})
    assert list(found) == ["logits", "indices"]
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_the_original_stays_as_it_was(traced_graph):
    before = ir.to_proto(traced_graph).SerializeToString(deterministic=True)
    batched_slots_graph(traced_graph)
    classifier_graph(fixed_graph_from_slots(traced_graph, 8), np.ones(3, np.float32))
    assert ir.to_proto(traced_graph).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("scale", [None, np.array([0.5, 1.0, 3.0], np.float32)])
@pytest.mark.parametrize(("batch", "k"), SIZES)
def test_one_output_of_probabilities(traced_graph, tmp_path, batch, k, scale):
    fixed = fixed_graph_from_slots(traced_graph, k)
    save_graph(fixed, tmp_path / "fixed.onnx")
    save_graph(classifier_graph(fixed, scale), tmp_path / "classifier.onnx")
    factor = 1 if scale is None else scale[:, None, None]
    logits = outputs_of(tmp_path / "fixed.onnx", "fp32", {"images": pictures(batch) * factor})["logits"]
    found = outputs_of(tmp_path / "classifier.onnx", "fp32", {"images": pictures(batch)})
    assert list(found) == ["probabilities"]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(found["probabilities"], powers / powers.sum(1, keepdims=True), atol=1e-6)


def test_a_graph_without_the_output_or_the_input_is_refused(traced_graph):
    graph = traced_graph.clone()
    graph.graph.outputs.clear()
    with pytest.raises(ExportError, match=r"must have an output logits, got none. Export again"):
        classifier_graph(graph, None)
    graph.graph.inputs[0].name = "pictures"
    for rewrite in (batched_slots_graph, lambda graph: classifier_graph(graph, np.ones(3, np.float32))):
        with pytest.raises(ExportError, match="must have an input images, got pictures, slots"):
            rewrite(graph)


def test_what_differs_too_much_is_refused(tmp_path):
    wanted = np.array([[1.0, -2.0]], np.float32)
    path, limit = tmp_path / "model.onnx", TOLERANCES["fp32"].relative
    require_same(path, wanted + limit, wanted, "fp32")
    for found in (wanted + 4 * limit, np.full_like(wanted, np.nan), wanted[:, :1], np.repeat(wanted, 2, 0)):
        with pytest.raises(VerificationError, match=r"model.onnx, rewritten for its server, differs from "):
            require_same(path, found, wanted, "fp32")
    require_same(path, wanted + 4 * limit, wanted, "fp16")
