"""The token filter: patch tokens are scored and dropped once, before the first attention block.

timm calls the slot with the tokens of the image and goes on with the tokens that it returns, so its ``forward`` is
used as it is. As with timm's own PatchDropout there are two modules: models with rotary embeddings also need the
positions of the kept tokens.
"""

from typing import Any

from torch import Tensor, nn

from tokfilter.vit.backbone import check_filterable
from tokfilter.vit.reducers.base import BlockTokens, Reducer, as_index
from tokfilter.vit.scorers import TokenFilter

__all__ = ["PatchSlot", "TokenDrop", "TokenDropWithIndices"]


class PatchSlot(Reducer):
    """Scores the patch tokens and keeps the best; base of the two modules.

    scorer: maps patch tokens [B, N, C] to scores [B, N]
    """

    name = "filter"

    def __init__(self, scorer: nn.Module, prefix_tokens: int, num_patches: int) -> None:
        super().__init__(prefix_tokens, num_patches)
        self.scorer = scorer

    @classmethod
    def check(cls, backbone: Any) -> None:
        """See Reducer."""
        check_filterable(backbone)

    @property
    def trained(self) -> bool:
        """Whether the filter is trained; scorers of others count as trained."""
        return not isinstance(self.scorer, TokenFilter) or self.scorer.trained

    def blocks(self, k: int, depth: int) -> list[BlockTokens]:
        """The same in every block."""
        return [BlockTokens(self.prefix_tokens + k, self.prefix_tokens + k)] * depth

    def reduce(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """tokens: [B, P+N, C]. Returns [B, P+k, C] and the kept positions [B, k], None for every token."""
        k = self.begin(tokens)
        if self.state.given is not None:
            last, selected = self.state.given
            return selected, last.indices
        if k is None:
            return tokens, None
        scores = self.scorer(tokens[:, self.prefix_tokens :])
        selected, indices = self.chosen(tokens, scores, k)
        if isinstance(self.scorer, TokenFilter) and self.scorer.summary is not None:
            selected = self.scorer.summary(selected, tokens)
        return selected, indices


class TokenDrop(PatchSlot):
    """For timm's VisionTransformer: returns the kept tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, P+N, C]. Returns [B, P+k, C]."""
        return self.reduce(tokens)[0]


class TokenDropWithIndices(PatchSlot):
    """For timm's Eva, whose blocks rotate queries and keys by position: returns the kept positions too."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """tokens: [B, P+N, C]. Returns [B, P+k, C] and the positions [B, k] int64, None for every token."""
        selected, indices = self.reduce(tokens)
        return selected, None if indices is None else as_index(indices)
