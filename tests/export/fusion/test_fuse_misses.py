"""Graphs that look like a token selection and are none, or not ours: each stays as it is, with the reason."""

import onnx
import onnx.parser
import pytest
import torch

from tokfilter.errors import ExportError
from tokfilter.export.fuse import fuse_graph

N, C, K = 16, 8, 6


def best(scores, k=K, **options):
    return torch.topk(scores, k, dim=1, **options)[1]


def gathered(rows, index):
    return torch.gather(rows, 1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def smallest(x, scores):
    return torch.cat([x[:, :1], gathered(x[:, 1:], best(scores, largest=False))], dim=1)


def first_of_ascending(x, scores):
    return gathered(x[:, 1:], torch.argsort(scores, dim=1)[:, :K])


def middle_of_ascending(x, scores):
    return gathered(x[:, 1:], torch.argsort(scores, dim=1)[:, -K - 1 : -1])


def only_reordered(x, scores):  # a block of DiffRate in which nothing is pruned
    return torch.cat([x[:, :1], gathered(x[:, 1:], torch.argsort(scores, dim=1, descending=True))], dim=1)


def channels(x, scores):
    index = torch.topk(x.mean(1), C // 2, dim=1)[1]
    return torch.gather(x, 2, index[:, None].expand(-1, N + 1, -1)).repeat(1, 1, 2)


def across_images(x, scores):
    return torch.gather(x[:, 1:], 0, torch.topk(scores, 1, dim=0)[1].unsqueeze(-1).expand(-1, -1, C))


def prefix_of_another_tensor(x, scores):
    return torch.cat([(x * 2)[:, :1], gathered(x[:, 1:], best(scores))], dim=1)


def prefix_of_other_rows(x, scores):
    return torch.cat([x[:, 1:2], gathered(x[:, 1:], best(scores))], dim=1)


def prefix_too_wide(x, scores):
    return torch.cat([x[:, :2], gathered(x[:, 1:], best(scores))], dim=1)


def scored_rows_in_the_middle(x, scores):
    kept = gathered(x[:, 1 : N - 1], best(scores[:, : N - 2]))
    return torch.cat([x[:, :1], kept, x[:, N - 1 :]], dim=1)


def offset_of_other_rows(x, scores):
    index = best(scores) + torch.arange(x.shape[0]).view(-1, 1) * (N - 1)
    return x[:, 1:].reshape(-1, C)[index.reshape(-1)].reshape(-1, K, C)


def first_image_decides(x, scores):
    return torch.cat([x[:, :1], x[:, 1:][:, best(scores)[0]]], dim=1)


def mean_decides(x, scores):
    return gathered(x[:, 1:], best(scores.mean(0, keepdim=True)).expand(x.shape[0], -1))


def ranks_read_where_rows_come_by_position(x, scores):
    values, index = torch.topk(scores, K, dim=1)
    return gathered(x[:, 1:], index.sort(dim=1)[0]) * values.unsqueeze(-1)


def dropped_read_where_rows_come_by_position(x, scores):
    ranked = torch.argsort(scores, dim=1, descending=True)
    dropped = gathered(x[:, 1:], ranked[:, K:]).mean(1, keepdim=True)
    return torch.cat([gathered(x[:, 1:], ranked[:, :K].sort(dim=1)[0]), dropped], dim=1)


def positions_of_an_ascending_sort_returned(x, scores):
    index = torch.argsort(scores, dim=1)[:, -K:]
    return gathered(x[:, 1:], index), index


def sizes_of_other_rows(x, scores):  # the same indices, but without the shift by the class token
    index = best(scores)
    sizes = torch.gather(x[:, :, :1], 1, index.unsqueeze(-1) + 2 * (index > 0).unsqueeze(-1)).expand(-1, -1, C)
    return gathered(x[:, 1:], index.sort(dim=1)[0]), sizes


def heads_by_the_scores_of_other_heads(x, scores):
    heads = x[:, 1:].reshape(-1, N, 2, C // 2).transpose(1, 2)
    index = torch.topk(heads.mean(-1), K, dim=-1)[1].flip(1).unsqueeze(-1)
    return torch.gather(heads, 2, index.expand(-1, -1, -1, C // 2)).transpose(1, 2).flatten(2)


def channels_of_heads(x, scores):
    heads = x[:, 1:].reshape(-1, N, 2, C // 2).transpose(1, 2)
    index = torch.topk(heads.mean(2), 2, dim=-1)[1].unsqueeze(2)
    return torch.gather(heads, 3, index.expand(-1, -1, N, -1)).transpose(1, 2).flatten(2).repeat(1, 1, 2)


def ranks_returned_but_rows_by_position(x, scores):
    index = best(scores)
    return torch.cat([x[:, :1], gathered(x[:, 1:], index.sort(dim=1)[0])], dim=1), index


def undefined_order(x, scores):
    return gathered(x[:, 1:], best(scores, sorted=False))


def below_a_threshold_the_first(x, scores):
    values, index = torch.topk(scores, K, dim=1)
    return gathered(x[:, 1:], torch.where(values > 1e-9, index, torch.zeros_like(index)))


def tokens_depend_on_the_indices(x, scores):
    index = best(scores)
    return gathered(x[:, 1:] * index.sum(1)[:, None, None].float(), index)


def no_gather(x, scores):
    return x * best(scores).float().sum(1)[:, None, None]


def double_scores(x, scores):
    return gathered(x[:, 1:], best(scores.double()))


@pytest.mark.parametrize("exporter", [pytest.param("dynamo", marks=pytest.mark.slow), "torchscript"])
@pytest.mark.parametrize(
    ("select", "reason"),
    [
        (smallest, "it keeps the smallest scores, TokenSelect keeps the highest"),
        (first_of_ascending, "it keeps the smallest scores, TokenSelect keeps the highest"),
        (middle_of_ascending, "should be token .* of image 0 but is token .* of image 0"),
        (only_reordered, "it keeps all 16 patches and only reorders them: no token is dropped"),
        (channels, "gathers along axis 2; tokens lie along axis 1"),
        (across_images, r"runs along axis 0 of scores \[d0, 16\]"),
        (prefix_of_another_tensor, "not the first rows of the same tokens: they come from '.*', the kept rows from"),
        (prefix_of_other_rows, "row 0 of image 0 should be token 0 of image 0 but is token 1 of image 0"),
        (prefix_too_wide, "not the first rows of the same tokens: .* row 1 of image 0 should be"),
        (scored_rows_in_the_middle, "not the first rows of the same tokens"),
        (offset_of_other_rows, "row 0 of image 1 should be token .* of image 1 but is token"),
        (first_image_decides, "should be token|do not fit tokens"),
        (mean_decides, r"scores \[1, 16\] do not fit tokens \[2, 17, 8\]"),
        (ranks_read_where_rows_come_by_position, "Unsqueeze '.*' reads scores too"),
        (dropped_read_where_rows_come_by_position, "Slice '.*' reads '.*' too, which the op's indices cannot serve"),
        (positions_of_an_ascending_sort_returned, "is an output of the graph, and not the op's indices"),
        (sizes_of_other_rows, "reads '.*' too, which the op's indices cannot serve"),
        (heads_by_the_scores_of_other_heads, "should be token"),
        (channels_of_heads, "gathers along axis 3; tokens lie along axis 2|runs along axis"),
        (ranks_returned_but_rows_by_position, "is an output of the graph, and not the op's indices"),
        (undefined_order, "sorted=0, so the order of its indices is undefined"),
        (below_a_threshold_the_first, "Greater '.*' uses the scores for more than their order"),
        (tokens_depend_on_the_indices, "reach no gather of other rows"),
        (no_gather, "reach no gather of other rows"),
        (double_scores, "its scores are DOUBLE"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_look_alikes(select, reason, exporter, foreign_graph, tmp_path):
    source, target = foreign_graph(select, exporter, 18), tmp_path / "fused.onnx"
    with pytest.raises(ExportError, match=f"(?s)has nothing to fuse. Expected: TopK .* Of 1 TopK nodes.*{reason}"):
        fuse_graph(source, target)
    assert not target.exists()


def test_a_budget_that_follows_the_number_of_tokens(foreign_graph, tmp_path):
    def half(x, scores):
        return gathered(x[:, 1:], best(scores, scores.shape[1] // 2))

    source = foreign_graph(half, "torchscript", 17, free=(0, 1))
    with pytest.raises(
        ExportError, match=r"its budget follows the shape: k is \d+ or \d+; TokenSelect needs a constant"
    ):
        fuse_graph(source, tmp_path / "fused.onnx")


@pytest.mark.parametrize(
    ("topk", "reason"),
    [
        ("TopK <axis = 1> (scores, k)", None),
        ("TopK <axis = -1> (scores, k)", None),
        ("TopK (whole, k)", r"it sorts integers \(INT64\), such as positions, and no scores"),
        ("TopK (scores, budget)", "the rows also depend on 'budget'"),
        ("TopK (scores, default)", "the rows also depend on 'default'"),
    ],
)
def test_attributes_and_types_that_torch_does_not_write(topk, reason, tmp_path):
    """The same graph by hand, with one thing changed at a time."""
    source, target = tmp_path / "hand.onnx", tmp_path / "fused.onnx"
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        hand (float[b, 9, 4] tokens, float[b, 9] scores, int64[b, 9] whole, int64[1] budget, int64[1] default)
        => (float[b, q, 4] y)
        <int64[1] default = {{3}}, int64[1] k = {{3}}, int64[1] last = {{-1}}, int64[3] shape = {{1, 1, 4}}>
        {{
            values, indices = {topk}
            column = Unsqueeze (indices, last)
            index = Expand (column, shape)
            y = GatherElements <axis = 1> (tokens, index)
        }}"""
    onnx.save(onnx.parser.parse_model(text), source)
    if reason is None:
        (site,) = fuse_graph(source, target, sizes={"b": 2}).sites
        assert (site.k, site.prefix_tokens, site.order) == (3, 0, "score")
    else:
        with pytest.raises(ExportError, match=reason):
            fuse_graph(source, target)


def test_a_selection_in_a_subgraph_is_named_and_left_alone(tmp_path):
    source = tmp_path / "branch.onnx"
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        branch (float[b, 9, 4] tokens, float[b, 9] scores, bool reduce) => (float[b, q, 4] y)
        <int64[1] k = {3}, int64[1] last = {-1}, int64[3] shape = {1, 1, 4}>
        {
            y = If (reduce) <
                then_branch = chosen () => (float[b, q, 4] kept) {
                    values, indices = TopK <axis = 1> (scores, k)
                    column = Unsqueeze (indices, last)
                    index = Expand (column, shape)
                    kept = GatherElements <axis = 1> (tokens, index)
                },
                else_branch = all () => (float[b, n, 4] same) { same = Identity (tokens) }
            >
        }"""
    onnx.save(onnx.parser.parse_model(text), source)
    with pytest.raises(ExportError, match="it is in a subgraph; only the main graph is rewritten"):
        fuse_graph(source, tmp_path / "fused.onnx")


def test_the_reasons_of_look_alikes_beside_a_match(foreign_graph, tmp_path):
    def select(x, scores):
        kept = torch.cat([x[:, :1], gathered(x[:, 1:], best(scores))], dim=1)
        return kept, smallest(x * 2, scores * 3)

    report = fuse_graph(foreign_graph(select, "torchscript", 17), tmp_path / "fused.onnx")
    assert (report.matched, report.replaced) == (1, 1)
    (miss,) = report.near_misses
    assert "keeps the smallest" in miss.reason
    assert miss.node in {node.name for node in onnx.load(tmp_path / "fused.onnx").graph.node}
