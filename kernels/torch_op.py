"""TokenSelect as a torch custom op for eager mode, ``torch.compile`` and ``torch.export``, with gradients.

Gradients flow to the kept tokens. The selection is piecewise constant, so the scores get no gradient.
"""

from typing import Any

import torch
from torch import Tensor

from tokfilter.errors import ContractError
from tokfilter.kernels.op import check_call

__all__ = ["token_select"]

_SCORE_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@torch.library.custom_op("tokfilter::token_select", mutates_args=())
def _token_select(tokens: Tensor, scores: Tensor, k: int, prefix_tokens: int, order: str) -> tuple[Tensor, Tensor]:
    check_call(tokens.shape, scores.shape, k, prefix_tokens, order)
    _check_types(scores)
    keys = torch.where(scores.isnan(), float("-inf"), scores.float())
    # torch.topk leaves the order of ties undefined; a stable sort keeps the lower position first.
    ranked = torch.sort(keys, dim=1, descending=True, stable=True).indices[:, :k]
    kept = ranked.sort(dim=1).values if order == "position" else ranked
    patches = tokens[:, prefix_tokens:].gather(1, kept.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :prefix_tokens], patches], dim=1), kept.to(torch.int32)


def _check_types(scores: Tensor) -> None:
    if scores.dtype not in _SCORE_TYPES:
        raise ContractError(f"TokenSelect expects scores of type float32, float16 or bfloat16, got {scores.dtype}.")


@_token_select.register_fake
def _(tokens: Tensor, scores: Tensor, k: int, prefix_tokens: int, order: str) -> tuple[Tensor, Tensor]:
    batch, _, channels = tokens.shape
    return tokens.new_empty(batch, prefix_tokens + k, channels), scores.new_empty(batch, k, dtype=torch.int32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tokens, _, _, ctx.prefix_tokens, _ = inputs
    ctx.rows = tokens.shape[1]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad_selected: Tensor, _grad_indices: Tensor | None) -> tuple[Tensor, None, None, None, None]:
    (indices,) = ctx.saved_tensors
    prefix = ctx.prefix_tokens
    batch, _, channels = grad_selected.shape
    grad = grad_selected.new_zeros(batch, ctx.rows, channels)
    grad[:, :prefix] = grad_selected[:, :prefix]
    rows = (indices.long() + prefix).unsqueeze(-1).expand(-1, -1, channels)
    return grad.scatter(1, rows, grad_selected[:, prefix:]), None, None, None, None


_token_select.register_autograd(_backward, setup_context=_setup_context)


def token_select(
    tokens: Tensor, scores: Tensor, k: int, prefix_tokens: int = 1, order: str = "position"
) -> tuple[Tensor, Tensor]:
    """Keep the prefix tokens and the k patch tokens with the highest scores (contract: ``kernels/op.py``).

    tokens: [B, P+N, C]
    scores: [B, N], float32, float16 or bfloat16
    Returns selected [B, P+k, C] and indices [B, k] int32. Raises ContractError.
    """
    selected, indices = _token_select(tokens, scores, k, prefix_tokens, order)
    return selected, indices
