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


def test_a_fused_file_in_the_place_of_its_source(foreign_graph):
    source = foreign_graph(lambda x, scores: gathered(x[:, 1:], best(scores)), "torchscript", 17)
    assert fuse_graph(source, source).replaced == 1
    assert [node.op_type for node in onnx.load(source).graph.node].count("TokenSelect") == 1
