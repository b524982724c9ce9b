"""Multiply-accumulates of a filtered model, counted by torch on fake tensors: no arithmetic is done."""

from contextlib import nullcontext

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.vit.model import FilteredViT

__all__ = ["macs"]


def macs(model: FilteredViT, keep: Keep = 1.0, fake: bool = True) -> int:
    """Multiply-accumulates for one image: patch embedding, filter (unless full), blocks, head.

    Matrix products and convolutions are counted, element-wise work is not (the field's convention). Raises BudgetError.
    fake: on fake tensors; a small model is counted about ten times as fast on real ones
    """
    height, width = model.backbone.patch_embed.img_size
    tokens = tokens_from_keep(keep, model.num_patches)
    was_training = model.training
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    model.eval().requires_grad_(False)  # the counter fails on views of weights with a gradient (attention pooling)
    model.drop.state.keep = tokens
    try:
        # The counter has no rule for fused CPU attention; as two matrix products it costs the same.
        with (
            FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
        ):
            model.predicted(torch.empty(1, 3, height, width))
    finally:
        model.train(was_training)
        for weight in trained:
            weight.requires_grad_(True)
    return int(counter.get_total_flops()) // 2
