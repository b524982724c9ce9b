"""Sums whose norm is fused, and those where it is not."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from tokfilter.export.contrib.norms import fuse_norms
from tokfilter.export.contrib.walk import DOMAIN

WEIGHTS = "float[4] g = {1, 2, 3, 4}, float[4] b = {0, 1, 0, 1}, float[4] c = {5, 6, 7, 8}"


def model_of(body, outputs="float[n, 3, 4] y"):
    text = (
        f'<ir_version: 10, opset_import: ["" : 18, "{DOMAIN}" : 1]> t (float[n, 3, 4] x, float[n, 3, 4] z) '
        f"=> ({outputs}) <{WEIGHTS}> {{ {body} }}"
    )
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))


def results(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    numbers = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    return session.run(None, {"x": numbers[0], "z": numbers[1]})


def fused(model):
    graph = ir.serde.deserialize_model(model)
    found = fuse_norms(graph.graph)
    graph.graph.sort()
    return found, graph


@pytest.mark.parametrize(
    ("body", "outputs", "inputs"),
    [
        ("s = Add (x, z) y = LayerNormalization (s, g, b)", "float[n, 3, 4] y", 4),
        ("s = Add (x, z) y = LayerNormalization (s, g)", "float[n, 3, 4] y", 4),
        ("p = Add (x, c) s = Add (p, z) y = LayerNormalization (s, g, b)", "float[n, 3, 4] y", 5),
        ("p = Add (c, x) s = Add (z, p) y = LayerNormalization (s, g, b)", "float[n, 3, 4] y", 5),
        ("s = Add (x, z) l = LayerNormalization (s, g, b) y = Add (s, l)", "float[n, 3, 4] y", 4),
        ("s = Add (x, z) y = LayerNormalization (s, g, b)", "float[n, 3, 4] y, float[n, 3, 4] s", 4),
        ("s = Add (x, z) y = LayerNormalization <axis = 2, epsilon = 0.1> (s, g, b)", "float[n, 3, 4] y", 4),
    ],
)
def test_a_norm_of_a_sum_is_one_node_with_the_same_results(body, outputs, inputs):
    model = model_of(body, outputs)
    found, graph = fused(model)
    assert (found.count, found.total) == (1, 1)
    (node,) = [node for node in graph.graph if node.op_type == "SkipLayerNormalization"]
    assert len(node.inputs) == inputs
    for one, other in zip(results(ir.serde.serialize_model(graph)), results(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "y = LayerNormalization (x, g, b)",
        "s = Mul (x, z) y = LayerNormalization (s, g, b)",
        "s = Add (x, c) y = LayerNormalization (s, g, b)",  # a bias, no residual
    ],
)
def test_without_a_residual_sum_nothing_is_counted(body):
    found, graph = fused(model_of(body))
    assert found.total == 0 and not [node for node in graph.graph if node.domain]


def test_a_norm_over_several_axes_stays():
    weights = "float[3, 4] g = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}"
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> t (float[n, 3, 4] x, float[n, 3, 4] z) => (float[n, 3, 4] y) '
        f"<{weights}> {{ s = Add (x, z) y = LayerNormalization <axis = 1> (s, g) }}"
    )
    found, graph = fused(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    assert found.total == 0 and not [node for node in graph.graph if node.domain]


def test_a_result_that_fp32_nodes_read_stays_in_fp32():
    body = (
        "u = Cast <to = 10> (x) v = Cast <to = 10> (z) s = Add (u, v) w = Cast <to = 1> (s) "
        "l = LayerNormalization (w, g, b) h = Cast <to = 10> (l) k = Cast <to = 1> (h) y = Add (k, l)"
    )
    found, _ = fused(model_of(body))
    assert found.count == 0 and list(found.reasons) == ["the result is also used in FLOAT"]
