"""Modules for timm's ``patch_drop`` slot, which stands between the position embedding and the first block.

timm calls the slot with the tokens of the image and goes on with the tokens that it returns, so its ``forward`` is
used as it is. As with timm's own PatchDropout there are two modules: models with rotary embeddings also need the
positions of the kept tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.kernels.torch_op import token_select
from tokfilter.vit.scorers import TokenFilter

__all__ = ["CallState", "PatchSlot", "Select", "Selection", "TokenDrop", "TokenDropWithIndices"]

Select = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
"""(tokens, scores, k, prefix_tokens) -> (selected, indices): the pure function that selects tokens."""


@dataclass
class Selection:
    """Input and result of the slot in the last forward pass.

    tokens: [B, P+N, C] before the selection
    scores: [B, N]; None when every token was kept
    indices: [B, k] int32, kept positions among the patches; None when every token was kept
    """

    tokens: Tensor
    scores: Tensor | None = None
    indices: Tensor | None = None


@dataclass
class CallState:
    """Arguments and result of one forward pass, which timm's ``forward`` does not hand through.

    A plain object instead of module attributes: torch.export allows it to change while it traces. Copies and pickles
    of a model start with a new one, because tensors of a graph can be neither copied nor pickled.
    keep: budget
    given: what becomes ``last``, and tokens of any batch and length that are returned instead of a selection
    last: selection of the last forward pass
    warned: whether the warning about an untrained filter was given
    """

    keep: Keep = 1.0
    given: tuple[Selection, Tensor] | None = None
    last: Selection | None = None
    warned: bool = False

    def __reduce__(self) -> tuple[type["CallState"], tuple[()]]:
        return CallState, ()


class PatchSlot(nn.Module):
    """Scores the patch tokens and keeps the best; base of the two modules.

    scorer: maps patch tokens [B, N, C] to scores [B, N]
    select: replaced while a graph is traced
    """

    def __init__(self, scorer: nn.Module, prefix_tokens: int) -> None:
        super().__init__()
        self.scorer = scorer
        self.prefix_tokens = prefix_tokens
        self.state = CallState()
        self.select: Select = token_select

    def reduce(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """tokens: [B, P+N, C]. Returns [B, P+k, C] and the kept positions [B, k], None for every token."""
        state = self.state
        if state.given is not None:
            state.last, selected = state.given
            return selected, state.last.indices
        state.last = Selection(tokens)
        patches = tokens.shape[1] - self.prefix_tokens
        k = tokens_from_keep(state.keep, patches)
        if k == patches:
            return tokens, None
        scores = self.scorer(tokens[:, self.prefix_tokens :])
        selected, indices = self.select(tokens, scores, k, self.prefix_tokens)
        if isinstance(self.scorer, TokenFilter) and self.scorer.summary is not None:
            selected = self.scorer.summary(selected, tokens)
        state.last = Selection(tokens, scores, indices)
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
        return selected, None if indices is None else indices.long()
