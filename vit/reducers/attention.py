"""timm's Attention in parts, for reducers that need queries, keys and values apart.

The layers are timm's own. With ``fused_attn`` the middle part is one fused operation, as in timm: no reducer needs the
attention map.
"""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

__all__ = ["attended", "project", "projected"]

_PARTS = {"queries": 0, "keys": 1, "values": 2}


def project(attention: Any, tokens: Tensor, part: Literal["queries", "keys", "values"]) -> Tensor:
    """One of the three projections, normalised as timm does.

    attention: timm's Attention
    tokens: [B, T, C], behind the block's first norm
    Returns [B, T, heads, c].
    """
    rows = slice(_PARTS[part] * attention.attn_dim, (_PARTS[part] + 1) * attention.attn_dim)
    bias = None if attention.qkv.bias is None else attention.qkv.bias[rows]
    joined = F.linear(tokens, attention.qkv.weight[rows], bias)
    heads = joined.reshape(*joined.shape[:2], attention.num_heads, attention.head_dim)
    norm = {"queries": attention.q_norm, "keys": attention.k_norm}.get(part)
    result: Tensor = heads if norm is None else norm(heads)
    return result


def attended(attention: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The weighted sums of values. queries, keys, values: [B, heads, T, c]. Returns the same shape."""
    if attention.fused_attn:
        dropout = attention.attn_drop.p if attention.training else 0.0
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
    weights = (queries * attention.scale @ keys.transpose(-2, -1)).softmax(dim=-1)
    result: Tensor = attention.attn_drop(weights) @ values
    return result


def projected(attention: Any, sums: Tensor, tokens: Tensor) -> Tensor:
    """The layers behind the weighted sums.

    sums: [B, heads, T, c]
    tokens: [B, T, C], the input of the attention, from which gated models compute the gate
    Returns [B, T, C].
    """
    joined = attention.norm(sums.transpose(1, 2).flatten(2))
    if attention.gate is not None:
        joined = joined * attention.gate(tokens).sigmoid()
    result: Tensor = attention.proj_drop(attention.proj(joined))
    return result
