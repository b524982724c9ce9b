"""The TokenSelect node and its function, and that an edge device needs neither torch nor the exporter for them."""

import subprocess
import sys

import pytest

from tokfilter.errors import ExportError
from tokfilter.export.functions import select_node, without_functions


def test_the_one_node_is_found(traced_graph):
    assert select_node(traced_graph).name in [node.name for node in traced_graph.graph]
    assert select_node(traced_graph).op_identifier()[:2] == ("tokfilter", "TokenSelect")


def test_none_or_two_are_refused(traced_graph):
    graph = traced_graph.clone()
    node = select_node(graph)
    twin = type(node)(node.domain, node.op_type, node.inputs, node.attributes.values(), num_outputs=2, name="twin")
    graph.graph.append(twin)
    with pytest.raises(ExportError, match="one tokfilter::TokenSelect node, got 2"):
        select_node(graph)
    for one in (twin, node):
        one.domain = "elsewhere"
    with pytest.raises(ExportError, match="one tokfilter::TokenSelect node, got 0"):
        select_node(graph)


def test_functions_go_and_the_node_stays(traced_graph):
    graph = traced_graph.clone()
    assert len(graph.functions) == 1
    assert len(without_functions(graph).functions) == 0 and select_node(graph)
    assert len(traced_graph.functions) == 1


def test_neither_torch_nor_the_exporter_is_imported():
    program = "import sys, tokfilter.export.functions as f; print({'torch', 'onnxscript', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
