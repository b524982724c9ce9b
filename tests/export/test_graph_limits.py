"""Graphs whose functions or tensors would not fit into memory are refused when they are read."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tokfilter.errors import DataError, ExportError
from tokfilter.export.inline import inline_graph
from tokfilter.export.onnx_file import cpu_session, load_graph
from tokfilter.export.shapes import infer_shapes

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]


def function(name, *calls):
    nodes, last = [], "x"
    for number, call in enumerate(calls):
        nodes.append(helper.make_node(call, [last], [f"v{number}"], domain="" if call == "Neg" else "f"))
        last = f"v{number}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    return helper.make_function("f", name, ["x"], ["y"], nodes, OPSETS)


def written(path, node, functions=(), initializers=()):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", value[:1], value[1:], initializer=list(initializers))
    model = helper.make_model(graph, opset_imports=OPSETS, functions=list(functions), ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def doubling(levels):
    return [function("f0", "Neg"), *(function(f"f{i}", f"f{i - 1}", f"f{i - 1}") for i in range(1, levels))]


def test_functions_that_double_are_refused_before_they_are_expanded(tmp_path):
    call = helper.make_node("f29", ["x"], ["y"], domain="f")
    path = written(tmp_path / "x.onnx", call, doubling(30))
    with pytest.raises(ExportError, match="at most 1000000 nodes once its functions are expanded"):
        inline_graph(path, tmp_path / "y.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def test_functions_that_nest_as_models_do_are_read(tmp_path):
    path = written(tmp_path / "x.onnx", helper.make_node("f4", ["x"], ["y"], domain="f"), doubling(5))
    assert inline_graph(path, tmp_path / "y.onnx").nodes_after == 2**5 - 1 + 16


def test_a_function_that_calls_itself_is_refused(tmp_path):
    call, functions = helper.make_node("a", ["x"], ["y"], domain="f"), [function("a", "b"), function("b", "a")]
    path = written(tmp_path / "x.onnx", call, functions)
    with pytest.raises(ExportError, match="f::a of the graph calls itself"):
        load_graph(path)


@pytest.mark.parametrize("raw", [b"", np.float32([1, 2]).tobytes()])
@pytest.mark.parametrize("dims", [[10**13], [10**7, 10**6]])
def test_a_tensor_without_its_bytes_is_refused(tmp_path, dims, raw):
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    if raw:
        tensor.raw_data = raw
    path = written(tmp_path / "x.onnx", helper.make_node("Add", ["x", "w"], ["y"]), initializers=[tensor])
    with pytest.raises(ExportError, match=f"takes {4 * 10**13} bytes and holds {len(raw)}"):
        load_graph(path)
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    with pytest.raises(ExportError, match=f"takes {4 * 10**13} bytes and holds {len(raw)}"):
        load_graph(written(tmp_path / "y.onnx", constant))


def test_a_tensor_without_a_type_is_refused(tmp_path):
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.UNDEFINED, dims=[1], raw_data=b"1234")
    path = written(tmp_path / "x.onnx", helper.make_node("Add", ["x", "w"], ["y"]), initializers=[tensor])
    with pytest.raises(ExportError, match="tensor 'w' has no data type"):
        load_graph(path)


@pytest.mark.parametrize("start", [0, 4, 64, 4096])
def test_a_sparse_file_is_refused_before_it_is_read(tmp_path, start):
    path = written(tmp_path / "x.onnx", helper.make_node("Neg", ["x"], ["y"]))
    content = path.read_bytes()
    for size in (1 << 40, 1 << 31, 1 << 30):
        path.write_bytes((content + bytes(4096))[:start])
        with path.open("r+b") as file:
            file.truncate(size)
        with pytest.raises(DataError, match=f"is a sparse file: .* of its {size} bytes were never written"):
            load_graph(path)


def test_a_file_of_zeros_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(bytes(1 << 20))
    with pytest.raises(ExportError, match="one protobuf message of at most 2 GiB"):
        load_graph(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Neg", ["z"], ["y"]), "takes 'z', which no input, weight or node above it gives"),
        (helper.make_node("Neg", ["y"], ["y"]), "takes 'y', which no input"),
        (helper.make_node("Neg", ["x"], ["z"]), "nothing gives its output 'y'"),
    ],
)
def test_a_graph_with_loose_ends_is_refused(tmp_path, node, words, caplog):
    with pytest.raises(ExportError, match=words):
        load_graph(written(tmp_path / "x.onnx", node))
    assert not caplog.records  # onnx-ir logs names with their control characters


def test_a_branch_may_take_what_stands_above_it_and_nothing_else(tmp_path):
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])
    for name, accepted in (("x", True), ("later", False)):
        branch = helper.make_graph([helper.make_node("Neg", [name], ["z"])], "b", [], [value])
        condition = onnx.TensorProto(name="c", data_type=TensorProto.BOOL, raw_data=b"\1")
        choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        path = written(tmp_path / "x.onnx", choice, initializers=[condition])
        if accepted:
            assert len(load_graph(path).graph) == 1
        else:
            with pytest.raises(ExportError, match="takes 'later'"):
                load_graph(path)


def test_shapes_that_contradict_each_other_end_in_a_sentence_and_no_log(tmp_path, caplog):
    weight = onnx.numpy_helper.from_array(np.ones((3, 5), np.float32), "w")
    path = written(tmp_path / "x.onnx", helper.make_node("MatMul", ["x", "w"], ["y"]), initializers=[weight])
    with pytest.raises(ExportError, match=r"its shapes contradict each other: .*Incompatible dimensions"):
        infer_shapes(load_graph(path))
    assert not caplog.records
    with pytest.raises(ExportError, match=r"ONNX Runtime does not take x.onnx: .*Incompatible dimensions"):
        cpu_session(path, "fp32")


def test_values_of_a_branch_are_unknown_behind_it(tmp_path):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y", "b")]
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["b"])], "b", [], [value[2]])
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["v"], then_branch=branch, else_branch=branch),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:2])
    path = tmp_path / "x.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=OPSETS, ir_version=9).SerializeToString())
    with pytest.raises(ExportError, match=r"takes 'b', which no input"):
        load_graph(path)
