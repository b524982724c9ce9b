"""Graphs that are no GELU stay as they are. Those that are: ``tests/export/test_onnxruntime_cuda.py``."""

import onnx
import onnx_ir as ir
import pytest

from tokfilter.export.contrib.activations import fuse_activations

ERF = "q = Div (x, s) e = Erf (q) p = Add (e, one) m = Mul (x, p) y = Mul (m, h)"
TANH = (
    "c = Pow (x, three) k = Mul (c, w) a = Add (x, k) t = Mul (a, f) u = Tanh (t) p = Add (u, one) g = Mul (h, p) "
    "y = Mul (x, g)"
)
CONSTANTS = {"s": 1.4142135, "one": 1, "h": 0.5, "w": 0.044715, "f": 0.7978845, "three": 3}


def fused(body, more="", **changed):
    constants = ", ".join(f"float {name} = {{{value}}}" for name, value in (CONSTANTS | changed).items())
    text = (
        f'<ir_version: 10, opset_import: ["" : 18]> g (float[b, 3, 4] x) => (float[b, 3, 4] y{more}) '
        f"<{constants}> {{ {body} }}"
    )
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    found = fuse_activations(model.graph)
    assert model.graph.outputs[0].name == "y"
    return found, {node.op_type for node in model.graph if node.domain}


@pytest.mark.parametrize(
    ("body", "kind"), [(ERF, "Gelu"), (TANH, "FastGelu"), ("e = Sigmoid (x) y = Mul (x, e)", "QuickGelu")]
)
def test_activations_are_one_node(body, kind):
    found, kinds = fused(body)
    assert (found.count, found.total, kinds) == (1, 1, {kind})


@pytest.mark.parametrize("changed", [{"s": 1.3}, {"one": 2}, {"h": 0.6}, {"s": 0}])
def test_other_constants_are_no_gelu(changed):
    found, kinds = fused(ERF, **changed)
    assert (found.count, list(found.reasons), kinds) == (0, ["erf is no part of a GELU"], set())


@pytest.mark.parametrize("changed", [{"w": 0.05}, {"f": 0.7}, {"three": 2}, {"one": 2}, {"h": 1}])
def test_other_constants_are_no_tanh_gelu(changed):
    found, kinds = fused(TANH, **changed)
    assert (found.count, list(found.reasons), kinds) == (0, ["tanh is no part of a GELU"], set())


@pytest.mark.parametrize(
    "body",
    [
        "q = Div (x, s) y = Erf (q)",
        "q = Div (x, s) e = Erf (q) y = Add (e, one)",
        "q = Div (x, s) e = Erf (q) p = Add (e, one) n = Neg (x) m = Mul (n, p) y = Mul (m, h)",
        "t = Mul (x, f) y = Tanh (t)",
        "y = Sigmoid (x)",
        "n = Neg (x) e = Sigmoid (x) y = Mul (n, e)",
    ],
)
def test_parts_of_other_functions_stay(body):
    found, kinds = fused(body)
    assert (found.count, found.total, kinds) == (0, 1, set())


def test_a_value_that_something_else_reads_stays_too():
    found, kinds = fused(ERF, more=", float[b, 3, 4] e")
    assert (found.count, found.total, kinds) == (0, 1, set())
