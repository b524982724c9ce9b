"""A selection as the node TokenSelect and as standard operators: each form gives the other, exactly."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from tokfilter.errors import ExportError
from tokfilter.export.functions import is_select_node, select_node, with_function
from tokfilter.export.graph import fixed_graph_from_slots
from tokfilter.export.onnx_file import load_graph, save_graph
from tokfilter.export.selection import node_graph, plain_graph, selections
from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.kernels.reference import token_select

ROOT = "patch_drop/TokenSelect"


def node_bytes(graph):
    return {node.name: ir.serde.serialize_node(node).SerializeToString() for node in graph.graph}


@pytest.mark.parametrize("k", [None, 1, 8, 16])
def test_the_node_is_put_back_exactly(traced_graph, tmp_path, k):
    original = traced_graph if k is None else fixed_graph_from_slots(traced_graph, k)
    before = node_bytes(original)
    plain = plain_graph(original)
    assert node_bytes(original) == before, "the graph that was given is unchanged"
    assert selections(plain) == [ROOT] and not plain.functions and set(plain.opset_imports) == {""}
    save_graph(plain, tmp_path / "plain.onnx")
    onnx.checker.check_model(str(tmp_path / "plain.onnx"), full_check=True)
    restored = node_graph(load_graph(tmp_path / "plain.onnx"))
    assert node_bytes(restored) == before
    assert set(restored.graph.initializers) == set(original.graph.initializers)
    assert node_bytes(plain_graph(restored)) == node_bytes(plain)
    assert [value.name for value in restored.graph.outputs] == [value.name for value in original.graph.outputs]


def test_a_graph_without_a_selection_stays_as_it_is(traced_graph):
    assert selections(traced_graph) == []
    assert node_bytes(node_graph(traced_graph)) == node_bytes(traced_graph)
    plain = plain_graph(traced_graph)
    assert node_bytes(plain_graph(plain)) == node_bytes(plain)


@pytest.mark.parametrize(
    "change",
    [
        lambda nodes: nodes["ranked"].attributes.add(ir.AttrInt64("largest", 0)),
        lambda nodes: nodes["order"].attributes.add(ir.AttrInt64("largest", 1)),
        lambda nodes: nodes["patch_places"].replace_input_with(1, nodes["prefix_places"].outputs[0]),
        lambda nodes: setattr(nodes["flat"], "name", "flatten"),
        lambda nodes: setattr(nodes["indices"], "name", "cast"),
    ],
)
def test_operators_that_were_changed_are_not_taken_for_the_node(traced_graph, change):
    plain = plain_graph(traced_graph)
    change({node.name.removeprefix(f"{ROOT}/"): node for node in plain.graph})
    with pytest.raises(ExportError, match=f"the operators of {ROOT} are not those that tokfilter wrote"):
        node_graph(plain)


def model_of(*nodes):
    text = "\n".join(nodes)
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17, "{DOMAIN}": 1]> g (float[B, 9, 4] tokens, float[B, 8] scores) => '
        f"(float[B, L, 4] rows, int32[B, K] kept, float[B, M, 4] other_rows) {{ {text} }}"
    )


def call(outputs, name, k, prefix, order):
    attributes = f'k = {k}, prefix_tokens = {prefix}, order = "{order}"'
    scores, tokens = ("scores", "tokens") if prefix else ("wide", "tokens")
    graph = f"{outputs} = {DOMAIN}.{NAME} <{attributes}> ({tokens}, {scores})"
    return graph if prefix else f"wide = Concat <axis = 1> (first, scores) {graph}"


@pytest.mark.parametrize("orders", [("position", "score"), ("score", "score"), ("position", "position")])
def test_nodes_of_different_budget_prefix_and_order(orders, tmp_path):
    """One body serves all nodes of a file; written out, each has numbers of its own. NaN is the lowest score."""
    head = "zero = Constant <value = int64[1] {0}> () one = Constant <value = int64[1] {1}> ()"
    first = "first = Slice (scores, zero, one, one)"
    graph = model_of(
        head, first, call("rows, kept", "a", 3, 1, orders[0]), call("other_rows, more", "b", 5, 0, orders[1])
    )
    for number, node in enumerate(n for n in graph.graph if is_select_node(n)):
        node.name = f"TokenSelect_{number}"
    scores = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    scores[0, 2], scores[1, :4], scores[2, 5] = np.nan, np.nan, np.inf
    tokens = np.arange(3 * 9 * 4, dtype=np.float32).reshape(3, 9, 4)
    wanted = [*token_select(tokens, scores, 3, 1, orders[0])]
    wanted.append(token_select(tokens, np.concatenate([scores[:, :1], scores], 1), 5, 0, orders[1])[0])
    plain = plain_graph(graph)
    assert selections(plain) == ["TokenSelect_0", "TokenSelect_1"]
    for number, form in enumerate([with_function(graph.clone()), plain]):
        save_graph(form, tmp_path / f"{number}.onnx")
        session = onnxruntime.InferenceSession(tmp_path / f"{number}.onnx", providers=["CPUExecutionProvider"])
        for found, expected in zip(session.run(None, {"tokens": tokens, "scores": scores}), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_names_in_use_are_not_taken_twice():
    graph = model_of(
        call("rows, kept", "a", 3, 1, "position"), "other_rows = Identity (tokens)", "unread = Neg (tokens)"
    )
    for node in graph.graph:
        node.name = NAME if is_select_node(node) else f"{NAME}/{node.op_type}"
    plain = plain_graph(graph)
    assert selections(plain) == [f"{NAME}_1"]
    names = [node.name for node in plain.graph]
    assert len(set(names)) == len(names)


def test_the_body_is_written_as_converters_take_it(traced_graph):
    """Each rule is one that a converter was found to have (``kernels/onnx_function.py``)."""
    for graph in (traced_graph, fixed_graph_from_slots(traced_graph, 8)):
        body = next(iter(graph.functions.values()))
        operators = [*body, *(n for n in plain_graph(graph).graph if n.name.startswith(ROOT))]
        assert not {"IsNaN", "GatherElements", "GatherND", "Identity"} & {node.op_type for node in operators}
        constants = [node for node in body if node.op_type == "Constant"]
        assert constants and all(list(node.attributes) == ["value"] for node in constants)
        assert all(node.outputs[1].uses() for node in operators if node.op_type == "TopK")
        names = [value.name for node in operators for value in node.outputs]
        assert all(names)
    assert select_node(traced_graph).attributes["k"].as_int() == 0
