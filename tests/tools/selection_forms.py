"""Ways in which public projects write a selection of tokens: functions of tokens [B, P+16, 8] and scores [B, 16]."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

N, C, K = 16, 8, 6
Form = Callable[[Tensor, Tensor], Tensor]
FORMS: dict[Form, tuple[int, int, str, int]] = {}
"""Each way to write a selection: prefix tokens of the model, and the op's attributes prefix_tokens, order and k."""


def form(prefix: int = 1, inside: int = 1, order: str = "score", k: int = K) -> Callable[[Form], Form]:
    def register(select: Form) -> Form:
        FORMS[select] = (prefix, inside, order, k)
        return select

    return register


def best(scores: Tensor, k: int = K) -> Tensor:
    return torch.topk(scores, k, dim=1)[1]


def ranked(scores: Tensor) -> Tensor:
    return torch.argsort(scores, dim=1, descending=True)


def gathered(rows: Tensor, index: Tensor) -> Tensor:
    return torch.gather(rows, 1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def flat_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows by their number in the flattened batch."""
    batch, rows, channels = x.shape
    offset = torch.arange(batch).view(batch, 1) * rows
    return x.reshape(batch * rows, channels)[(index + offset).reshape(-1)].reshape(batch, index.shape[1], channels)


@form()
def topk_gather(x, scores):  # EViT without its fused token, and the top-k baseline of token-reduction surveys
    return torch.cat([x[:, 0:1], gathered(x[:, 1:], best(scores))], dim=1)


@form(order="position")
def topk_sorted_gather(x, scores):
    return torch.cat([x[:, 0:1], gathered(x[:, 1:], best(scores).sort(dim=1)[0])], dim=1)


@form()
def topk_gather_and_rest(x, scores):  # EViT: the others become one more token, and the indices say which they are
    index = best(scores)
    rest = torch.ones_like(scores).scatter(1, index, 0.0) * scores
    extra = (x[:, 1:] * rest.unsqueeze(-1)).sum(1, keepdim=True)
    return torch.cat([x[:, 0:1], gathered(x[:, 1:], index), extra], dim=1)


@form(prefix=0, inside=0)
def no_prefix(x, scores):
    return torch.gather(x, 1, best(scores)[..., None].repeat(1, 1, x.shape[-1]))


@form(inside=0)
def prefix_last(x, scores):
    return torch.cat([gathered(x[:, 1:], best(scores)), x[:, :1]], dim=1)


@form(prefix=0, inside=0)
def prefix_of_its_own(x, scores):  # the class token joins after the selection
    return torch.cat([torch.ones(1, 1, C).expand(x.shape[0], -1, -1), gathered(x, best(scores))], dim=1)


@form(prefix=2, inside=2)
def two_prefix_tokens(x, scores):  # distilled DeiT
    return torch.cat([x[:, 0:1], x[:, 1:2], gathered(x[:, 2:], best(scores))], dim=1)


@form()
def picked_class_token(x, scores):
    return torch.cat([x[:, 0].unsqueeze(1), gathered(x[:, 1:], best(scores))], dim=1)


@form()
def split_and_sort(x, scores):
    first, patches = x.split([1, N], dim=1)
    return torch.cat([first, gathered(patches, scores.sort(dim=1, descending=True)[1][:, :K])], dim=1)


@form(order="position")
def argsort_sorted(x, scores):
    return torch.cat([x[:, 0:1], gathered(x[:, 1:], ranked(scores)[:, :K].sort(dim=1).values)], dim=1)


@form()
def smallest_of_negated(x, scores):
    return torch.cat([x[:, 0:1], gathered(x[:, 1:], torch.argsort(-scores, dim=1)[:, :K])], dim=1)


@form(order="position")
def unsorted_then_sorted(x, scores):
    index = torch.topk(scores, K, dim=1, sorted=False)[1].sort(dim=1)[0]
    return torch.cat([x[:, :1], gathered(x[:, 1:], index)], dim=1)


@form()
def slice_after_gather(x, scores):  # Evo-ViT sorts all tokens, then cuts
    return torch.cat([x[:, :1], gathered(x[:, 1:], ranked(scores))[:, :K]], dim=1)


@form()
def flattened_rows(x, scores):
    return torch.cat([x[:, :1], flat_rows(x[:, 1:], best(scores))], dim=1)


@form()
def flattened_rows_with_prefix(x, scores):  # DynamicViT: class token at index 0, patches shifted; a policy is cut, too
    keep = ranked(scores)[:, :K]
    first = torch.zeros(x.shape[0], 1, dtype=keep.dtype)
    policy = flat_rows(scores.unsqueeze(-1) * 2, keep)
    x = flat_rows(x, torch.cat([first, keep + 1], dim=1))
    return torch.cat([x[:, :1] * 1.0, x[:, 1:] * policy], dim=1)


@form()
def embedding_lookup(x, scores):
    index = best(scores) + torch.arange(x.shape[0])[:, None] * N
    return torch.cat([x[:, :1], nn.functional.embedding(index, x[:, 1:].reshape(-1, C))], dim=1)


@form()
def batch_index(x, scores):
    return torch.cat([x[:, :1], x[:, 1:][torch.arange(x.shape[0]).unsqueeze(1), best(scores)]], dim=1)


@form()
def write_back(x, scores):  # IdleViT: what was chosen is computed with and written back
    index = ranked(scores)[:, :K] + 1
    index = torch.cat([torch.zeros(x.shape[0], 1, dtype=index.dtype), index], dim=1)
    image, out = torch.arange(x.shape[0])[:, None], x.clone()
    out[image, index] = x[image, index] * 2 + 1
    return out


@form()
def shifted_index(x, scores):
    return torch.cat([x[:, :1], gathered(x, best(scores) + 1)], dim=1)


def take_along_dim(x, scores):
    return torch.cat([x[:, :1], torch.take_along_dim(x[:, 1:], best(scores).unsqueeze(-1), dim=1)], dim=1)


@form()
def column_scores(x, scores):
    return torch.cat([x[:, :1], torch.gather(x[:, 1:], 1, best(scores.unsqueeze(-1)).expand(-1, -1, C))], dim=1)


@form()
def row_scores(x, scores):
    index = torch.topk(scores.unsqueeze(1), K, dim=-1)[1].transpose(1, 2)
    return torch.cat([x[:, :1], torch.gather(x[:, 1:], 1, index.expand(-1, -1, C))], dim=1)


@form()
def ratio_of_static_length(x, scores):
    return torch.cat([x[:, :1], gathered(x[:, 1:], best(scores, int(scores.shape[1] * 0.4)))], dim=1)


@form()
def sizes_by_the_same_indices(x, scores):  # DiffRate: tokens and their sizes are sorted, then cut
    index = scores.sort(descending=True)[1]
    index = torch.cat([torch.zeros(x.shape[0], 1, dtype=index.dtype), index + 1], dim=1)
    size = torch.gather(x[:, :, :1].abs() + 1, 1, index.unsqueeze(-1))
    return gathered(x, index)[:, : 1 + K], (size[:, : 1 + K].log() * torch.ones(C))


@form()
def sizes_of_patches(x, scores):
    index = ranked(scores)
    size = gathered(x[:, 1:, :4] * 2 + 1, index)[:, :K]
    return torch.cat([x[:, :1], gathered(x[:, 1:], index)[:, :K]], dim=1), size.repeat(1, 1, 2)


@form(inside=0)
def weighted_by_scores(x, scores):
    values, index = torch.topk(scores, K, dim=1)
    return torch.cat([x[:, :1], gathered(x[:, 1:], index) * values.unsqueeze(-1)], dim=1)


@form(inside=0)
def weighted_by_column_scores(x, scores):
    values, index = torch.topk(scores.unsqueeze(-1), K, dim=1)
    return torch.gather(x[:, 1:], 1, index.expand(-1, -1, C)) * torch.sigmoid(values)


@form(inside=0, k=N)
def weighted_by_sorted_scores(x, scores):
    values, index = scores.sort(dim=1, descending=True)
    return gathered(x[:, 1:], index[:, :K]) * values[:, :K].unsqueeze(-1)


@form(k=N)
def summary_of_dropped(x, scores):
    index = ranked(scores)
    dropped = gathered(x[:, 1:], index[:, K:]).mean(1, keepdim=True)
    return torch.cat([x[:, :1], gathered(x[:, 1:], index[:, :K]), dropped], dim=1)


@form(k=N)
def weighted_summary_of_dropped(x, scores):
    index = ranked(scores)
    dropped = index[:, K:]
    summary = (gathered(x[:, 1:], dropped) * scores.gather(1, dropped).unsqueeze(-1)).sum(1, keepdim=True)
    return torch.cat([x[:, :1], gathered(x[:, 1:], index[:, :K]), summary], dim=1)


def summary_of_the_complement(x, scores):  # EViT with its fused token: the dropped positions come from a scatter
    index = best(scores)
    every = torch.arange(N).unsqueeze(0).expand(x.shape[0], -1)
    dropped = every.scatter(1, index, 0).sort(dim=1)[0][:, K:]
    summary = (gathered(x[:, 1:], dropped) * scores.gather(1, dropped).unsqueeze(-1)).sum(1, keepdim=True)
    return torch.cat([x[:, :1], gathered(x[:, 1:], index), summary], dim=1)


@form(inside=0)
def last_of_ascending(x, scores):
    return torch.cat([x[:, :1], gathered(x[:, 1:], torch.argsort(scores, dim=1)[:, -K:])], dim=1)


@form(inside=0)
def last_of_ascending_best_first(x, scores):
    return gathered(x[:, 1:], torch.argsort(scores, dim=1)[:, -K:].flip(1))


@form(inside=0, order="position")
def last_of_ascending_by_position(x, scores):
    return gathered(x[:, 1:], torch.argsort(scores, dim=1)[:, N - K :].sort(dim=1)[0])


@form(inside=0)
def last_of_ascending_with_prefix(x, scores):
    index = torch.argsort(scores, dim=1)[:, -K:] + 1
    return gathered(x, torch.cat([torch.zeros(x.shape[0], 1, dtype=index.dtype), index], dim=1))


def heads_of(x):
    return x.reshape(x.shape[0], x.shape[1], 2, C // 2).transpose(1, 2)


def gathered_heads(heads, index):
    return torch.gather(heads, 2, index[:, None, :, None].expand(-1, 2, -1, C // 2))


@form(inside=0)
def heads_and_back(x, scores):
    return gathered_heads(heads_of(x[:, 1:]), best(scores)).transpose(1, 2).flatten(2)


@form(inside=0)
def keys_and_values_of_heads(x, scores):
    q, k, v = torch.cat([x, 2 * x, 3 * x], dim=-1).reshape(-1, N + 1, 3, 2, C // 2).permute(2, 0, 3, 1, 4).unbind(0)
    index = best(scores)
    k, v = gathered_heads(k[:, :, 1:], index), gathered_heads(v[:, :, 1:], index)
    return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)


@form(inside=1)
def heads_with_the_class_token(x, scores):
    index = torch.cat([torch.zeros(x.shape[0], 1, dtype=torch.int64), best(scores) + 1], dim=1)
    return (gathered_heads(heads_of(x).exp(), index) + 1).transpose(1, 2).flatten(2)


@form(inside=0)
def each_head_for_itself(x, scores):
    heads = heads_of(x[:, 1:])
    index = torch.topk(torch.stack([scores, heads.mean((1, 3))], dim=1), K, dim=-1)[1].unsqueeze(-1)
    return (torch.gather(heads, 2, index.expand(-1, -1, -1, C // 2)) * 2).transpose(1, 2).flatten(2)


class _GatherND(torch.autograd.Function):
    """How deployers get GatherND with batch_dims out of the TorchScript exporter: a symbolic of their own."""

    @staticmethod
    def forward(ctx, rows, index):
        return torch.gather(rows, 1, index.expand(-1, -1, C))

    @staticmethod
    def symbolic(g, rows, index):
        return g.op("GatherND", rows, index, batch_dims_i=1)


@form()
def gather_nd_with_batch_dims(x, scores):
    rows, index = x[:, 1:], best(scores).unsqueeze(-1)
    if not torch.compiler.is_exporting():
        return torch.cat([x[:, :1], _GatherND.apply(rows, index)], dim=1)
    shape = (x.shape[0], K, C)
    kept = torch.onnx.ops.symbolic("GatherND", (rows, index), {"batch_dims": 1}, dtype=x.dtype, shape=shape)
    return torch.cat([x[:, :1], kept], dim=1)
