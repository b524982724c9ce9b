"""Fusing as a command: bad files in, files out that are whole or not there, comparison, JSON, TensorRT-RTX."""

import json
import resource
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from onnxruntime.quantization import quantize_dynamic

from tokfilter.cli import cli
from tokfilter.errors import DataError, ExportError, VerificationError
from tokfilter.export.fuse import fuse_graph
from tokfilter.export.fusion.compare import compare_graphs
from tokfilter.export.fusion.io import write_fused_graph


def select(x, scores):
    index = torch.topk(scores, 6, dim=1)[1].unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return torch.cat([x[:, :1], torch.gather(x[:, 1:], 1, index)], dim=1)


@pytest.fixture
def source(foreign_graph) -> Path:
    return foreign_graph(select, "torchscript", 17)


def test_a_name_that_is_no_text_is_refused(source, tmp_path):
    names = [node.name for node in onnx.load(source).graph.node if len(node.name) > 6]
    data = source.read_bytes()
    for name in {names[0], names[-1]}:
        damaged = tmp_path / "damaged.onnx"
        damaged.write_bytes(data.replace(name.encode(), b"\x80" * len(name)))
        with pytest.raises(ExportError, match="is not UTF-8"):
            fuse_graph(damaged, tmp_path / "out.onnx")


def test_an_attribute_of_a_function_outside_of_one_is_refused(source, tmp_path):
    proto = onnx.load(source)
    node = next(node for node in proto.graph.node if node.op_type == "TopK")
    del node.attribute[:]
    node.attribute.append(onnx.AttributeProto(name="axis", ref_attr_name="axis", type=onnx.AttributeProto.INT))
    onnx.save(proto, tmp_path / "loose.onnx")
    with pytest.raises(ExportError, match="takes an attribute from a function and is in none"):
        fuse_graph(tmp_path / "loose.onnx", tmp_path / "out.onnx")


@pytest.mark.parametrize("number", [0, 39, -1])
def test_a_tensor_of_no_type_is_refused(source, tmp_path, number):
    proto = onnx.load(source)
    constant = next(node for node in proto.graph.node if node.op_type == "Constant")
    constant.attribute[0].t.data_type = number
    onnx.save(proto, tmp_path / "damaged.onnx")
    with pytest.raises(ExportError, match=r"damaged"):
        fuse_graph(tmp_path / "damaged.onnx", tmp_path / "out.onnx")


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="expected a file, but there is none at"):
        fuse_graph(tmp_path / "none.onnx", tmp_path / "out.onnx")
    with pytest.raises(DataError, match="expected a file, got the folder"):
        fuse_graph(tmp_path, tmp_path / "out.onnx")


@pytest.mark.parametrize("content", [b"", b"no model", b"ftrt\x00\x00\x00 a plan", bytes(200)])
def test_no_model(content, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"bad\.onnx (is no ONNX graph that can be read|is an engine plan)"):
        fuse_graph(tmp_path / "bad.onnx", tmp_path / "out.onnx")


def test_a_truncated_model(source, tmp_path):
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(ExportError, match="no ONNX graph that can be read"):
        fuse_graph(source, tmp_path / "out.onnx")


def test_an_invalid_model(source, tmp_path):
    model = onnx.load(source)
    model.graph.node[-1].input[0] = "from nowhere"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"no valid ONNX graph: .*from nowhere"):
        fuse_graph(source, tmp_path / "out.onnx")


def test_an_opset_before_topk_had_indices_in_int64(source, tmp_path):
    model = onnx.load(source)
    model.opset_import[0].version = 9
    model.graph.ClearField("node")
    model.graph.node.append(onnx.helper.make_node("Identity", ["x"], [model.graph.output[0].name]))
    onnx.save(model, source)
    with pytest.raises(ExportError, match="needs ONNX opset 11 or later, foreign.onnx has 9"):
        fuse_graph(source, tmp_path / "out.onnx")


def test_a_graph_without_top_k(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17]> plain (float[2] x) => (float[2] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "plain.onnx")
    with pytest.raises(ExportError, match="has nothing to fuse. .*The graph has no TopK node"):
        fuse_graph(tmp_path / "plain.onnx", tmp_path / "out.onnx")


def test_fusing_twice(source, tmp_path):
    fuse_graph(source, tmp_path / "once.onnx")
    with pytest.raises(ExportError, match="holds tokfilter::TokenSelect already"):
        fuse_graph(tmp_path / "once.onnx", tmp_path / "twice.onnx")


def test_a_subgraph_elsewhere_does_not_disturb(source, tmp_path):
    model = onnx.load(source)
    branch = onnx.parser.parse_graph("branch () => (float[b, 3, 7] z) { z = Identity (%s) }" % (name := "before_if"))
    last = model.graph.node[-1]
    output, last.output[0] = last.output[0], name
    condition = onnx.helper.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True)))
    choice = onnx.helper.make_node("If", ["yes"], [output], then_branch=branch, else_branch=branch)
    model.graph.node.extend([condition, choice])
    onnx.save(model, source)
    assert fuse_graph(source, tmp_path / "out.onnx").matched == 1


def test_external_data_comes_along(source, tmp_path):
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save(onnx.load(source), folder / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    assert fuse_graph(folder / "in.onnx", tmp_path / "out.onnx").matched == 1
    (folder / "in.data").unlink()
    assert not onnx.external_data_helper.uses_external_data(onnx.load(tmp_path / "out.onnx").graph.initializer[0])
    with pytest.raises(ExportError, match=r"no valid ONNX model: .*in\.data"):
        fuse_graph(folder / "in.onnx", tmp_path / "again.onnx")


def test_weights_beyond_one_file_stand_beside_it_under_their_hash(source, tmp_path):
    model = ir.load(source)
    target, seen = tmp_path / "large.onnx", []
    write_fused_graph(model, target, seen.append, single_file_bytes=10)
    (data,) = tmp_path.glob("large.onnx.*.data")
    compare_graphs(source, target, {})
    before = data.read_bytes()
    write_fused_graph(model, target, seen.append, single_file_bytes=10)
    assert (data.read_bytes(), len(seen)) == (before, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, target.name, data.name])


def described_initializers(path):
    graph = onnx.load(path).graph
    return {value.name for value in graph.value_info} & {tensor.name for tensor in graph.initializer}


@pytest.mark.parametrize("described", [False, True])
def test_initializers_get_no_value_info_which_quantizers_refuse(described, source, tmp_path):
    if described:  # as torch's newer exporter writes them
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            model.graph.value_info.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        onnx.save(model, source)
    assert bool(described_initializers(source)) == described
    fuse_graph(source, tmp_path / "out.onnx")
    assert described_initializers(tmp_path / "out.onnx") == set()
    quantize_dynamic(tmp_path / "out.onnx", tmp_path / "int8.onnx")
    assert "MatMulInteger" in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}


def test_the_output_is_a_folder(source, tmp_path):
    with pytest.raises(ExportError, match="-o must be the name of a file to write, got the folder"):
        fuse_graph(source, tmp_path)


def test_the_folder_of_the_output_is_a_file(source):
    with pytest.raises(ExportError, match="could not be written"):
        fuse_graph(source, source / "out.onnx")


def test_a_full_disk_leaves_the_old_file(source, tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "out.onnx").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(ExportError, match=r"could not be written: .*An older file there is unchanged"):
            fuse_graph(source, folder / "out.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("out.onnx", b"old")]


def test_a_difference_is_an_error_and_nothing_is_written(source, tmp_path):
    model = ir.load(source)
    bias = next(value for value in model.graph.initializers.values() if value.const_value.shape == [3])
    bias.const_value = ir.tensor(np.nextafter(bias.const_value.numpy(), np.float32(9)), name=bias.name)
    with pytest.raises(VerificationError, match=r"at inputs {'x': \[2, 17, 8\]}, output '\d+' differs in \d+ of 42"):
        write_fused_graph(model, tmp_path / "out.onnx", lambda part: compare_graphs(source, part, {}) and None)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_a_difference_in_fp16_may_be_rounding(tmp_path):
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        half (float16[b, 4] x) => (float16[b, 4] y) { y = Add (x, x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "in.onnx")
    onnx.save(onnx.parser.parse_model(text.replace("Add", "Mul")), tmp_path / "out.onnx")
    with pytest.raises(VerificationError, match="fuse the graph in fp32 and convert the result to fp16"):
        compare_graphs(tmp_path / "in.onnx", tmp_path / "out.onnx", {})


def test_half_precision(foreign_graph, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *shape, randn=torch.randn: randn(*shape).half())
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: torch.nn.functional.linear(x, self.weight.half()))
    report = fuse_graph(foreign_graph(select, "torchscript", 17), tmp_path / "out.onnx")
    assert (report.matched, len(report.compared_at)) == (1, 2)


def test_a_type_that_onnx_runtime_cannot_run_wants_verification_off(tmp_path):
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        half (bfloat16[b, 9, 4] tokens, bfloat16[b, 9] scores) => (bfloat16[b, 3, 4] y)
        <int64[1] k = {3}, int64[1] last = {-1}, int64[3] shape = {1, 1, 4}>
        {
            negated = Neg (scores)
            values, indices = TopK <axis = 1, largest = 0> (negated, k)
            column = Unsqueeze (indices, last)
            index = Expand (column, shape)
            y = GatherElements <axis = 1> (tokens, index)
        }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "in.onnx")
    with pytest.raises(ExportError, match="ONNX Runtime does not load in.onnx, so nothing can be compared"):
        fuse_graph(tmp_path / "in.onnx", tmp_path / "out.onnx")
    report = fuse_graph(tmp_path / "in.onnx", tmp_path / "out.onnx", verify=False)
    assert (report.matched, report.compared_at) == (1, ())


def test_the_command(source, tmp_path):
    target = tmp_path / "out.onnx"
    run = CliRunner().invoke(cli, ["fuse", str(source), "-o", str(target), "--json"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert (report["matched"], report["replaced"], report["opset"]) == (1, 1, 17)
    assert report["compared_at"] == [{"x": [2, 17, 8]}, {"x": [3, 17, 8]}]
    run = CliRunner().invoke(cli, ["fuse", str(source), "-o", str(target), "--size", "d0=4"])
    assert run.exit_code == 0
    assert "1 matched, 1 replaced" in " ".join(run.output.split())
    run = CliRunner().invoke(cli, ["fuse", str(target), "-o", str(target)])
    assert (run.exit_code, "already" in run.output) == (1, True)
    assert CliRunner().invoke(cli, ["fuse", str(source), "-o", str(target), "--size", "d0"]).exit_code == 2


def test_the_command_writes_a_plain_file(source, tmp_path):
    target = tmp_path / "out.onnx"
    run = CliRunner().invoke(cli, ["fuse", str(source), "-o", str(target), "--to", "plain", "--json"])
    assert run.exit_code == 0, run.output
    assert (json.loads(run.stdout)["form"], json.loads(run.stdout)["replaced"]) == ("plain", 1)
    assert not onnx.load(target).functions
    run = CliRunner().invoke(cli, ["fuse", str(source), "-o", str(target), "--to", "plain", "--strip-functions"])
    assert run.exit_code == 2
    assert "--to plain writes no node" in " ".join(run.output.split())


def test_tensorrt_rtx_reads_the_fused_graph_and_misses_the_plugin_without_functions(source, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)

    def parse(**options):
        fuse_graph(source, tmp_path / "out.onnx", **options)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse((tmp_path / "out.onnx").read_bytes())
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        return parsed, [(error.node_operator(), error.desc()) for error in errors]  # they die with the parser

    assert parse() == (True, [])
    assert [function.name for function in onnx.load(tmp_path / "out.onnx").functions] == ["TokenSelect"]
    parsed, ((operator, reason), *_) = parse(functions=False)
    assert (parsed, operator) == (False, "TokenSelect")
    assert "Plugin not found" in reason
