"""Row-wise nodes on [B * N, C], in small graphs."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
import pytest

from tokfilter.export.simplify import without_dead_code
from tokfilter.export.token_rows import tokens_as_rows

TEXT = """<ir_version: 10, opset_import: ["" : 18]>
g (float[b,{n},4] x, float[b,{n},4] z) => (float[{result}] y)
<float[4,6] w = {{1,2,3,4,5,6, 7,8,2,1,0,1, 0,1,0,3,2,2, 1,1,1,1,0,1}}, float[6] c = {{1,0,2,3,4,5}},
 int64[4] heads = {{0,0,2,3}}, int64[3] rest = {{0,0,-1}}, float[4] g = {{1,2,3,1}}> {{ {body} }}"""


def graph_of(body, result, n):
    graph = ir.serde.deserialize_model(onnx.parser.parse_model(TEXT.format(body=body, result=result, n=n)))
    passes.ShapeInferencePass()(graph)
    return graph


def results(graph, batch=2):
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    numbers = np.random.default_rng(0)
    return session.run(None, {i.name: numbers.random((batch, 5, 4), np.float32) for i in session.get_inputs()})[0]


@pytest.mark.parametrize("n", ["n", 5])
@pytest.mark.parametrize(
    ("body", "result", "rows"),
    [
        ("a = MatMul(x, w) d = Add(a, c) y = Transpose<perm=[1,0,2]>(d)", "{n},b,6", 2),
        ("a = MatMul(x, w) d = Add(a, c) r = Reshape(d, heads) y = Transpose<perm=[0,2,1,3]>(r)", "b,2,{n},3", 2),
        (
            "a = MatMul(x, w) r = Reshape(a, heads) m = Reshape(r, rest) d = Add(m, c) y = Softmax<axis=1>(d)",
            "b,{n},6",
            2,
        ),
        ("a = LayerNormalization<axis=2>(x, g) d = MatMul(a, w) e = Erf(d) y = Softmax<axis=1>(e)", "b,{n},6", 3),
        (
            "a = Add(x, z) d = MatMul(a, w) s = ReduceMean<keepdims=1>(a) t = Add(d, s) y = Softmax<axis=1>(t)",
            "b,{n},6",
            2,
        ),
    ],
)
def test_results_are_the_same_with_a_matrix(body, result, rows, n):
    result = result.format(n=n)
    graph, before = graph_of(body, result, n), graph_of(body, result, n)
    assert tokens_as_rows(graph.graph) == rows
    without_dead_code(graph)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    assert all(len(node.outputs[0].shape) == 2 for node in graph.graph if node.op_type in ("MatMul", "Erf"))
    assert ("Shape" in [node.op_type for node in graph.graph]) == (n == "n")
    for batch in (1, 2):
        np.testing.assert_allclose(results(graph, batch), results(before, batch), rtol=1e-5)


def test_nothing_changes_without_a_product_or_where_it_is_asked_to_stay():
    graph = graph_of("a = Add(x, z) y = Softmax<axis=1>(a)", "b,n,4", "n")
    assert tokens_as_rows(graph.graph) == 0
    graph = graph_of("a = MatMul(x, w) y = Softmax<axis=1>(a)", "b,n,6", "n")
    assert tokens_as_rows(graph.graph, list(graph.graph)) == 0
    assert [node.op_type for node in graph.graph] == ["MatMul", "Softmax"]


def test_tokens_that_the_graph_returns_keep_their_shape():
    graph = graph_of("a = MatMul(x, w) y = Add(a, c)", "b,n,6", "n")
    before = results(graph)
    assert tokens_as_rows(graph.graph) == 1
    np.testing.assert_allclose(results(graph), before, rtol=1e-5)
    assert results(graph).shape == (2, 5, 6)
