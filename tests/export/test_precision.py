import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from tokfilter.errors import ExportError
from tokfilter.export.emulation import emulate_low_precision
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, select_node
from tokfilter.export.onnx_file import cpu_session, load_graph, save_graph
from tokfilter.export.precision import LOW_TYPES, cast_precision

LOW = ["fp16", "bf16"]
PATCHES = 16


def outputs(path, precision, k, batch=3):
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()
    session = cpu_session(path, precision)
    names = [item.name for item in session.get_inputs()]
    feed = {"images": images} | ({"slots": np.zeros(k, np.int32)} if "slots" in names else {})
    return session.run(None, feed)


def saved(graph, tmp_path, name="graph.onnx"):
    save_graph(graph, tmp_path / name)
    return tmp_path / name


def types_of(values):
    return {
        value.dtype
        for value in values
        if value is not None and value.dtype is not None and value.dtype.is_floating_point()
    }


@pytest.mark.parametrize("precision", LOW)
def test_matrix_products_are_low_and_what_decides_stays_fp32(traced_graph, precision):
    graph = cast_precision(traced_graph, precision)
    low = LOW_TYPES[precision]
    for node in graph.graph:
        types = types_of([*node.inputs, *node.outputs])
        if node.op_type in ("MatMul", "Gemm") and (node.name or "").startswith(("blocks", "head")):
            assert types == {low}, node.name
        if node.op_type in ("LayerNormalization", "Conv") or (node.name or "").startswith("patch_drop.scorer"):
            assert types <= {ir.DataType.FLOAT}, node.name
    select = select_node(graph)
    assert (select.inputs[0].dtype, select.inputs[1].dtype) == (low, ir.DataType.FLOAT)


@pytest.mark.parametrize("precision", LOW)
def test_inputs_and_outputs_stay_as_they_were(traced_graph, precision):
    graph = cast_precision(traced_graph, precision).graph
    assert [(v.name, v.dtype) for v in graph.inputs] == [("images", ir.DataType.FLOAT), ("slots", ir.DataType.INT32)]
    assert [(v.name, v.dtype) for v in graph.outputs] == [("logits", ir.DataType.FLOAT), ("indices", ir.DataType.INT32)]


@pytest.mark.parametrize("precision", LOW)
def test_every_form_is_valid_keeps_the_same_tokens_and_is_near(traced_graph, tmp_path, precision):
    exact = outputs(saved(traced_graph.clone(), tmp_path, "exact.onnx"), "fp32", 5)
    typed = cast_precision(traced_graph, precision)
    full = outputs(saved(full_graph_from_slots(traced_graph, PATCHES), tmp_path, "full.onnx"), "fp32", PATCHES)
    forms = {
        "slots": (typed, exact),
        "fixed": (fixed_graph_from_slots(typed, 5), exact),
        "full": (full_graph_from_slots(typed, PATCHES), full),
    }
    for name, (graph, expected) in forms.items():
        path = saved(graph, tmp_path, f"{name}.{precision}.onnx")
        onnx.checker.check_model(str(path), full_check=True)
        found = outputs(path, precision, 5)
        error = np.abs(found[0] - expected[0]).max() / np.abs(expected[0]).max()
        assert 1e-6 < error < (5e-3 if precision == "fp16" else 5e-2), name  # not zero: the low type is really used
        if name != "full":
            np.testing.assert_array_equal(found[1], expected[1])


def test_low_weights_take_half_the_room(traced_graph, tmp_path):
    sizes = {}
    for precision in ("fp32", *LOW):
        graph = cast_precision(traced_graph, precision)
        sizes[precision] = sum(
            value.const_value.nbytes for name, value in graph.graph.initializers.items() if "patch_" not in name
        )
    assert sizes["fp16"] == sizes["bf16"] < 0.6 * sizes["fp32"]


def test_the_twin_rounds_after_each_operation(tmp_path):
    graph = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 18]> g (float[4, 8] a, float[8, 4] b) => (float[4, 4] y)'
        "{ c = Cast <to = 10> (a) d = Cast <to = 10> (b) p = MatMul (c, d) s = Softmax (p) t = Add (s, p)"
        " y = Cast <to = 1> (t) }"
    )
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((4, 8), (8, 4)))
    session = cpu_session(saved(emulate_low_precision(graph), tmp_path), "fp32")
    (found,) = session.run(None, {"a": a.astype(np.float32), "b": b.astype(np.float32)})
    product = (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16).astype(np.float32)
    shares = np.exp(product - product.max(-1, keepdims=True))
    shares = (shares / shares.sum(-1, keepdims=True)).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, (shares + product).astype(np.float16).astype(np.float32))


def test_weights_beyond_fp16_are_refused_and_bf16_takes_them(traced_graph, tmp_path):
    graph = traced_graph.clone()
    name = next(name for name in graph.graph.initializers if name.endswith("blocks.0.mlp.fc1.bias"))
    value = graph.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() + np.float32(70000), name=name)
    with pytest.raises(ExportError, match=r"fc1.bias holds weights up to 7e\+04, beyond fp16. Use bf16"):
        cast_precision(graph, "fp16")
    cast_precision(graph, "bf16")


def test_typing_leaves_the_traced_graph_alone(traced_graph):
    before = [(value.name, value.dtype) for value in traced_graph.graph.initializers.values()]
    cast_precision(traced_graph, "fp16")
    assert [(value.name, value.dtype) for value in traced_graph.graph.initializers.values()] == before


def test_a_cast_graph_is_read_back_as_it_was_written(traced_graph, tmp_path):
    typed = cast_precision(traced_graph, "bf16")
    again = load_graph(saved(typed.clone(), tmp_path))
    for name, value in typed.graph.initializers.items():
        assert again.graph.initializers[name].const_value.tobytes() == value.const_value.tobytes()
