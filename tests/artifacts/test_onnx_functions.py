"""Functions of an ONNX file are counted as they would be expanded, and files that would have no end are refused."""

import os

import pytest

from tokfilter.artifacts.onnx_functions import _expanded, check_functions
from tokfilter.errors import EngineError

onnx = pytest.importorskip("onnx", reason="writes graphs with onnx: pip install 'tokfilter[export]'")
helper = onnx.helper

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]


def function(name, *calls):
    nodes = [
        helper.make_node(call, ["x"], [f"v{i}"], domain="" if call == "Neg" else "f") for i, call in enumerate(calls)
    ]
    return helper.make_function("f", name, ["x"], ["v0"], nodes, OPSETS)


def model(nodes, functions=()):
    value = [helper.make_tensor_value_info(name, 1, [2]) for name in ("x", "y")]
    weight = helper.make_tensor("w", 1, [3], [1.0, 2.0, 3.0])
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], initializer=[weight])
    return helper.make_model(graph, opset_imports=OPSETS, functions=list(functions)).SerializeToString()


def call(name):
    return helper.make_node(name, ["x"], ["y"], domain="f")


def doubling(levels):
    return [function("f0", "Neg"), *(function(f"f{i}", f"f{i - 1}", f"f{i - 1}") for i in range(1, levels))]


@pytest.mark.parametrize(("levels", "count"), [(1, 1), (5, 16), (12, 2048)])
def test_nodes_are_counted_as_they_would_be_expanded(levels, count):
    functions = doubling(levels)
    for order in (functions, functions[::-1]):
        content = model([call(f"f{levels - 1}"), helper.make_node("Neg", ["x"], ["z"])], order)
        assert _expanded(memoryview(content)) == count + 1


def test_branches_count_too():
    branch = helper.make_graph([call("f2")], "b", [], [helper.make_tensor_value_info("y", 1, [2])])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    assert _expanded(memoryview(model([choice], doubling(3)))) == 1 + 2 * 4
    assert _expanded(memoryview(model([choice]))) == 0


@pytest.mark.parametrize("functions", [doubling(30), doubling(2000), [function("f29", "g"), function("g", "f29")]])
def test_functions_without_end_are_refused(tmp_path, functions):
    (tmp_path / "x.onnx").write_bytes(model([call(functions[-1].name)], functions))
    if len(functions) > 2:
        (tmp_path / "x.onnx").write_bytes(model([call(f"f{len(functions) - 1}")], functions))
    with pytest.raises(EngineError, match="x.onnx must have at most 1000000 nodes once its functions are expanded"):
        check_functions(tmp_path / "x.onnx", "x.onnx")


@pytest.mark.parametrize(
    "content",
    [b"", bytes(1 << 20), b"\xff" * 99, b"\xca\x01\xff\xff\x7f", b"\x0f", b"\xca\x01\x01\x09", os.urandom(64)],
)
def test_what_is_no_message_is_the_engines_to_refuse(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    assert check_functions(tmp_path / "x.onnx", "x.onnx") is None


def test_an_export_passes(export_directory):
    for path in export_directory.glob("*.onnx"):
        check_functions(path, path.name)
        assert _expanded(memoryview(path.read_bytes())) == 0
