"""Fusing foreign graphs: token selections of the field as torch's two exporters write them, opset 11 and later."""

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
from selection_forms import FORMS, C, K, N, summary_of_the_complement, take_along_dim, topk_gather, topk_sorted_gather

from tokfilter.export.fuse import fuse_graph


def outputs(path, x):
    options = onnxruntime.SessionOptions()  # the optimizer on, as users run it
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def check_fused(source, target, k, prefix, inside, order, batches=(1, 2, 5)):
    """One TokenSelect with these attributes, a valid file, and the same bits as before in ONNX Runtime."""
    report = fuse_graph(source, target)
    assert (report.matched, report.replaced, report.near_misses) == (1, 1, ())
    assert report.nodes_after < report.nodes_before
    fused = onnx.load(target)
    onnx.checker.check_model(fused, full_check=True)
    (node,) = (node for node in fused.graph.node if node.op_type == "TokenSelect")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "k": k,
        "prefix_tokens": inside,
        "order": order.encode(),
        "plugin_namespace": b"tokfilter",
        "plugin_version": b"1",
    }
    assert "TopK" not in {node.op_type for node in fused.graph.node}
    check_same_bits(source, target, prefix, batches)
    return report, fused


def check_same_bits(source, target, prefix, batches=(1, 2, 5)):
    for batch in batches:
        x = np.random.default_rng(batch).standard_normal((batch, prefix + N, C)).astype(np.float32)
        for before, after in zip(outputs(source, x), outputs(target, x), strict=True):
            assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("select", FORMS, ids=lambda select: select.__name__)
def test_forms_with_a_free_batch_from_torchscript(select, opset, foreign_graph, tmp_path):
    prefix, inside, order, k = FORMS[select]
    check_fused(foreign_graph(select, "torchscript", opset, prefix), tmp_path / "fused.onnx", k, prefix, inside, order)


@pytest.mark.parametrize("select", FORMS, ids=lambda select: select.__name__)
def test_forms_with_a_fixed_batch_from_torchscript(select, foreign_graph, tmp_path):
    prefix, inside, order, k = FORMS[select]
    source = foreign_graph(select, "torchscript", 13, prefix, free=())
    check_fused(source, tmp_path / "fused.onnx", k, prefix, inside, order, (2,))


@pytest.mark.slow  # the exporter takes seconds for a graph of any size, hence many forms in one
@pytest.mark.parametrize("half", [0, 1])
def test_half_of_the_forms_in_one_graph_from_dynamo(half, foreign_graph, tmp_path):
    middle = len(FORMS) // 2
    forms = list(FORMS.items())[half * middle : middle + half * len(FORMS)]

    def select(x, scores):
        """Each form on tokens and scores of its own, so that no two share a node."""
        results = []
        for i, (one, (prefix, *_)) in enumerate(forms, start=1):
            rows = x[:, 2 - prefix :] * i
            result = one(rows, scores * i + rows[:, prefix:, 0])
            results += result if isinstance(result, tuple) else [result]
        return tuple(results)

    source, target = foreign_graph(select, "dynamo", 18, prefix=2), tmp_path / "fused.onnx"
    report = fuse_graph(source, target)
    assert report.near_misses == ()
    # Two orders in one graph: one function body serves both, selected by an attribute.
    nodes = [node for node in onnx.load(target).graph.node if node.op_type == "TokenSelect"]
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]
    assert [[a["prefix_tokens"], a["order"].decode(), a["k"]] for a in attributes] == [
        attributes for _, (_, *attributes) in forms
    ]
    assert all(a["by_position"] == (a["order"] == b"position") for a in attributes)
    check_same_bits(source, target, prefix=2)


def test_take_along_dim(foreign_graph, tmp_path):
    """TorchScript does not export it, and dynamo ties it to the example's batch."""
    check_fused(foreign_graph(take_along_dim, "dynamo", 18, free=()), tmp_path / "fused.onnx", K, 1, 1, "score", (2,))


@pytest.mark.parametrize(
    ("exporter", "opset"),
    [*(("torchscript", opset) for opset in range(11, 21)), *(("dynamo", opset) for opset in range(18, 22))],
)
def test_every_opset(exporter, opset, foreign_graph, tmp_path):
    source = foreign_graph(topk_sorted_gather, exporter, opset)
    report, fused = check_fused(source, tmp_path / "fused.onnx", K, 1, 1, "position")
    assert report.opset == max(opset, 12)
    assert {entry.domain: entry.version for entry in fused.opset_import} == {"": max(opset, 12), "tokfilter": 1}
    assert 8 <= fused.ir_version <= 10


@pytest.mark.parametrize("opset", [12, 18])
def test_what_sorts_positions_is_no_top_k_of_scores(opset, foreign_graph, tmp_path):
    report = fuse_graph(
        foreign_graph(summary_of_the_complement, "torchscript", opset), target := tmp_path / "fused.onnx"
    )
    assert [(site.k, site.prefix_tokens, site.order) for site in report.sites] == [(K, 1, "score")]
    assert [miss.reason for miss in report.near_misses] == [
        "it sorts integers (INT64), such as positions, and no scores"
    ]
    check_same_bits(tmp_path / "foreign.onnx", target, 1)


@pytest.mark.parametrize("opset", [13, 15, 21])
def test_graphs_that_the_version_converter_made(opset, foreign_graph, tmp_path):
    source = foreign_graph(topk_gather, "torchscript", 12)
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), opset), source)
    check_fused(source, tmp_path / "fused.onnx", K, 1, 1, "score")
