import onnx
import onnx_ir as ir
import pytest

from tokfilter.export.contrib.walk import Fused, biased, lone_use, unscaled


def graph_of(body, inputs="float[b, 3, 4] x", outputs="float[b, 3, 4] y"):
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => ({outputs}) {body}'
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph


@pytest.mark.parametrize(
    ("body", "factor"),
    [
        ("<float c = {2}> { y = Mul (x, c) }", 2.0),
        ("<float c = {2}> { y = Mul (c, x) }", 2.0),
        ("<float c = {4}> { y = Div (x, c) }", 0.25),
        ("<float c = {4}, float[1] d = {8}> { z = Mul (d, x) y = Div (z, c) }", 2.0),
        ("<float c = {4}> { y = Div (c, x) }", 1.0),  # not a scale of x
        ("<float c = {0}> { y = Div (x, c) }", 1.0),
        ("<float[4] c = {1, 2, 3, 4}> { y = Mul (x, c) }", 1.0),
        ("{ y = Mul (x, x) }", 1.0),
    ],
)
def test_a_factor_is_one_number(body, factor):
    graph = graph_of(body)
    value, found = unscaled(graph.outputs[0])
    assert found == factor
    assert (value.name == "x") == (factor != 1.0)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<float[4] c = {1, 2, 3, 4}> { y = Add (x, c) }", True),
        ("<float[4] c = {1, 2, 3, 4}> { y = Add (c, x) }", True),
        ("<float[1] c = {1}> { y = Add (x, c) }", False),  # broadcast, not one number per channel
        ("<float c = {1}> { y = Add (x, c) }", False),
        ("<float[3, 1] c = {1, 2, 3}> { y = Add (x, c) }", False),
        ("{ y = Add (x, x) }", False),
    ],
)
def test_a_bias_has_one_number_per_channel(body, found):
    graph = graph_of(body)
    result = biased(graph.outputs[0])
    assert (result is not None) == found
    if result is not None:
        assert [value.name for value in result] == ["x", "c"]


def test_a_lone_use_is_no_output_and_no_second_use():
    graph = graph_of("{ a = Neg (x) b = Neg (a) y = Add (b, b) }")
    by_name = {node.outputs[0].name: node for node in graph}
    assert lone_use(by_name["a"].outputs[0]) is by_name["b"]
    assert lone_use(by_name["b"].outputs[0]) is None  # read twice
    assert lone_use(graph.outputs[0]) is None


def test_counts_are_written_with_their_reasons():
    fused, node = Fused("norms"), ir.node("Softmax", [], name="blocks.0/Softmax")
    fused.count = 2
    assert str(fused) == "2 of 2 norms"
    fused.refuse(node, "odd")
    fused.refuse(node, "odd")
    assert str(fused) == "2 of 4 norms; not fused: odd (2: blocks.0/Softmax)"
