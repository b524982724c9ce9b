"""Reading one fact of ONNX files without onnx."""

import onnx
import onnx.helper
import pytest

from tokfilter.export.functions import without_functions
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.selection import plain_graph
from tokfilter.trt.graph_file import has_functions, imports_domain


def test_functions_are_found_wherever_they_stand(traced_graph, tmp_path):
    save_graph(traced_graph.clone(), tmp_path / "with.onnx")
    save_graph(without_functions(traced_graph.clone()), tmp_path / "without.onnx")
    assert has_functions(tmp_path / "with.onnx")
    assert not has_functions(tmp_path / "without.onnx")
    # Protobuf allows any order of fields: the function last, after all others.
    model = onnx.load(tmp_path / "with.onnx")
    functions = onnx.ModelProto(functions=model.functions).SerializeToString()
    (tmp_path / "last.onnx").write_bytes((tmp_path / "without.onnx").read_bytes() + functions)
    assert has_functions(tmp_path / "last.onnx")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 20, b"\x08\x0anot a graph", b"\x3a\xff\xff\xff\xff\x0f", b"\x0b", b"\xc9\x01" + bytes(3), b"\x80"],
)
def test_files_that_are_no_models_have_none(tmp_path, content):
    (tmp_path / "odd.onnx").write_bytes(content)
    assert not has_functions(tmp_path / "odd.onnx")


def test_the_domains_of_a_model(traced_graph, tmp_path):
    save_graph(without_functions(traced_graph.clone()), tmp_path / "node.onnx")
    save_graph(plain_graph(traced_graph), tmp_path / "plain.onnx")
    assert imports_domain(tmp_path / "node.onnx", "tokfilter")
    assert not imports_domain(tmp_path / "node.onnx", "tok")
    assert not imports_domain(tmp_path / "plain.onnx", "tokfilter")
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert not imports_domain(tmp_path / "empty.onnx", "tokfilter")
