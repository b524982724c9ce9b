"""Which nodes compute one row only, in small graphs: x [B, N, 4] to what the head reads."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
import pytest

from tokfilter.export.class_token_rows import take_class_token_early

HEAD = """<ir_version: 10, opset_import: ["" : 18]>
g (float[b,n,4] x, float[b,n,4] z) => (float{result} y)
<float[4,4] w = {{1,2,3,4, 5,6,7,8, 2,1,0,1, 0,1,0,3}}, float[4] c = {{1,0,2,3}}, int64 zero = {{0}},
 int64 last = {{-1}}, int64[1] first = {{0}}, float[1,1,4] p = {{1,2,3,4}}> {{ {body} }}"""
INPUTS = {name: np.random.default_rng(i).standard_normal((2, 5, 4), np.float32) for i, name in enumerate("xz")}


def graph_of(body, result="[b,4]"):
    text = HEAD.format(body=body, result=result)
    graph = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    passes.ShapeInferencePass()(graph)
    return graph


def results(graph):
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {item.name: INPUTS[item.name] for item in session.get_inputs()})


@pytest.mark.parametrize(
    ("body", "moved"),
    [
        ("a = MatMul(x, w) d = Add(a, c) y = Gather<axis=1>(d, zero)", 2),
        ("a = MatMul(x, w) d = Add(a, c) y = Gather<axis=1>(d, last)", 2),
        ("a = MatMul(x, w) d = Add(z, a) e = Erf(d) f = Mul(d, e) y = Gather<axis=1>(f, zero)", 4),
        ("a = LayerNormalization<axis=2>(x, c) d = Add(a, z) y = Gather<axis=1>(d, zero)", 2),
        ("a = Softmax<axis=1>(x) d = Add(a, c) y = Gather<axis=1>(d, zero)", 1),
        ("a = Add(x, p) d = Add(a, c) y = Gather<axis=1>(d, zero)", 1),
        ("y = Gather<axis=1>(x, zero)", 0),
        ("a = MatMul(z, w) d = Softmax<axis=1>(a) e = Add(a, d) y = Gather<axis=1>(e, zero)", 1),
    ],
)
def test_row_wise_nodes_run_on_one_row(body, moved):
    graph, before = graph_of(body), graph_of(body)
    assert take_class_token_early(graph.graph) == moved
    np.testing.assert_allclose(results(graph)[0], results(before)[0], rtol=1e-5)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("a = Add(x, c) y = Gather<axis=0>(a, zero)", "[n,4]"),
        ("a = Add(x, c) y = Gather<axis=2>(a, zero)", "[b,n]"),
        ("a = Add(x, c) y = Gather<axis=1>(a, first)", "[b,1,4]"),
        ("a = Add(x, c) d = Gather<axis=1>(a, zero) e = ReduceMax<keepdims=0>(a) y = Add(d, e)", "[b,4]"),
    ],
)
def test_a_gather_of_something_else_stays(body, result):
    graph = graph_of(body, result)
    before = [str(node) for node in graph.graph]
    assert take_class_token_early(graph.graph) == 0
    assert [str(node) for node in graph.graph] == before


def test_two_tokens_of_one_value_stay():
    """A distilled model's two heads."""
    graph = graph_of("a = Add(x, c) d = Gather<axis=1>(a, zero) e = Gather<axis=1>(a, last) y = Add(d, e)")
    assert take_class_token_early(graph.graph) == 0
