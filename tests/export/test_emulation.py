"""Rounding on a CPU as a GPU does it, where ONNX Runtime's CPU does not."""

import numpy as np
import onnx_ir as ir
import pytest

from tokfilter.export.emulation import emulate_low_precision
from tokfilter.export.onnx_file import cpu_session, emulated_session, save_graph

ONNX_TYPES = {"fp16": 10, "bf16": 16}


def saved(graph, tmp_path):
    save_graph(graph, tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


def graph_of(body, precision, shape="4, 4"):
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 18]> g (float[{shape}] a, float[{shape}] b) => (float[{shape}] y)'
        f"{{ c = Cast <to = {ONNX_TYPES[precision]}> (a) d = Cast <to = {ONNX_TYPES[precision]}> (b) {body}"
        " y = Cast <to = 1> (z) }"
    )


def test_it_rounds_after_each_operation(tmp_path):
    graph = graph_of("p = MatMul (c, d) s = Softmax (p) z = Add (s, p)", "fp16")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((4, 4)).astype(np.float16) for _ in range(2))
    session = cpu_session(saved(emulate_low_precision(graph), tmp_path), "fp32")
    (found,) = session.run(None, {"a": a.astype(np.float32), "b": b.astype(np.float32)})
    product = (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16).astype(np.float32)
    shares = np.exp(product - product.max(-1, keepdims=True))
    shares = (shares / shares.sum(-1, keepdims=True)).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, (shares + product).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("precision", "overflows"), [("fp16", True), ("bf16", False)])
def test_a_result_beyond_the_type_becomes_infinite(tmp_path, precision, overflows):
    """A product of 80,000, divided again by the next one: only fp16 ends at 65,504."""
    path = saved(graph_of("p = MatMul (c, d) h = Mul (d, d) z = Div (p, h)", precision), tmp_path)
    a, b = np.full((4, 4), 200, np.float32), np.full((4, 4), 100, np.float32)
    (found,) = emulated_session(path).run(None, {"a": a, "b": b})
    assert np.isinf(found).all() == overflows
    assert overflows or np.allclose(found, 8, rtol=0.02)


def test_onnxruntime_alone_does_not_show_the_overflow(tmp_path):
    """Why graphs in fp16 are emulated: should this fail with a newer ONNX Runtime, the emulation may go."""
    path = saved(graph_of("p = MatMul (c, d) h = Mul (d, d) z = Div (p, h)", "fp16"), tmp_path)
    a, b = np.full((4, 4), 200, np.float32), np.full((4, 4), 100, np.float32)
    (found,) = cpu_session(path, "fp16").run(None, {"a": a, "b": b})
    assert np.isfinite(found).all()
