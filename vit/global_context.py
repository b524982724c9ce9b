"""What the class token is told of the whole image when tokens are dropped. Ours; the paper drops them without a word.

A token that leaves before attention is lost to every block. One small MLP over all patch tokens, where each position
has weights of its own, tells the class token what the image looks like as a whole: a few thousandths of the model's
work, learned while the backbone is fine-tuned. It speaks the louder the more tokens leave: with every token the model
stays timm's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GlobalContext"]


class GlobalContext(nn.Module):
    """An MLP from all patch tokens to one vector, which is added to the class token. It begins as zero.

    num_patches, channels: N and C of the model
    width: hidden width
    """

    def __init__(self, num_patches: int, channels: int, width: int) -> None:
        super().__init__()
        self.num_patches = num_patches
        self.reduce = nn.Linear(num_patches * channels, width)
        self.expand = nn.Linear(width, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, kept: Tensor, tokens: Tensor) -> Tensor:
        """Tell the class token, which is the first.

        kept: [B, P+k, C], prefix tokens and kept patch tokens
        tokens: [B, P+N, C], all of them
        Returns [B, P+k, C].
        """
        dropped = (tokens.shape[1] - kept.shape[1]) / self.num_patches
        told = dropped * self.expand(F.gelu(self.reduce(tokens[:, -self.num_patches :].flatten(1))))
        return torch.cat([kept[:, :1] + told[:, None], kept[:, 1:]], dim=1)
