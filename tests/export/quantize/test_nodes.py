"""Q/DQ nodes: where they are, their numbers, and that kept tokens do not change."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from quantize_images import in_opset

from tokfilter.errors import ExportError
from tokfilter.export.cpu_form import STEPS_OF, for_cpu
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots
from tokfilter.export.onnx_file import cpu_session, save_graph
from tokfilter.export.quantize.nodes import Linear, linears_of, quantized_graph

LAYERS = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


@pytest.fixture(scope="module")
def largest(traced_graph):
    return {linear.activation: 4.0 for linear in linears_of(traced_graph)}


def nodes(graph, op):
    return [node for node in graph.graph if node.op_type == op]


def run(graph, folder, precision, k=8, seed=0, batch=3):
    save_graph(graph, folder / f"{precision}.onnx")
    session = cpu_session(folder / f"{precision}.onnx", precision)
    feeds = {"images": np.random.default_rng(seed).standard_normal((batch, 3, 32, 32)).astype(np.float32)}
    if len(session.get_inputs()) > 1:
        feeds["slots"] = np.zeros(k, np.int32)
    return session.run(None, feeds)


def test_exactly_the_linear_layers_of_the_blocks_are_found(traced_graph):
    assert [linear.name for linear in linears_of(traced_graph)] == LAYERS


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_every_linear_layer_and_nothing_else_reads_quantised_values(traced_graph, largest, precision):
    graph = quantized_graph(traced_graph, precision, largest)
    readers = {use.node.name for node in nodes(graph, "DequantizeLinear") for use in node.outputs[0].uses()}
    assert readers == {linear.node for linear in linears_of(traced_graph)}
    assert len(nodes(graph, "QuantizeLinear")) == 8 and len(nodes(graph, "DequantizeLinear")) == 16
    kind = ir.DataType.INT8 if precision == "int8" else ir.DataType.FLOAT8E4M3FN
    zero_points = [node.inputs[2] for node in nodes(graph, "QuantizeLinear") + nodes(graph, "DequantizeLinear")]
    assert {value.const_value.dtype for value in zero_points} == {kind}
    assert not any(value.const_value.numpy().astype(np.float32).any() for value in zero_points), "symmetric"
    stored = [value.const_value for value in graph.graph.initializers.values()]
    assert sum(tensor.dtype == kind and len(tensor.shape) == 2 for tensor in stored) == 8
    assert not {linear.weight for linear in linears_of(traced_graph)} & set(graph.graph.initializers)


def test_names_are_unique_and_the_traced_graph_stays_as_it_was(traced_graph, largest):
    before = len(list(traced_graph.graph))
    graph = quantized_graph(traced_graph, "int8", largest)
    names = [node.name for node in graph.graph if node.name]
    assert len(names) == len(set(names)) and len(list(traced_graph.graph)) == before
    outputs = [output.name for node in graph.graph for output in node.outputs]
    assert len(outputs) == len(set(outputs))


def test_exempt_layers_stay_fp32(traced_graph, largest):
    linears = linears_of(traced_graph)
    graph = quantized_graph(traced_graph, "int8", largest, [linear.node for linear in linears[1:]])
    (readers,) = [[use.node.name for use in node.outputs[0].uses()] for node in nodes(graph, "DequantizeLinear")[:1]]
    assert len(nodes(graph, "QuantizeLinear")) == 1 and readers == [linears[0].node]


def test_weights_are_rounded_per_output_channel_to_at_most_half_a_step(traced_graph, largest):
    graph = quantized_graph(traced_graph, "int8", largest)
    for linear in linears_of(traced_graph):
        exact = traced_graph.graph.initializers[linear.weight].const_value.numpy()
        stored = graph.graph.initializers[f"{linear.node}/weight_quantized"].const_value.numpy()
        scale = graph.graph.initializers[f"{linear.node}/weight_scale"].const_value.numpy()
        assert stored.shape == exact.shape and scale.shape == (exact.shape[1],) and stored.min() >= -127
        assert (np.abs(stored * scale - exact) <= scale / 2 * 1.0001).all()
        assert (np.abs(stored).max(axis=0) == 127).all(), "each channel uses its whole range"


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_every_form_keeps_the_tokens_of_fp32_and_is_near_it(traced_graph, largest, precision, tmp_path):
    graph = quantized_graph(in_opset(traced_graph, 19), precision, largest)
    for k in (1, 8, 16):
        exact, found = run(traced_graph, tmp_path, "fp32", k), run(graph, tmp_path, precision, k)
        assert (exact[1] == found[1]).all()
        assert 0 < np.abs(exact[0] - found[0]).max() < 0.3 * np.abs(exact[0]).max()
    free = run(graph, tmp_path, precision, 5)
    assert np.allclose(run(fixed_graph_from_slots(graph, 5), tmp_path, precision)[0], free[0], atol=1e-5)
    everything = run(graph, tmp_path, precision, 16)[0]
    assert np.allclose(run(full_graph_from_slots(graph, 16), tmp_path, precision)[0], everything, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_onnx_runtime_computes_what_the_operators_mean(traced_graph, largest, precision, tmp_path):
    """ONNX's reference implementation, on a fixed budget (its own rounding differs by a step at ties)."""
    graph = fixed_graph_from_slots(quantized_graph(in_opset(traced_graph, 19), precision, largest), 8)
    found = run(graph, tmp_path, precision, batch=1)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    expected = ReferenceEvaluator(str(tmp_path / f"{precision}.onnx")).run(None, {"images": images})
    assert (found[1] == expected[1]).all()
    assert np.abs(found[0] - expected[0]).max() < 0.02 * np.abs(expected[0]).max()


def test_a_weight_of_zeros_gives_zeros_and_a_broken_one_is_refused(traced_graph, largest, tmp_path):
    graph = traced_graph.clone()
    weight = graph.graph.initializers[linears_of(graph)[0].weight]
    zeros = np.zeros(weight.shape, np.float32)
    weight.const_value = ir.tensor(zeros, name=weight.name)
    found = run(quantized_graph(graph, "int8", {**largest, linears_of(graph)[0].activation: 0.0}), tmp_path, "int8")
    assert np.isfinite(found[0]).all()
    zeros[0, 0] = np.nan
    weight.const_value = ir.tensor(zeros, name=weight.name)
    with pytest.raises(ExportError, match=r"NaN or infinite, which has no scale"):
        quantized_graph(graph, "int8", largest)


def test_gemm_with_a_transposed_weight_has_its_channels_in_the_first_dimension():
    text = """<ir_version: 10, opset_import: ["": 18, "tokfilter": 1]>
    g (float[2,4] x) => (float[2,3] y, int32[2,1] i) <float[3,4] w = {1,2,3,4,-5,6,7,8,0.5,0.25,0,0}> {
      [select] s, i = tokfilter.TokenSelect (x, x)
      h = Relu (s)
      ["blocks.0.mlp.fc1/Gemm"] y = Gemm <transB = 1> (h, w)
    }"""
    graph = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    (linear,) = linears_of(graph)
    assert linear == Linear("blocks.0.mlp.fc1", "blocks.0.mlp.fc1/Gemm", "h", "w")
    scale = quantized_graph(graph, "int8", {"h": 1.0}).graph.initializers["blocks.0.mlp.fc1/Gemm/weight_scale"]
    assert np.allclose(scale.const_value.numpy() * 127, [4, 8, 0.5])


def test_a_graph_without_such_layers_is_refused(traced_graph):
    graph = traced_graph.clone()
    for node in graph.graph:
        node.name = (node.name or "").replace("blocks.", "stages.")
    with pytest.raises(ExportError, match=r"need Linear layers inside the blocks of a ViT"):
        linears_of(graph)


def test_the_form_for_cpus_computes_the_head_on_one_row_with_the_same_results(traced_graph, largest, tmp_path):
    graph = quantized_graph(traced_graph, "int8", largest)
    for form in (graph, fixed_graph_from_slots(graph, 8), full_graph_from_slots(graph, 16)):
        fast = for_cpu(form, STEPS_OF["int8"])
        assert len(nodes(fast, "DequantizeLinear")) == len(nodes(form, "DequantizeLinear"))
        rows = {node.name: list(node.outputs[0].shape)[1] for node in nodes(fast, "MatMul") if "mlp" in node.name}
        assert rows.pop("blocks.1.mlp.fc2/MatMul") == rows.pop("blocks.1.mlp.fc1/MatMul") == 1
        assert 1 not in rows.values()
        for expected, found in zip(run(form, tmp_path, "int8"), run(fast, tmp_path, "int8"), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
