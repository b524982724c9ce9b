"""Products for q, k and v, from one that is cut."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
import pytest

from tokfilter.export.separate_projections import separate_projections
from tokfilter.export.simplify import without_dead_code

HEADS, DEPTH = 2, 3
CUT = """r = Reshape(h, sizes) t = Transpose<perm=[2,0,3,1,4]>(r)
 q5 = Slice(t, i0, i1, i0) k5 = Slice(t, i1, i2, i0) v5 = Slice(t, i2, i3, i0)
 q = Squeeze(q5, i0) k = Squeeze(k5, i0) v = Squeeze(v5, i0)"""
TEXT = """<ir_version: 10, opset_import: ["" : 18]>
g (float[b,n,4] x, float[b,n,18] other) => (float[b,2,n,3] q, float[b,2,n,3] k, float[b,2,n,3] v{more})
<int64[5] sizes = {{0,0,3,2,3}}, int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i2 = {{2}}, int64[1] i3 = {{3}}>
{{ {body} {cut} }}"""


def graph_of(body, more=""):
    model = onnx.parser.parse_model(TEXT.format(body=body, more=more, cut=CUT))
    numbers = np.random.default_rng(0)
    for name, shape in (("w", (4, 18)), ("c", (18,))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(numbers.random(shape, np.float32), name))
    graph = ir.serde.deserialize_model(model)
    passes.ShapeInferencePass()(graph)
    return graph


def results(graph):
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    numbers = np.random.default_rng(1)
    feeds = {"x": numbers.random((2, 5, 4), np.float32), "other": numbers.random((2, 5, 18), np.float32)}
    return session.run(None, {item.name: feeds[item.name] for item in session.get_inputs()})


@pytest.mark.parametrize(
    "body", ["p = MatMul(x, w) h = Add(p, c)", "p = MatMul(x, w) h = Add(c, p)", "h = MatMul(x, w)"]
)
def test_three_products(body):
    graph, before = graph_of(body), graph_of(body)
    assert separate_projections(graph.graph) == 1
    without_dead_code(graph)
    kinds = [node.op_type for node in graph.graph]
    assert kinds.count("MatMul") == kinds.count("Transpose") == 3
    assert not {"Slice", "Squeeze"} & set(kinds)
    assert [tuple(graph.graph.initializers[f"w/part_{part}"].const_value.shape) for part in range(3)] == [(4, 6)] * 3
    assert "w" not in graph.graph.initializers
    for found, expected in zip(results(graph), results(before), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("h = Add(other, c)", ""),
        ("p = MatMul(x, w) h = Add(p, other)", ""),
        ("p = MatMul(x, w) h = Add(p, c) again = Relu(h)", ", float[b,n,18] again"),
        ("p = MatMul(x, w) again = Relu(p) h = Add(p, c)", ", float[b,n,18] again"),
    ],
    ids=["no product", "no constant bias", "the result is read", "the product is read"],
)
def test_other_projections_stay(body, more):
    graph = graph_of(body, more)
    before = [str(node) for node in graph.graph]
    assert separate_projections(graph.graph) == 0
    assert [str(node) for node in graph.graph] == before
