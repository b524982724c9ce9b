"""Groups of layers: every layer that computes in fp16 is in one, under the same name in every form of a graph."""

import onnx_ir as ir
import pytest

from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots
from tokfilter.export.layer_groups import groups_from_graph
from tokfilter.export.precision import LOW_TYPES, cast_precision
from tokfilter.export.tensorrt8 import graph_for_tensorrt8
from tokfilter.export.tensorrt8_nodes import written_out

BLOCKS = ["MLP of block 0", "MLP of block 1", "attention of block 0", "attention of block 1", "residual adds"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_layer_of_low_precision_is_in_one_group(traced_graph, precision):
    graph = cast_precision(traced_graph, precision)
    grouped = [name for group in groups_from_graph(graph) for name in group.nodes]
    low = [n.name for n in graph.graph if n.outputs[0].dtype == LOW_TYPES[precision] and n.op_type != "Cast"]
    assert sorted(grouped) == sorted(low) and len(set(grouped)) == len(grouped)
    assert "blocks.0.norm1/LayerNormalization" not in grouped, "it is fp32 already"


def test_groups_are_sub_layers_of_blocks(traced_graph):
    groups = {group.name: group.nodes for group in groups_from_graph(cast_precision(traced_graph, "fp16"))}
    assert list(groups) == [*BLOCKS, "layers before the first block", "layers after the last block"]
    for block in (0, 1):
        mlp, attention = groups[f"MLP of block {block}"], groups[f"attention of block {block}"]
        assert {f"blocks.{block}.mlp.{layer}/MatMul" for layer in ("fc1", "fc2")} <= set(mlp)
        assert sum(name.startswith("node_Mul") for name in mlp) == 2, "GELU's products have no module in their name"
        assert {f"blocks.{block}.attn/Softmax", f"blocks.{block}.attn.qkv/MatMul"} <= set(attention)
    assert groups["layers before the first block"] == ("patch_drop/TokenSelect",)
    assert "head/Gemm" in groups["layers after the last block"]


def test_all_forms_have_the_same_groups(traced_graph):
    typed = cast_precision(traced_graph, "fp16")
    slots = {group.name: group for group in groups_from_graph(typed)}
    for form in (fixed_graph_from_slots(typed, 5), full_graph_from_slots(typed, 16)):
        for group in groups_from_graph(form):
            assert set(group.nodes) <= set(slots[group.name].nodes)
        assert {group.name for group in groups_from_graph(form)} >= set(BLOCKS)


@pytest.mark.parametrize("plugin", [True, False])
@pytest.mark.parametrize("form", ["slots", "fixed", "full"])
def test_every_layer_of_a_group_is_known_to_tensorrt_8(traced_graph, form, plugin):
    """It builds fp16 from an fp32 graph in which nodes were rewritten, and is told names of nodes."""
    forms = {
        "slots": traced_graph,
        "fixed": fixed_graph_from_slots(traced_graph, 5),
        "full": full_graph_from_slots(traced_graph, 16),
    }
    groups = groups_from_graph(forms[form])
    graph = graph_for_tensorrt8(forms[form], plugin)
    rewritten = {name: written_out(graph, [name]) for group in groups for name in group.nodes}
    assert all(rewritten.values())
    assert {group.name for group in groups} >= {*BLOCKS, "layers before the first block"}
    if form != "full":
        selection = rewritten["patch_drop/TokenSelect"]
        assert len(selection) == 1 if plugin else "patch_drop/TokenSelect/TopK" in selection
    assert written_out(graph, []) == written_out(graph, ["no such node"]) == []


def test_a_graph_without_blocks_is_cut_into_runs():
    lines = "\n".join(f"v{i + 1} = Relu (v{i})" for i in range(50))
    graph = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 18]> g (float16[4] v0) => (float16[4] v50) {{ {lines} }}'
    )
    for i, node in enumerate(graph.graph):
        node.name = f"relu {i}"
    groups = groups_from_graph(graph)
    assert [group.name for group in groups] == ["relu 0 to relu 23", "relu 24 to relu 47", "relu 48 to relu 49"]
    assert sum(len(group.nodes) for group in groups) == 50


def test_nodes_without_a_name_are_left_out():
    graph = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 18]> g (float16[4] x) => (float16[4] y) { y = Relu (x) }'
    )
    assert groups_from_graph(graph) == []
