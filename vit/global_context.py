"""Global context for the class token: a vector computed from all patch tokens, dropped ones included. Ours, not the
paper's.

A token that is dropped before attention is lost to every block. One small MLP over all patch tokens, with weights for
each position, gives the class token a summary of the whole image, for a few thousandths of the model's
multiply-accumulates. It is trained while the backbone is fine-tuned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GlobalContext"]


class GlobalContext(nn.Module):
    """Adds an MLP of all patch tokens to the class token, scaled by (N - k) / N; zero at initialisation.

    With every token (k = N) the model stays timm's.
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
        """Add the context to the class token, which is the first.

        kept: [B, P+k, C], prefix tokens and kept patch tokens
        tokens: [B, P+N, C], all of them
        Returns [B, P+k, C].
        """
        dropped = (tokens.shape[1] - kept.shape[1]) / self.num_patches
        context = dropped * self.expand(F.gelu(self.reduce(tokens[:, -self.num_patches :].flatten(1))))
        return torch.cat([kept[:, :1] + context[:, None], kept[:, 1:]], dim=1)
