"""Graphs for TensorRT 8: equal to the originals in ONNX Runtime, and of operators that its parsers read."""

import itertools
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from families import FAMILIES, PATCHES, traced_family

from tokfilter.artifacts.bundle import Architecture
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.errors import ExportError
from tokfilter.export.cpu_form import STEPS_OF, for_cpu
from tokfilter.export.graph import (
    fixed_graph_from_slots,
    full_graph_from_slots,
    slots_graph_from_model,
    with_function,
)
from tokfilter.export.onnx_file import cpu_session, save_graph
from tokfilter.export.quantize.nodes import linears_of, quantized_graph
from tokfilter.export.selection import plain_graph
from tokfilter.export.tensorrt8 import graph_for_tensorrt8
from tokfilter.export.tensorrt8_nodes import check_operators, fp32_nodes
from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT


def forms_of(traced):
    """Every form of a model, with the versions whose parsers read its native ops."""
    yield traced, ["8.6"]
    for k in (1, 5, PATCHES):
        yield fixed_graph_from_slots(traced, k), ["8.5", "8.6"]
    yield full_graph_from_slots(traced, PATCHES), ["8.5", "8.6"]


def session_of(graph, path):
    save_graph(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    return cpu_session(path, "fp32")


def assert_same_results(original, rewritten, size, exact):
    names = [item.name for item in original.get_inputs()]
    assert [item.name for item in rewritten.get_inputs()] == names
    assert [item.name for item in rewritten.get_outputs()] == [item.name for item in original.get_outputs()]
    for batch, k in itertools.product((1, 3), (1, 5, PATCHES) if "slots" in names else (None,)):
        feed = {"images": np.random.default_rng(batch).standard_normal((batch, 3, *size), dtype=np.float32)}
        if k is not None:
            feed["slots"] = np.zeros(k, np.int32)
        logits, *indices = original.run(None, feed)
        found, *kept = rewritten.run(None, feed)
        np.testing.assert_allclose(found, logits, rtol=0 if exact else 1e-4, atol=2e-6)
        for expected, got in zip(indices, kept, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_results(name, tmp_path):
    model, traced = traced_family(name)
    size = model.backbone.patch_embed.img_size
    for graph, versions in forms_of(traced):
        original = session_of(graph, tmp_path / "original.onnx")
        for version in versions:
            rewritten = graph_for_tensorrt8(graph, plugin=False, version=version)
            assert (rewritten.opset_imports, rewritten.ir_version) == ({"": 17}, 8)
            assert not rewritten.functions
            session = session_of(rewritten, tmp_path / "rewritten.onnx")
            assert_same_results(original, session, size, exact=version == "8.6")


@pytest.mark.parametrize("name", [name for name in REDUCERS if name != "filter"])
def test_every_reducer_gives_the_same_results(name, tmp_path):
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 12, "num_heads": 2, "num_classes": 5}
    torch.manual_seed(0)
    backbone = create_backbone(Architecture("vit_tiny_patch16_224", shape))
    model = FilteredViT(backbone, keep=48, reducer=ReducerConfig(name)).eval()
    model.drop.state.warned = True
    graph = fixed_graph_from_slots(slots_graph_from_model(model), 48)
    rewritten = session_of(graph_for_tensorrt8(graph, plugin=False), tmp_path / "rewritten.onnx")
    assert_same_results(session_of(graph, tmp_path / "original.onnx"), rewritten, (32, 32), exact=True)


@pytest.mark.parametrize("opset", [19, 21])
def test_graphs_of_later_opsets(model, tmp_path, opset):
    traced = slots_graph_from_model(model, opset)
    if any(node.op_type == "Gelu" for node in traced.graph):
        with pytest.raises(ExportError, match=f"Gelu .* of opset {opset} cannot be written in opset 17"):
            graph_for_tensorrt8(traced, plugin=False)
        return
    original = session_of(traced.clone(), tmp_path / "original.onnx")
    rewritten = session_of(graph_for_tensorrt8(traced, plugin=False), tmp_path / "rewritten.onnx")
    assert_same_results(original, rewritten, (32, 32), exact=True)


def test_the_original_is_left_alone(traced_graph):
    def names():
        bodies = [traced_graph.graph, *traced_graph.functions.values()]
        return [(node.name, node.op_type, [v.name for v in node.outputs]) for body in bodies for node in body]

    before, opsets = names(), dict(traced_graph.opset_imports)
    graph_for_tensorrt8(traced_graph, plugin=False)
    graph_for_tensorrt8(traced_graph, plugin=True)
    assert names() == before and traced_graph.opset_imports == opsets


def test_shapes_are_read_whole(traced_graph):
    """The parsers ignore ``start`` and ``end`` of Shape, without a message, and would squeeze the wrong axes."""
    assert [node for node in traced_graph.graph if node.op_type == "Shape" and "end" in node.attributes]
    graph = graph_for_tensorrt8(traced_graph, plugin=False).graph
    shapes = [node for node in graph if node.op_type == "Shape"]
    assert shapes and not any(node.attributes for node in shapes)
    assert all(node.inputs[1].is_initializer() for node in graph if node.op_type in ("Squeeze", "Unsqueeze"))


def test_with_the_plugin_the_node_stays_as_it_is(traced_graph):
    for version in ("8.5", "8.6"):
        graph = graph_for_tensorrt8(traced_graph, plugin=True, version=version)
        (node,) = (node for node in graph.graph if node.domain == DOMAIN)
        assert node.op_type == NAME and len(node.inputs) == 3
        assert {name: value.value for name, value in node.attributes.items()} == {
            "k": 0,
            "prefix_tokens": 1,
            "order": "position",
            "plugin_namespace": DOMAIN,
            "plugin_version": "1",
        }
        assert graph.opset_imports == {"": 17, DOMAIN: 1}
        assert ("LayerNormalization" in {node.op_type for node in graph.graph}) == (version == "8.6")


def test_8_5_takes_only_a_fixed_number_of_tokens(traced_graph):
    with pytest.raises(
        ExportError, match=r"TensorRT 8.5 does not read this graph: TopK .* initializer as input 1.*--keep"
    ):
        graph_for_tensorrt8(traced_graph, plugin=False, version="8.5")
    graph = graph_for_tensorrt8(fixed_graph_from_slots(traced_graph, 5), plugin=False, version="8.5")
    assert [int(node.inputs[1].const_value.numpy().item()) for node in graph.graph if node.op_type == "TopK"] == [5, 5]


def test_names_are_unique_and_tensors_are_named_after_nodes(traced_graph):
    graph = graph_for_tensorrt8(traced_graph, plugin=False).graph
    names = [node.name for node in graph]
    assert len(set(names)) == len(names) and "blocks.0.attn.qkv/MatMul" in names
    assert "patch_drop/TokenSelect/TopK" in names
    inner = [value.name for node in graph for value in node.outputs if value not in graph.outputs]
    assert set(inner) == {
        f"{node.name}:{i}" for node in graph for i, value in enumerate(node.outputs) if value not in graph.outputs
    }


def test_a_graph_with_functions_is_refused(traced_graph):
    with pytest.raises(
        ExportError, match=r"TensorRT 8.6 reads no model-local functions, and the graph has TokenSelect"
    ):
        check_operators(traced_graph, "8.6", plugin=True)


@pytest.mark.parametrize(
    ("body", "opset", "words"),
    [
        ("logits = Mish (images)", 18, r"Mish .* of opset 18 cannot be written in opset 17.*No engine of them"),
        ("logits = Gelu (images)", 20, r"Gelu .* of opset 20 cannot be written in opset 17.*default --opset"),
        (
            "pads = Constant <value_ints = [0, 0, 0, 1]> () axes = Constant <value_ints = [0, 1]> () "
            "logits = Pad (images, pads, , axes)",
            18,
            r"Pad .* cannot be written in opset 17",
        ),
        (
            'pads = Constant <value_ints = [0, 0, 0, 1]> () logits = Pad <mode = "wrap"> (images, pads)',
            19,
            r"Pad .* cannot be written in opset 17",
        ),
        (
            "index = Constant <value_ints: ints = [0]> () zero = Shape <start: int = 0, end: int = 1> (images) "
            'logits = ScatterElements <reduction: string = "max"> (zero, index, zero)',
            18,
            r"ScatterElements .* cannot be written in opset 17",
        ),
        ("logits = acme.Frobnicate (images)", 18, r"TensorRT 8.6 does not read this graph: Frobnicate .* is not known"),
        (
            "k = Constant <value_ints = [4000]> () logits, i = TopK (images, k)",
            17,
            "TopK .* keeps 4000, more than 3840",
        ),
        ("logits = Squeeze (images)", 18, "Squeeze .* has no axes and a shape that is not known"),
        ("logits, b = Split <axis = 1, num_outputs = 2> (images)", 18, "Split .* parts of unequal or unknown length"),
    ],
)
def test_what_cannot_be_written_is_named(body, opset, words):
    graph = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": {opset}, "acme": 1]> g (float[N, 4097] images) => (float[N, M] logits)'
        f"{{ {body} }}"
    )
    with pytest.raises(ExportError, match=words):
        graph_for_tensorrt8(graph, plugin=False)


@pytest.mark.parametrize(
    ("body", "attributes"),
    [
        ("axes = Constant <value_ints = [-1]> () logits = ReduceMax (images, axes)", {"axes": [-1]}),
        ("logits = ReduceL2 <keepdims = 0> (images)", {"keepdims": 0}),
    ],
)
def test_axes_of_reductions_become_an_attribute(body, attributes):
    graph = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 18]> g (float[N, 4] images) => (float[N, M] logits) {{ {body} }}'
    )
    (node,) = graph_for_tensorrt8(graph, plugin=False).graph
    assert {name: list(v.value) if name == "axes" else v.value for name, v in node.attributes.items()} == attributes
    assert len(node.inputs) == 1


def fp32_of(graph, plugin=False):
    return fp32_nodes(graph_for_tensorrt8(graph, plugin), {"LayerNormalization"}, up_to_choice=True)


def test_no_layer_stays_in_fp32_unless_asked(traced_graph):
    """One layer in fp32 made all of TensorRT 8.6's engine fp32 on an H100 (docs/gpu.md)."""
    assert fp32_nodes(graph_for_tensorrt8(traced_graph, plugin=True)) == ()


def test_layers_up_to_the_choice_and_norms_stay_in_fp32_when_asked(traced_graph):
    names = fp32_of(traced_graph)
    assert {
        "patch_embed.proj/Conv",
        "patch_drop.scorer.norm/LayerNormalization",
        "blocks.1.norm2/LayerNormalization",
    } <= set(names)
    assert "patch_drop/TokenSelect/TopK" in names and "patch_drop/TokenSelect/TopK_1" in names
    assert not [name for name in names if name.endswith("qkv/MatMul") or "/Gather" in name or "/Shape" in name]
    plugin = fp32_of(traced_graph, plugin=True)
    assert set(plugin) < set(names) and not [name for name in plugin if NAME in name]
    full = fp32_of(full_graph_from_slots(traced_graph, PATCHES))
    assert set(full) < set(plugin) and "patch_embed.proj/Conv" in full


@pytest.mark.parametrize(("patches", "named"), [(2048, 0), (2049, 2)])
def test_positions_that_fp16_rounds_are_sorted_in_fp32(patches, named):
    """The second TopK sorts positions: 2049 is 2048 in fp16."""
    body = with_function(
        ir.from_onnx_text(
            f'<ir_version: 10, opset_import: ["": 18, "{DOMAIN}": 1]> g (float[N, {patches + 1}, 4] tokens, '
            f"float[N, {patches}] scores, int32[K] slots) => (float[N, L, 4] kept, int32[N, K] indices) "
            f"{{ kept, indices = {DOMAIN}.{NAME} <k = 0, prefix_tokens = 1> (tokens, scores, slots) }}"
        )
    )
    names = fp32_nodes(graph_for_tensorrt8(body, plugin=False))
    assert len(names) == named and {name.split("/")[-1].split("_")[0] for name in names} <= {"Cast", "TopK"}
    assert fp32_nodes(graph_for_tensorrt8(body, plugin=True)) == ()


def test_every_part_of_a_decomposed_norm_stays_in_fp32(traced_graph):
    graph = graph_for_tensorrt8(fixed_graph_from_slots(traced_graph, 5), plugin=False, version="8.5")
    parts = [node.name for node in graph.graph if node.name.startswith("blocks.0.norm1/")]
    assert len(parts) == 9 and set(parts) <= set(fp32_nodes(graph, {"LayerNormalization"}))


@pytest.mark.parametrize("kept", [1, 8, None])
def test_int8_weights_become_fp32_with_a_pair_of_nodes_and_the_same_numbers(traced_graph, tmp_path, kept):
    quantized = quantized_graph(traced_graph, "int8", {linear.activation: 4.0 for linear in linears_of(traced_graph)})
    form = full_graph_from_slots(quantized, PATCHES) if kept is None else fixed_graph_from_slots(quantized, kept)
    form = for_cpu(form, STEPS_OF["int8"])
    original = session_of(plain_graph(form), tmp_path / "original.onnx")
    rewritten = graph_for_tensorrt8(form, plugin=False)
    pairs = [node for node in rewritten.graph if node.op_type == "DequantizeLinear"]
    assert len(pairs) == 16, "eight products, each with a weight and an activation"
    weights = 0
    for node in pairs:
        before = node.inputs[0].producer()
        assert before.op_type == "QuantizeLinear" and before.attributes.get("axis") == node.attributes.get("axis")
        assert [value.name for value in before.inputs[1:]] == [value.name for value in node.inputs[1:]]
        scale, zero = (value.const_value for value in node.inputs[1:])
        assert zero.dtype == ir.DataType.INT8 and not zero.numpy().any() and (scale.numpy() > 0).all()
        if before.inputs[0].is_initializer():
            weight = before.inputs[0].const_value
            weights += 1
            assert weight.dtype == ir.DataType.FLOAT
            assert weight.shape[node.attributes.get_int("axis")] == scale.shape[0] == zero.shape[0]
    assert weights == 8
    assert not any(
        v.const_value.dtype == ir.DataType.INT8 and len(v.shape) == 2 for v in rewritten.graph.initializers.values()
    )
    assert_same_results(original, session_of(rewritten, tmp_path / "rewritten.onnx"), (32, 32), exact=False)


def test_the_node_put_back_into_a_plain_graph_leaves_the_blocks_as_the_full_graph_has_them(traced_graph):
    """Else the full engine would do less in its last block than the filtered one that it is compared with."""
    rewritten = graph_for_tensorrt8(plain_graph(for_cpu(traced_graph)), plugin=True)
    full = graph_for_tensorrt8(for_cpu(full_graph_from_slots(traced_graph, PATCHES)), plugin=False)

    def in_last_block(graph):
        return Counter(node.op_type for node in graph.graph if (node.name or "").startswith("blocks.1."))

    assert in_last_block(rewritten) == in_last_block(full)
    assert in_last_block(full)["MatMul"] + in_last_block(full)["Gemm"] == 8
    assert [node.op_type for node in rewritten.graph].count(NAME) == 1
    assert not {node.name.split("/")[0] for node in rewritten.graph if "TopK" in node.op_type}, (
        "no native ops beside it"
    )
