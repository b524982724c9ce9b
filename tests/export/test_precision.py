import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from tokfilter.errors import ExportError
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, select_node
from tokfilter.export.onnx_file import cpu_session, load_graph, save_graph
from tokfilter.export.precision import LOW_TYPES, cast_precision, with_fp32_nodes

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


ATTENTION = "blocks.0.attn/Softmax"


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("names", [[], [ATTENTION], ["head/Gemm"], ["blocks.1/Add_1", "patch_drop/TokenSelect"]])
def test_named_nodes_stay_fp32_and_the_others_do_not(traced_graph, tmp_path, precision, names):
    plain = cast_precision(traced_graph, precision).graph
    low = {node.name for node in plain if node.outputs[0].dtype == LOW_TYPES[precision] and node.op_type != "Cast"}
    graph = cast_precision(traced_graph, precision, names)
    for node in graph.graph:
        if node.name in names:
            assert types_of([*node.inputs, *node.outputs]) == {ir.DataType.FLOAT}, node.name
        elif node.name in low:
            assert node.outputs[0].dtype == LOW_TYPES[precision], node.name
    onnx.checker.check_model(str(saved(graph, tmp_path)), full_check=True)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("form", ["slots", "fixed", "full"])
def test_a_cast_graph_is_widened_as_the_traced_one_is_cast(traced_graph, tmp_path, precision, form):
    """The weights of the widened nodes have been rounded, so outputs differ by that and no more."""
    names = ["blocks.0.attn.qkv/MatMul", ATTENTION, "blocks.1.mlp.fc2/MatMul", "blocks.1/Add", "head/Gemm"]
    forms = {
        "slots": lambda graph: graph,
        "fixed": lambda graph: fixed_graph_from_slots(graph, 5),
        "full": lambda graph: full_graph_from_slots(graph, PATCHES),
    }
    cast = forms[form](cast_precision(traced_graph, precision, names))
    widened = with_fp32_nodes(forms[form](cast_precision(traced_graph, precision)), precision, names)
    types = {node.name: node.outputs[0].dtype for node in cast.graph if node.op_type != "Cast"}
    assert {node.name: node.outputs[0].dtype for node in widened.graph if node.op_type != "Cast"} == types
    assert [(v.name, v.dtype) for v in widened.graph.outputs] == [(v.name, v.dtype) for v in cast.graph.outputs]
    path = saved(widened, tmp_path, "widened.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    found, expected = outputs(path, precision, 5)[0], outputs(saved(cast, tmp_path), precision, 5)[0]
    assert np.abs(found - expected).max() < (2e-3 if precision == "fp16" else 2e-2) * np.abs(expected).max()


@pytest.mark.parametrize("precision", LOW)
def test_widening_nothing_changes_nothing(traced_graph, tmp_path, precision):
    graph = cast_precision(traced_graph, precision)
    same = with_fp32_nodes(graph, precision, [])
    for name in ("a node that is not there", ""):
        assert len(with_fp32_nodes(graph, precision, [name]).graph) == len(same.graph) == len(graph.graph)
    first, second = (outputs(saved(g.clone(), tmp_path), precision, 7) for g in (graph, same))
    np.testing.assert_array_equal(first[0], second[0])
