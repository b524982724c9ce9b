"""The graph variant for ONNX Runtime's CUDA provider, run on the CPU: contrib ops have CPU kernels in fp32."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_models import SMALL, small_model

from tokfilter.artifacts.bundle import Architecture
from tokfilter.export.graph import (
    fixed_graph_from_slots,
    full_graph_from_slots,
    select_node,
    slots_graph_from_model,
)
from tokfilter.export.onnx_file import cpu_session, load_graph, save_graph
from tokfilter.export.onnxruntime_cuda import cuda_graph_from_form, fusions_as_dict, slots_graph_for_cuda
from tokfilter.export.precision import LOW_TYPES, cast_precision

PATCHES, DEPTH = 16, 2


def forms_of(traced_graph, precision="fp32"):
    slots, _ = slots_graph_for_cuda(traced_graph, precision)
    return {
        "slots": slots,
        "fixed": fixed_graph_from_slots(slots, 5),
        "full": full_graph_from_slots(slots, PATCHES),
    }


def run(graph, tmp_path, precision, k=5, batch=3, for_cuda=True):
    path = tmp_path / "graph.onnx"
    save_graph(graph, path)
    session = cpu_session(path, precision, for_cuda)
    feed = {"images": torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()}
    if len(session.get_inputs()) == 2:
        feed["slots"] = np.zeros(k, np.int32)
    return session.run(None, feed)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_form_gives_the_results_of_the_plain_one(traced_graph, tmp_path, precision):
    for name, form in forms_of(traced_graph, precision).items():
        graph, _ = cuda_graph_from_form(form)
        for batch in (1, 3):
            expected = run(form, tmp_path, precision, batch=batch, for_cuda=False)
            found = run(graph, tmp_path, precision, batch=batch)
            error = np.abs(found[0] - expected[0]).max() / np.abs(expected[0]).max()
            assert error < {"fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}[precision], name
            if name != "full":
                np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("k", [1, 2, 15, PATCHES])
def test_the_budget_is_still_an_input(traced_graph, tmp_path, k):
    form = forms_of(traced_graph)["slots"]
    graph, _ = cuda_graph_from_form(form)
    expected, found = run(form, tmp_path, "fp32", k), run(graph, tmp_path, "fp32", k)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_everything_of_a_vit_is_fused(traced_graph, precision):
    for name, form in forms_of(traced_graph, precision).items():
        graph, fused = cuda_graph_from_form(form)
        ops = Counter(node.op_type for node in graph.graph)
        assert ops["MultiHeadAttention"] == ops["Split"] == DEPTH, name
        assert ops["SkipLayerNormalization"] == 2 * DEPTH, name
        assert ops["Softmax"] == ops["Erf"] == 0, name
        assert not [n.name for n in graph.graph if n.op_type in ("Slice", "Squeeze") and n.name.startswith("blocks")]
        assert all(not item.reasons for item in fused), [str(item) for item in fused]
        assert len(graph.graph) < 0.55 * len(form.graph), name


def test_what_was_fused_is_counted(traced_graph):
    _, fused = cuda_graph_from_form(forms_of(traced_graph)["slots"])
    assert fusions_as_dict(fused) == {
        "attentions": {"fused": 2, "found": 2, "not_fused": {}},
        "activations": {"fused": 4, "found": 4, "not_fused": {}},
        "layer norms of a residual sum": {"fused": 4, "found": 4, "not_fused": {}},
    }


def test_names_and_interface_survive(traced_graph, tmp_path):
    form = forms_of(traced_graph, "fp16")["slots"]
    graph, _ = cuda_graph_from_form(form)
    save_graph(graph, tmp_path / "graph.onnx")
    graph = load_graph(tmp_path / "graph.onnx")
    assert [v.name for v in graph.graph.inputs] == ["images", "slots"]
    assert [(v.name, v.dtype) for v in graph.graph.outputs] == [
        ("logits", ir.DataType.FLOAT),
        ("indices", ir.DataType.INT32),
    ]
    names = [node.name for node in graph.graph]
    assert len(set(names)) == len(names)
    assert select_node(graph).name == "patch_drop/TokenSelect"
    for block in range(DEPTH):
        assert f"blocks.{block}.attn/MultiHeadAttention" in names
        assert f"blocks.{block}.attn.qkv/MatMul" in names
        assert f"blocks.{block}.norm2/SkipLayerNormalization" in names


def test_no_row_number_is_computed_from_the_number_of_images(traced_graph):
    """ONNX Runtime computes from shapes on the CPU; a copy from there to the GPU cannot be captured."""
    for form in ("slots", "fixed"):
        graph, _ = cuda_graph_from_form(forms_of(traced_graph)[form])
        (function,) = graph.functions.values()
        shapes = [node.inputs[0].name for node in function if node.op_type == "Shape"]
        assert shapes == (["slots"] if form == "slots" else [])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_stays_low_around_the_norms(traced_graph, precision):
    graph, _ = cuda_graph_from_form(forms_of(traced_graph, precision)["slots"])
    low = LOW_TYPES[precision]
    for node in graph.graph:
        if node.op_type in ("SkipLayerNormalization", "MultiHeadAttention", "BiasGelu") and "scorer" not in node.name:
            assert {v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.dtype} == {low}, node.name


def test_the_plain_graph_is_not_changed(traced_graph):
    before = [(node.op_type, node.name) for node in traced_graph.graph]
    for form in forms_of(traced_graph).values():
        kept = [(node.op_type, node.name) for node in form.graph]
        cuda_graph_from_form(form)
        assert [(node.op_type, node.name) for node in form.graph] == kept
    assert [(node.op_type, node.name) for node in traced_graph.graph] == before


KINDS = {
    "q/k norm": ({"qk_norm": True}, {}),
    "no bias of q, k, v": ({"qkv_bias": False}, {}),
    "LayerScale": ({"init_values": 0.3}, {"layer scales": 4}),
    "tanh GELU": ({"act_layer": "gelu_tanh"}, {}),
    "quick GELU": ({"act_layer": "quick_gelu"}, {}),
    "attention pooling": ({"global_pool": "map"}, {"attentions": 3, "activations": 5}),
    "average pooling": ({"global_pool": "avg"}, {"layer norms of a residual sum": 3}),  # the last comes after pooling
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """A small ViT of a kind: its trace, and what is fused in it beside what is in every one."""
    arguments, fused = KINDS[request.param]
    model = small_model(0, Architecture(SMALL.name, {**SMALL.kwargs, **arguments}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:  # norms, biases and LayerScale start at 0, 1 or one small number
                weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    return request.param, slots_graph_from_model(model), fused


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_kinds_of_vits(kind, tmp_path, precision):
    name, traced, extra = kind
    form = cast_precision(traced, precision)
    slots, folded = slots_graph_for_cuda(traced, precision)
    graph, fused = cuda_graph_from_form(slots)
    counts = {item.kind: item.count for item in (*folded, *fused) if item.count}
    assert counts == {"attentions": 2, "activations": 4, "layer norms of a residual sum": 4} | extra, name
    assert not [item.reasons for item in fused if item.reasons]
    expected = run(form, tmp_path, precision, for_cuda=True)
    found = run(graph, tmp_path, precision)
    error = np.abs(found[0] - expected[0]).max() / np.abs(expected[0]).max()
    assert error < {"fp32": 1e-5, "fp16": 1e-2}[precision], name
    np.testing.assert_array_equal(found[1], expected[1])
    ops = Counter(node.op_type for node in graph.graph)
    assert ops["Softmax"] == 0
    if name == "q/k norm":  # the norm is of each head, over the last axis: no transpose stays
        assert not [n.name for n in graph.graph if n.op_type == "Transpose" and n.name.startswith("blocks")]


def test_a_layer_scale_too_small_for_fp16_stays(tmp_path):
    model = small_model(0, Architecture(SMALL.name, {**SMALL.kwargs, "init_values": 1e-5}))
    traced = slots_graph_from_model(model)
    _, (fp32,) = slots_graph_for_cuda(traced, "fp32")
    _, (bf16,) = slots_graph_for_cuda(traced, "bf16")
    _, (fp16,) = slots_graph_for_cuda(traced, "fp16")
    assert (fp32.count, bf16.count, fp16.count) == (4, 4, 0)
    assert list(fp16.reasons) == ["gamma is too small for fp16"] and fp16.total == 4
    assert str(fp16).startswith("0 of 4 layer scales; not fused: gamma is too small for fp16 (4: blocks.0.ls1/Mul")


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        ("bias", "a bias or mask is added to the scores"),
        ("read twice", "the softmax is read by something else"),
    ],
)
def test_an_attention_of_another_form_stays_and_is_named(traced_graph, tmp_path, breaks, reason):
    form = traced_graph.clone()
    softmax = next(node for node in form.graph if node.op_type == "Softmax")
    if breaks == "bias":
        number = ir.Value(name="mask", const_value=ir.tensor(np.zeros((1, 1, 1), np.float32), name="mask"))
        form.graph.register_initializer(number)
        node = ir.node("Add", [softmax.inputs[0], number], name="mask/Add")
        form.graph.insert_before(softmax, node)
        softmax.replace_input_with(0, node.outputs[0])
    else:
        node = ir.node("Identity", [softmax.outputs[0]], name="weights/Identity")
        form.graph.insert_after(softmax, node)
        form.graph.outputs.append(node.outputs[0])
    node.outputs[0].name, node.outputs[0].type = f"{breaks} value", softmax.outputs[0].type
    node.outputs[0].shape = softmax.outputs[0].shape
    graph, (attentions, *_) = cuda_graph_from_form(form)
    assert (attentions.count, attentions.total) == (1, 2)
    ((found, names),) = attentions.reasons.items()
    assert found.startswith(reason) and names == [softmax.name]
    np.testing.assert_allclose(run(graph, tmp_path, "fp32")[0], run(form, tmp_path, "fp32")[0], rtol=1e-4, atol=1e-6)
