"""Small models in which fp16 is too narrow for chosen layers, by construction: fp32 computes them without trouble."""

from typing import Any

import torch

__all__ = ["cancel_in_attention", "overflow_in_attention", "overflow_in_mlp"]


def overflow_in_mlp(model: Any, block: int) -> None:
    """One hidden unit of the MLP exceeds 65504, fp16's largest number; the second layer ignores it (0 * inf is NaN)."""
    mlp = model.backbone.blocks[block].mlp
    with torch.no_grad():
        mlp.fc1.weight[0] = 0
        mlp.fc1.weight[0, 0] = 60000
        mlp.fc1.bias[0] = 60000
        mlp.fc2.weight[:, 0] = 0


def overflow_in_attention(model: Any, block: int) -> None:
    """Scores of one head exceed 65504 by a constant, which the softmax removes."""
    qkv, width = model.backbone.blocks[block].attn.qkv, model.channels
    with torch.no_grad():
        for part in (0, 1):  # one channel of q and k
            qkv.weight[part * width] = 0
            qkv.bias[part * width] = 500


def cancel_in_attention(model: Any, block: int) -> None:
    """Two channels of v are near 512, where fp16 numbers are 0.5 apart, and the projection takes their difference."""
    attention, width = model.backbone.blocks[block].attn, model.channels
    signs = torch.tensor([1.0, -1.0]).repeat(width // 2)  # what is equal in all channels, LayerNorm removes
    with torch.no_grad():
        attention.qkv.bias[2 * width : 2 * width + 2] = 512
        attention.proj.weight[:, 0] = signs
        attention.proj.weight[:, 1] = -signs
