"""Shapes of foreign graphs, also where ONNX Runtime's symbolic inference gives up."""

import onnx
import pytest
from onnx import TensorProto, helper

from tokfilter.export.fusion.shapes import _inferred


@pytest.mark.parametrize("operator", ["LayerNormalization", "NoSuchOperator", "Unsqueeze"])
def test_a_graph_that_cannot_be_inferred_leaves_no_file_behind(operator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["values", "indices"]),
        helper.make_node(operator, ["indices"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    k = helper.make_tensor("k", TensorProto.INT64, [1], [4])
    graph = helper.make_graph(nodes, "graph", [x], [z], [k])
    known = _inferred(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]))
    assert [node.op_type for node in known.graph.node] == ["TopK", operator, "Relu"]
    assert list(tmp_path.iterdir()) == []
