"""`tokfilter inline`: files with the node or with functions, in standard operators; failures write nothing."""

import json
import resource

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner

from tokfilter.cli import cli
from tokfilter.errors import DataError, ExportError, VerificationError
from tokfilter.export import inline as inline_module
from tokfilter.export.functions import with_function, without_functions
from tokfilter.export.graph import fixed_graph_from_slots
from tokfilter.export.inline import inline_graph
from tokfilter.export.onnx_file import save_graph


def run(*arguments):
    return CliRunner().invoke(cli, ["inline", *map(str, arguments)])


@pytest.fixture(params=["slots", "fixed", "stripped"])
def source(traced_graph, tmp_path, request):
    graph = fixed_graph_from_slots(traced_graph, 8) if request.param == "fixed" else traced_graph.clone()
    save_graph(without_functions(graph) if request.param == "stripped" else graph, tmp_path / "node.onnx")
    return tmp_path / "node.onnx"


def test_a_file_with_the_node(source, tmp_path):
    done = run(source, "-o", tmp_path / "plain.onnx", "--size", "kept=5", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["replaced"] == {"tokfilter::TokenSelect": 1} and report["other_domains"] == {}
    assert [shapes["images"][0] for shapes in report["compared_at"]] == [2, 3]
    plain = onnx.load(tmp_path / "plain.onnx")
    onnx.checker.check_model(plain, full_check=True)
    assert [entry.domain for entry in plain.opset_import] == [""] and not plain.functions
    assert len(plain.graph.node) == report["nodes_after"] > report["nodes_before"]


def test_a_plain_file_is_refused_and_nothing_overwritten(export_directory, tmp_path):
    (tmp_path / "mine.onnx").write_text("mine")
    done = run(export_directory / "model.onnx", "-o", tmp_path / "mine.onnx")
    assert done.exit_code == 1 and "model.onnx is plain already" in done.output
    assert (tmp_path / "mine.onnx").read_text() == "mine"


FOREIGN = """
    <ir_version: 8, opset_import: ["": 17, "pkg": 1, "com.microsoft": 1]>
    g (float[b, 4] x) => (float[b, 4] y)
    { a = pkg.twice <by = 2.0> (x)  c = com.microsoft.Gelu (a)  y = pkg.twice <by = 3.0> (c) }
    <opset_import: ["": 17, "pkg": 1], domain: "pkg">
    twice <by: float = 1.0> (v) => (w) { factor = Constant <value_float: float = @by> ()  w = pkg.scale (v, factor) }
    <opset_import: ["": 17], domain: "pkg">
    scale (v, factor) => (w) { w = Mul (v, factor) }
    """


def test_functions_of_another_project(tmp_path):
    onnx.save(onnx.parser.parse_model(FOREIGN), tmp_path / "foreign.onnx")
    done = run(tmp_path / "foreign.onnx", "-o", tmp_path / "plain.onnx")
    assert done.exit_code == 0, done.output
    assert "operators in the place of 2 pkg::twice" in done.stdout and "the same bits as before" in done.stdout
    assert "not standard operators, and left as they are: 1 com.microsoft::Gelu" in done.stdout
    plain = onnx.load(tmp_path / "plain.onnx")
    assert sorted(entry.domain for entry in plain.opset_import) == ["", "com.microsoft"]
    assert [node.op_type for node in plain.graph.node] == ["Mul", "Gelu", "Mul"]
    names = [node.name for node in plain.graph.node]
    assert all(names) and len(set(names)) == 3
    x = np.ones((1, 4), np.float32)
    sessions = (onnxruntime.InferenceSession(tmp_path / name) for name in ("foreign.onnx", "plain.onnx"))
    before, after = (session.run(None, {"x": x})[0] for session in sessions)
    np.testing.assert_array_equal(before, after)


def test_weights_beyond_one_file(traced_graph, tmp_path, monkeypatch):
    save_graph(traced_graph.clone(), tmp_path / "node.onnx", single_file_bytes=1000)
    write = inline_module.write_fused_graph
    monkeypatch.setattr(inline_module, "write_fused_graph", lambda *arguments: write(*arguments, 1000))
    inline_graph(tmp_path / "node.onnx", tmp_path / "out" / "plain.onnx", sizes={"kept": 8})
    graph, weights = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert graph == "plain.onnx" and weights.startswith("plain.onnx.") and weights.endswith(".data")


def test_a_file_that_differs_is_not_written(source, tmp_path, monkeypatch):
    plain = inline_module.plain_graph

    def wrong(graph):
        made = plain(graph)
        for node in made.graph:
            if node.name.endswith("TokenSelect/order"):
                node.attributes.add(ir.AttrInt64("largest", 1))
        return made

    monkeypatch.setattr(inline_module, "plain_graph", wrong)
    with pytest.raises(VerificationError, match="the graph to be written differs from the input graph"):
        inline_graph(source, tmp_path / "out" / "plain.onnx", sizes={"kept": 8})
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_read_or_written(source, tmp_path):
    with pytest.raises(DataError, match="expected a file, but there is none"):
        inline_graph(tmp_path / "none.onnx", tmp_path / "out.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"bad\.onnx is no ONNX graph that can be read"):
        inline_graph(tmp_path / "bad.onnx", tmp_path / "out.onnx")
    with pytest.raises(ExportError, match="-o must be the name of a file to write, got the folder"):
        inline_graph(source, tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # a full disk
    try:
        with pytest.raises(ExportError, match="could not be written"):
            inline_graph(source, tmp_path / "out.onnx", verify=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not (tmp_path / "out.onnx").exists()


def test_a_selection_in_a_subgraph_is_refused(tmp_path):
    text = """
        <ir_version: 8, opset_import: ["": 17, "tokfilter": 1]>
        g (bool c, float[2, 5, 4] tokens, float[2, 4] scores) => (float[2, 3, 4] y)
        { y = If (c) <
            then_branch = a () => (float[2, 3, 4] t)
                { t, i = tokfilter.TokenSelect <k = 2, prefix_tokens = 1> (tokens, scores) },
            else_branch = b () => (float[2, 3, 4] e)
                { e, j = tokfilter.TokenSelect <k = 2, prefix_tokens = 1> (tokens, scores) }> }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "if.onnx")
    with pytest.raises(ExportError, match="is in a subgraph; only the main graph is inlined"):
        inline_graph(tmp_path / "if.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_an_older_body_gives_the_newest_operators(traced_graph, tmp_path):
    """The body in the file is not looked at: the node's contract is."""
    graph = with_function(traced_graph.clone())
    save_graph(graph, tmp_path / "node.onnx")
    report = inline_graph(tmp_path / "node.onnx", tmp_path / "plain.onnx", verify=False)
    assert report.compared_at == ()
    assert not {"IsNaN", "Constant", "GatherND"} & {n.op_type for n in onnx.load(tmp_path / "plain.onnx").graph.node}
