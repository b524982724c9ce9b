"""Fusing networks with several selections, one behind the other, as public repositories write them, to both forms."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic

from tokfilter.errors import ExportError
from tokfilter.export.fuse import fuse_graph

N, C = 16, 8


def gathered(rows, index):
    return torch.gather(rows, 1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def attended(x, size=None):
    weights = x @ x.transpose(1, 2) * 0.1
    weights = (weights if size is None else weights + size.log().transpose(1, 2)).softmax(-1)
    return x + weights @ x, weights


def with_class_token(index):
    return torch.cat([torch.zeros(index.shape[0], 1, dtype=index.dtype), index + 1], dim=1)


def diffrate(x, _):
    """https://github.com/OpenGVLab/DiffRate, patch/deit.py: each block sorts tokens and sizes, some cut them."""
    size = torch.ones(x.shape[0], x.shape[1], 1)
    for kept in (17, 13, 13, 6):
        x, weights = attended(x, size)
        index = with_class_token(torch.sort(weights[:, 0, 1:], descending=True)[1])
        x, size = gathered(x, index)[:, :kept], torch.gather(size, 1, index.unsqueeze(-1))[:, :kept]
        size = size * 1.5
        x = x + x.relu()
    return x


def dynamic_vit(x, _):
    """https://github.com/raoyongming/DynamicViT, models/dyvit.py: the decision so far is selected, too."""
    decision = torch.ones(x.shape[0], N, 1)
    for k in (11, 7):
        score = (x[:, 1:] * decision).mean(2) + decision.mean(1)
        keep = torch.argsort(score, dim=1, descending=True)[:, :k]
        x, decision = flat_rows(x, with_class_token(keep)), flat_rows(decision, keep)
        x = attended(x)[0]
    return x


def flat_rows(x, index):
    batch, rows, channels = x.shape
    offset = torch.arange(batch).view(batch, 1) * rows
    return x.reshape(batch * rows, channels)[(index + offset).reshape(-1)].reshape(batch, index.shape[1], channels)


def evit(x, _):
    """https://github.com/youweiliang/evit, evit.py with fuse_token: the complement of the kept becomes one token."""
    for k in (10, 5):
        n = x.shape[1] - 1
        x, weights = attended(x)
        scores = weights[:, 0, 1:]
        index = torch.topk(scores, k, dim=1)[1]
        every = torch.arange(n).unsqueeze(0).expand(x.shape[0], -1)
        dropped = every.scatter(-1, index, 0).sort(dim=-1)[0].permute(1, 0)[k:].permute(1, 0)
        extra = gathered(x[:, 1:], dropped) * torch.gather(scores, 1, dropped).unsqueeze(-1)
        x = torch.cat([x[:, 0:1], gathered(x[:, 1:], index), extra.sum(1, keepdim=True)], dim=1)
    return x


def idle_vit(x, _):
    """https://github.com/Ackesnal/IdleViT, vit.py, test mode: tokens and keys are selected by the class token's."""
    k_rows = x * 0.7 + 0.1
    weights = (x[:, :1].reshape(-1, 1, 2, C // 2).permute(0, 2, 1, 3)) @ k_rows.reshape(-1, N + 1, 2, C // 2).permute(
        0, 2, 3, 1
    )
    index = with_class_token(torch.argsort(weights.mean(1)[:, 0, 1:], dim=1, descending=True)[:, :9])
    chosen, keys = flat_rows(x, index), flat_rows(k_rows, index)
    q, k, v = (t.reshape(-1, 10, 2, C // 2).permute(0, 2, 1, 3) for t in (chosen * 2, keys, chosen * 3))
    y = ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).reshape(-1, 10, C)
    out = x.clone()
    out[torch.arange(x.shape[0])[:, None], index] = y
    return out


MODELS = [
    (diffrate, [12, 5], ["it keeps all 16 patches and only reorders", "it keeps all 12 patches and only reorders"]),
    (dynamic_vit, [11, 7], []),
    (evit, [10, 5], ["it sorts integers (INT64)", "it sorts integers (INT64)"]),
    (idle_vit, [9], []),
]


def check_same_bits(source, target):
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (source, target)]
    for batch in (1, 2, 7):
        x = np.random.default_rng(batch).standard_normal((batch, 1 + N, C)).astype(np.float32)
        before, after = (session.run(None, {"x": x}) for session in sessions)
        assert [a.tobytes() for a in before] == [b.tobytes() for b in after]


@pytest.mark.parametrize("exporter", [pytest.param("dynamo", marks=pytest.mark.slow), "torchscript"])
@pytest.mark.parametrize(("model", "budgets", "left"), MODELS, ids=lambda value: getattr(value, "__name__", ""))
def test_networks(model, budgets, left, exporter, foreign_graph, tmp_path):
    source = foreign_graph(model, exporter, 18)
    for to in ("node", "plain"):
        check_network(source, tmp_path / f"{to}.onnx", to, budgets, left)


def check_network(source, target, to, budgets, left):
    report = fuse_graph(source, target, to=to)
    assert ([site.k for site in report.sites], report.replaced, report.form) == (budgets, len(budgets), to)
    assert {(site.prefix_tokens, site.order) for site in report.sites} == {(1, "score")}
    assert len(report.near_misses) == len(left)
    assert all(words in miss.reason for words, miss in zip(left, report.near_misses, strict=True))
    fused = onnx.load(target)
    onnx.checker.check_model(fused, full_check=True)
    assert {entry.domain for entry in fused.opset_import} == ({"", "tokfilter"} if to == "node" else {""})
    check_same_bits(source, target)


def test_a_plain_file_is_standard_operators_with_names_for_all(foreign_graph, tmp_path):
    source, target = foreign_graph(dynamic_vit, "torchscript", 17), tmp_path / "plain.onnx"
    fuse_graph(source, target, to="plain")
    plain = onnx.load(target)
    assert not plain.functions
    assert {node.domain for node in plain.graph.node} == {""}
    assert "Constant" not in {node.op_type for node in plain.graph.node}
    names = [node.name for node in plain.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert all(value for node in plain.graph.node for value in node.output)
    quantize_dynamic(target, tmp_path / "int8.onnx")
    assert "MatMulInteger" in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}


def test_names_of_the_function_body_that_the_graph_has_already(tmp_path):
    """Each tensor of this graph is called as one of the body, and each node as one of fuse."""
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        taken (float[b, 9, 4] tokens, float[b, 9] keys) => (float[b, 3, 4] selected, float[b, 3, 4] kept)
        <int64[1] one = {3}, int64[1] zero = {-1}, int64[3] shape = {1, 1, 4}>
        {
            flat = Abs (tokens)
            scores = Neg (keys)
            top, indices = TopK <axis = 1> (scores, one)
            rows = Unsqueeze (indices, zero)
            budget = Expand (rows, shape)
            selected = GatherElements <axis = 1> (flat, budget)
            scores_float = Relu (keys)
            ranked, TokenSelect_0_indices = TopK <axis = 1> (scores_float, one)
            unknown = Unsqueeze (TokenSelect_0_indices, zero)
            lowest = Expand (unknown, shape)
            kept = GatherElements <axis = 1> (tokens, lowest)
        }"""
    model = onnx.parser.parse_model(text)
    for number, node in enumerate(model.graph.node):
        node.name = f"TokenSelect_{number}" if number else "TokenSelect/Cast_0"
    onnx.save(model, source)
    for to in ("node", "plain"):
        assert fuse_graph(source, target, to=to, sizes={"b": 2}).replaced == 2
        onnx.checker.check_model(onnx.load(target), full_check=True)


def test_forms_that_there_are_not(foreign_graph, tmp_path):
    source = foreign_graph(dynamic_vit, "torchscript", 17)
    with pytest.raises(ExportError, match="fuse writes one of node, plain, got 'openvino'"):
        fuse_graph(source, tmp_path / "out.onnx", to="openvino")
    with pytest.raises(ExportError, match="a plain file has no functions to leave out"):
        fuse_graph(source, tmp_path / "out.onnx", to="plain", functions=False)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("to", ["node", "plain"])
@pytest.mark.parametrize("model", [diffrate, evit], ids=lambda model: model.__name__)
def test_tensorrt_rtx_reads_the_fused_networks(model, to, foreign_graph, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    fuse_graph(foreign_graph(model, "torchscript", 17), tmp_path / "out.onnx", to=to)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse((tmp_path / "out.onnx").read_bytes())
    assert (parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]) == (True, [])
