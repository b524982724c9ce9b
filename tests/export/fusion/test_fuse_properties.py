"""What holds for every fused graph: any budget and prefix, any number of tokens, other readers of the indices."""

import numpy as np
import onnx
import onnxruntime
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokfilter.export.fuse import fuse_graph

N, C, K = 16, 8, 6


def best(scores, k=K):
    return torch.topk(scores, k, dim=1)[1]


def gathered(rows, index):
    return torch.gather(rows, 1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def test_free_number_of_tokens(foreign_graph, tmp_path):
    def select(x, scores):
        return torch.cat([x[:, :1], gathered(x[:, 1:], best(scores).sort(dim=1)[0])], dim=1)

    source, target = foreign_graph(select, "torchscript", 17, free=(0, 1)), tmp_path / "fused.onnx"
    (site,) = fuse_graph(source, target).sites
    assert (site.k, site.prefix_tokens, site.order) == (K, 1, "position")
    for shape in ((1, 9, C), (3, 40, C)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        before, after = (onnxruntime.InferenceSession(path).run(None, {"x": x})[0] for path in (source, target))
        assert before.tobytes() == after.tobytes()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(k=st.integers(1, N - 1), prefix=st.integers(0, 3), positions=st.booleans(), ties=st.booleans())
def test_any_budget_and_prefix(k, prefix, positions, ties, foreign_graph, tmp_path):
    def select(x, scores):
        index = best(torch.round(scores * 8) if ties else scores, k)
        index = index.sort(dim=1)[0] if positions else index
        return torch.cat([x[:, :prefix], gathered(x[:, prefix:], index)], dim=1) if prefix else gathered(x, index)

    source = foreign_graph(select, "torchscript", 17, prefix)
    report = fuse_graph(source, tmp_path / "fused.onnx")
    (site,) = report.sites
    assert (site.k, site.prefix_tokens) == (k, prefix)
    if k > 1:
        assert site.order == ("position" if positions else "score")


def test_other_readers_of_the_indices_are_served(foreign_graph, tmp_path):
    """Kept positions that the graph returns, in both orders: they come from the op's second output then."""
    for sort in (False, True):

        def select(x, scores, sort=sort):
            index = best(scores).sort(dim=1)[0] if sort else best(scores)
            return torch.cat([x[:, :1], gathered(x[:, 1:], index)], dim=1), index

        fuse_graph(foreign_graph(select, "torchscript", 17), tmp_path / "fused.onnx")
        graph = onnx.load(tmp_path / "fused.onnx").graph
        assert "TopK" not in {node.op_type for node in graph.node}
        assert [output.type.tensor_type.elem_type for output in graph.output] == [1, 7]


def test_kept_and_dropped_rows_are_cut_from_one_ranking(foreign_graph, tmp_path):
    """A summary of some of the dropped rows, the mean of the others: no gather of tokens is left."""

    def select(x, scores):
        index = torch.argsort(scores, dim=1, descending=True)
        parts = [gathered(x[:, 1:], cut) for cut in (index[:, :K], index[:, K : K + 3], index[:, K + 3 :])]
        return torch.cat([x[:, :1], parts[0], parts[1].mean(1, keepdim=True), parts[2].amax(1, keepdim=True)], dim=1)

    source, target = foreign_graph(select, "torchscript", 17), tmp_path / "fused.onnx"
    (site,) = fuse_graph(source, target).sites
    assert site.k == K
    graph = onnx.load(target).graph
    operators = [node.op_type for node in graph.node]
    assert not {"TopK", "GatherElements", "GatherND", "Gather", "Expand"} & set(operators)
    assert operators.count("TokenSelect") == 1
    for batch in (1, 4):
        x = np.random.default_rng(batch).standard_normal((batch, 1 + N, C)).astype(np.float32)
        before, after = (onnxruntime.InferenceSession(path).run(None, {"x": x})[0] for path in (source, target))
        assert before.tobytes() == after.tobytes()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), prefix=st.integers(0, 2), channels=st.integers(1, C), ties=st.booleans())
def test_a_second_tensor_of_any_width(data, prefix, channels, ties, foreign_graph, tmp_path):
    """Sorted and cut like DiffRate's sizes, with any number of class tokens, and with scores that are often equal."""
    k = data.draw(st.integers(1, N - 1))

    def select(x, scores):
        index = torch.argsort(torch.round(scores * 8) if ties else scores, dim=1, descending=True) + prefix
        first = torch.arange(prefix).unsqueeze(0).expand(x.shape[0], -1)
        index = torch.cat([first, index], dim=1) if prefix else index
        second = gathered(x[:, :, :channels].exp(), index)[:, : prefix + k]
        return gathered(x, index)[:, : prefix + k], second.sum(2, keepdim=True).repeat(1, 1, C)

    source, target = foreign_graph(select, "torchscript", 17, prefix), tmp_path / "fused.onnx"
    (site,) = fuse_graph(source, target, to=data.draw(st.sampled_from(["node", "plain"]))).sites
    assert (site.k, site.prefix_tokens) == (k, prefix)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, prefix + N, C)).astype(np.float32)
        before, after = (onnxruntime.InferenceSession(path).run(None, {"x": x}) for path in (source, target))
        assert [a.tobytes() for a in before] == [b.tobytes() for b in after]


def test_a_fused_file_in_the_place_of_its_source(foreign_graph):
    source = foreign_graph(lambda x, scores: gathered(x[:, 1:], best(scores)), "torchscript", 17)
    assert fuse_graph(source, source).replaced == 1
    assert [node.op_type for node in onnx.load(source).graph.node].count("TokenSelect") == 1
