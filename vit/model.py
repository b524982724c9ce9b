"""A timm Vision Transformer whose unimportant patch tokens are dropped once, before the first attention block.

timm calls the module in its ``patch_drop`` slot after the position embedding and before the first block. ``TokenDrop``
fills that slot; timm's own ``forward`` stays as it is.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from timm.models.eva import Eva
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import UnsupportedModelError
from tokfilter.kernels.torch_op import token_select
from tokfilter.vit.backbone import check_filterable
from tokfilter.vit.scorers import FilterConfig, TokenFilter

__all__ = ["FilterConfig", "FilteredViT", "Selection", "TokenDrop", "TokenFilter", "weights_from_model"]

Select = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
"""(tokens, scores, k, prefix_tokens) -> (selected, indices): how the choice is carried out."""

Intercept = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""tokens [B, P+N, C] -> (tokens of any batch and length, their positions or None): replaces filter and choice."""


@dataclass
class Selection:
    """What the slot saw and chose in the last forward pass.

    tokens: [B, P+N, C] before the choice
    scores: [B, N]; None when every token was kept
    indices: [B, k] int32, kept positions among the patches; None when every token was kept
    """

    tokens: Tensor
    scores: Tensor | None = None
    indices: Tensor | None = None


@dataclass
class _Request:
    """What the slot shall do next. Not a module attribute: torch.export lets a plain object change while it traces."""

    keep: Keep = 1.0
    intercept: Intercept | None = None
    last: Selection | None = field(default=None, repr=False)


class TokenDrop(nn.Module):
    """The module in timm's ``patch_drop`` slot: score, choose, and hand on the kept tokens."""

    def __init__(self, scorer: nn.Module, prefix_tokens: int, return_indices: bool) -> None:
        super().__init__()
        self.scorer = scorer
        self.prefix_tokens = prefix_tokens
        self.return_indices = return_indices
        self.request = _Request()
        self.select: Select = token_select

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """tokens: [B, P+N, C]. Returns [B, P+k, C], with the kept indices where timm hands them to rotary blocks."""
        kept, indices = self._reduce(tokens)
        if not self.return_indices:
            return kept
        return kept, None if indices is None else indices.long()

    def _reduce(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        request = self.request
        request.last = Selection(tokens)
        if request.intercept is not None:
            return request.intercept(tokens)
        patches = tokens.shape[1] - self.prefix_tokens
        k = tokens_from_keep(request.keep, patches)
        if k == patches:
            return tokens, None
        scores = self.scorer(tokens[:, self.prefix_tokens :])
        selected, indices = self.select(tokens, scores, k, self.prefix_tokens)
        if isinstance(self.scorer, TokenFilter) and self.scorer.summary is not None:
            selected = self.scorer.summary(selected, tokens)
        request.last = Selection(tokens, scores, indices)
        return selected, indices


class _SlotReached(Exception):  # noqa: N818  (a signal, not an error)
    """The forward pass stands at the slot, and nothing after it is wanted."""


class FilteredViT(nn.Module):
    """A timm Vision Transformer with a token scorer in its ``patch_drop`` slot, and a budget.

    Any module that maps patch tokens [B, N, C] to scores [B, N] can be the scorer; the trained one is ``TokenFilter``.
    One forward pass at a time: the slot remembers its last selection. Raises UnsupportedModelError, BudgetError.
    """

    backbone: Any  # timm's classes share an interface, not a base class

    def __init__(self, backbone: nn.Module, scorer: nn.Module | None = None, keep: Keep = 0.5) -> None:
        super().__init__()
        check_filterable(backbone)
        self.backbone = backbone
        self.prefix_tokens: int = self.backbone.num_prefix_tokens
        self.grid: tuple[int, int] = self.backbone.patch_embed.grid_size
        self.num_patches: int = self.backbone.patch_embed.num_patches
        self.channels: int = self.backbone.embed_dim
        tokens_from_keep(keep, self.num_patches)
        self.keep = keep
        drop = TokenDrop(scorer or TokenFilter(self.channels), self.prefix_tokens, isinstance(backbone, Eva))
        self.backbone.patch_drop = drop

    @property
    def drop(self) -> TokenDrop:
        """The module in the backbone's slot."""
        drop: TokenDrop = self.backbone.patch_drop
        return drop

    @property
    def scorer(self) -> nn.Module:
        """The module that scores patch tokens."""
        return self.drop.scorer

    def new_filter(self, config: FilterConfig) -> TokenFilter:
        """A filter that fits this model, with new weights. Raises UnsupportedModelError."""
        if config.summary and not self.prefix_tokens:
            raise UnsupportedModelError(
                f"a summary is told to the class token, and this {type(self.backbone).__name__} has none: "
                "leave the summary out (0), or choose a model with class_token=True."
            )
        return TokenFilter(self.channels, config, self.num_patches)

    @property
    def budget(self) -> int:
        """Patch tokens kept by default."""
        return tokens_from_keep(self.keep, self.num_patches)

    @property
    def last(self) -> Selection:
        """What the slot saw and chose in the last forward pass."""
        if self.drop.request.last is None:
            raise RuntimeError("FilteredViT.last wants a forward pass first")
        return self.drop.request.last

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """Classify images with the default budget, or with ``keep``; 1.0 is the full model, without filter work.

        images: [B, 3, H, W], normalised
        Returns logits [B, classes]. Raises BudgetError.
        """
        self.drop.request.keep = self.keep if keep is None else keep
        logits: Tensor = self.backbone(images)
        return logits

    def embed(self, images: Tensor) -> Tensor:
        """The tokens that reach the slot; no block is run.

        images: [B, 3, H, W], normalised
        Returns [B, P+N, C], position embedding included.
        """

        def stop(tokens: Tensor) -> tuple[Tensor, None]:
            raise _SlotReached

        with suppress(_SlotReached):
            self._forward_with(stop, images)
        return self.last.tokens

    def classify_tokens(self, tokens: Tensor, images: Tensor, positions: Tensor | None = None) -> Tensor:
        """Run what follows the slot on given tokens, so that many variants of one image share its embedding.

        tokens: [V, P+M, C], any batch and any number of tokens
        images: [B, 3, H, W]; only the first is embedded, because timm's forward wants one
        positions: [V, M] int32, where the tokens stood; rotary models need it when M < N
        Returns logits [V, classes].
        """
        return self._forward_with(lambda _: (tokens, positions), images[:1])

    def _forward_with(self, intercept: Intercept, images: Tensor) -> Tensor:
        request = self.drop.request
        request.intercept = intercept
        try:
            logits: Tensor = self.backbone(images)
        finally:
            request.intercept = None
        return logits


def weights_from_model(model: FilteredViT) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the backbone, and those of the filter, as timm and ``TokenFilter`` name them."""
    whole = model.backbone.state_dict()
    return {name: whole[name] for name in whole if not name.startswith("patch_drop.")}, model.scorer.state_dict()
