"""A timm Vision Transformer that drops or merges patch tokens: once before the first block, or inside blocks."""

import warnings
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import BudgetError, UnsupportedModelError
from tokfilter.vit.dense.mask_head import MaskHead
from tokfilter.vit.info import ModelInfo
from tokfilter.vit.reducers.base import Reducer, Selection
from tokfilter.vit.reducers.filter import PatchSlot
from tokfilter.vit.reducers.in_block import timm_name
from tokfilter.vit.reducers.registry import install_reducer, made_reducer
from tokfilter.vit.scorers import TokenFilter

__all__ = ["FilteredViT", "check_patched", "weights_from_model"]

_UNTRAINED: Final = (
    "the token filter of this model is untrained, so the dropped tokens are arbitrary. Train it (tokfilter.fit), load "
    "trained weights, or set model.scorer.trained = True (predictor.trained for each of model.drop.predictors of "
    "DynamicViT) if you trained it in your own loop."
)


class FilteredViT(nn.Module):
    """A timm Vision Transformer with a token reducer in its ``patch_drop`` slot, and a budget.

    The reducer is a token filter, unless ``reducer`` names another (``vit/reducers/``). Any module that maps patch
    tokens [B, N, C] to scores [B, N] can be the filter's scorer; the trained one is ``TokenFilter``.
    One forward pass at a time: ``last`` belongs to the latest. Raises UnsupportedModelError, BudgetError.
    mask_head: makes masks of the tokens in place of class logits (``tokfilter.add_mask_head``); None for a classifier
    """

    backbone: Any  # timm's classes share an interface, not a base class

    def __init__(
        self,
        backbone: nn.Module,
        scorer: nn.Module | None = None,
        keep: Keep = 0.5,
        reducer: ReducerConfig | None = None,
    ) -> None:
        super().__init__()
        made = made_reducer(backbone, reducer or ReducerConfig(), scorer)
        made.tokens(keep)  # a refusal leaves the backbone as it was
        install_reducer(backbone, made)
        self.backbone = backbone
        self.prefix_tokens: int = self.backbone.num_prefix_tokens
        self.grid: tuple[int, int] = self.backbone.patch_embed.grid_size
        self.num_patches: int = self.backbone.patch_embed.num_patches
        self.channels: int = self.backbone.embed_dim
        self.info: ModelInfo | None = None
        self.mask_head: MaskHead | None = None
        self.keep = keep

    @property
    def keep(self) -> Keep:
        """Default budget: a ratio in (0, 1] or a count of patch tokens. Setting raises BudgetError."""
        return self._keep

    @keep.setter
    def keep(self, value: Keep) -> None:
        self.drop.tokens(value)
        self._keep = value

    @property
    def keep_tokens(self) -> int:
        """The default budget as a count of patch tokens. Setting raises BudgetError."""
        return tokens_from_keep(self._keep, self.num_patches)

    @keep_tokens.setter
    def keep_tokens(self, value: int) -> None:
        if isinstance(value, float):
            raise BudgetError(f"keep_tokens must be a count of patch tokens, got {value}. Set a ratio as model.keep.")
        self.keep = value

    @property
    def drop(self) -> Reducer:
        """The reducer, which is the module in the backbone's slot."""
        drop: Reducer = self.backbone.patch_drop
        return drop

    @property
    def scorer(self) -> nn.Module:
        """The module that scores patch tokens for the filter. Raises UnsupportedModelError for another reducer."""
        if not isinstance(self.drop, PatchSlot):
            raise UnsupportedModelError(
                f"this model has no token filter: its reducer is {self.drop.name}. Filters are trained in a model of "
                "tokfilter.patch(model) with reducer='filter'."
            )
        return self.drop.scorer

    @property
    def last(self) -> Selection:
        """Tokens, scores and kept positions of the last forward pass. Raises RuntimeError before the first."""
        if self.drop.state.last is None:
            raise RuntimeError("FilteredViT.last needs a forward pass first")
        return self.drop.state.last

    @property
    def output_name(self) -> Literal["logits", "masks", "embedding"]:
        """What the model gives: logits, masks (with a mask head), or embedding (timm's num_classes=0)."""
        if self.mask_head is not None:
            return "masks"
        return "logits" if self.backbone.num_classes else "embedding"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one image."""
        if self.mask_head is not None:
            return self.mask_head.config.shape
        return (self.backbone.num_classes or self.backbone.num_features,)

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token; register tokens alone are none."""
        return getattr(self.backbone, "cls_token", None) is not None

    def new_filter(self, config: FilterConfig) -> TokenFilter:
        """A filter that fits this model, with new weights. Raises UnsupportedModelError."""
        if config.summary and not self.has_class_token:
            raise UnsupportedModelError(
                f"a summary is added to the class token, and this {type(self.backbone).__name__} has none: "
                "leave the summary out (0), or choose a model with class_token=True."
            )
        return TokenFilter(self.channels, config, self.num_patches, self.grid)

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """Classify images with the default budget, or with ``keep``; 1.0 is the full model, without filter work.

        images: [B, 3, H, W], normalised
        Returns logits [B, classes], an embedding [B, C] of a model without a classifier (timm's num_classes=0), or with
        a mask head masks [B, M, H', W']. Raises BudgetError. Warns once when tokens are
        dropped by an untrained filter.
        """
        self._set_budget(keep, stacklevel=5)  # torch's two frames of __call__ lie between
        return self.predicted(images)

    def predicted(self, images: Tensor) -> Tensor:
        """As ``forward``, at the budget that ``drop.state`` has."""
        if self.mask_head is None:
            logits: Tensor = self.backbone(images)
            return logits
        tokens: Tensor = self.backbone.forward_features(images)
        last = self.last
        masks: Tensor = self.mask_head(
            tokens[:, self.prefix_tokens :], last.places, last.tokens[:, self.prefix_tokens :]
        )
        return masks

    def forward_features(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """Tokens after the last block and norm, as timm's ``forward_features``.

        images: [B, 3, H, W], normalised
        Returns [B, P+k, C]; ``last.indices`` has the positions of the k patch tokens. Raises and warns as ``forward``.
        """
        self._set_budget(keep, stacklevel=3)
        features: Tensor = self.backbone.forward_features(images)
        return features

    def embed(self, images: Tensor) -> Tensor:
        """The tokens that enter the slot; no block is run.

        images: [B, 3, H, W], normalised
        Returns [B, P+N, C], position embedding included.
        """
        self.drop.state.keep = 1.0
        # timm has no public name for the embedding with its positions.
        embedded = self.backbone._pos_embed(self.backbone.patch_embed(images))
        tokens: Tensor = embedded[0] if isinstance(embedded, tuple) else embedded  # Eva returns (tokens, rotation)
        return tokens

    def scores(self, images: Tensor) -> Tensor:
        """What the first stage of the reducer ranks the patch tokens by; the same at every budget.

        images: [B, 3, H, W], normalised
        Returns [B, N].
        """
        self.drop.state.keep = self.drop.smallest
        self.backbone(images)
        last = self.last
        if last.scores is None:  # a model of one patch token
            return last.tokens.new_zeros(len(images), self.num_patches)
        return last.scores

    def classify_tokens(
        self, tokens: Tensor, images: Tensor, positions: Tensor | None = None, embedded: Tensor | None = None
    ) -> Tensor:
        """Run the model from the slot on with given tokens, so that many variants of one image share its embedding.

        tokens: [V, P+M, C], any batch and any number of tokens
        images: [B, 3, H, W]; only the first is embedded, because timm's forward needs one
        positions: [V, M] int32, where the tokens stood; rotary models and mask heads need it when M < N
        embedded: [V, P+N, C], with a mask head when M < N: the tokens before any was dropped
        Returns logits as ``forward``.
        """
        state = self.drop.state
        state.given = Selection(embedded if embedded is not None else tokens, indices=positions), tokens
        try:
            return self.predicted(images[:1])
        finally:
            state.given = None

    def extra_repr(self) -> str:
        """Budget, for ``print(model)``."""
        return f"keep={self.keep} ({self.keep_tokens} of {self.num_patches} patch tokens)"

    def _set_budget(self, keep: Keep | None, stacklevel: int) -> None:
        state = self.drop.state
        state.keep = self.keep if keep is None else keep
        self.drop.tokens(state.keep)
        if torch.compiler.is_dynamo_compiling():  # a warning would break the compiled graph in two
            return
        if state.warned or self.drop.trained:
            return
        if tokens_from_keep(state.keep, self.num_patches) < self.num_patches:
            state.warned = True
            warnings.warn(_UNTRAINED, UserWarning, stacklevel=stacklevel)


def check_patched(model: object) -> None:
    """Raise UnsupportedModelError with the remedy, unless ``model`` is a FilteredViT."""
    if isinstance(model, FilteredViT):
        return
    for name in ("_orig_mod", "module"):  # of torch.compile and of DistributedDataParallel
        if isinstance(getattr(model, name, None), FilteredViT):
            raise UnsupportedModelError(f"expected the patched model itself, got a wrapper: give model.{name}.")
    raise UnsupportedModelError(
        f"expected a model patched by tokfilter, got {type(model).__module__}.{type(model).__name__}. "
        "Call model = tokfilter.patch(model) first."
    )


def weights_from_model(model: FilteredViT) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dicts of the backbone and of the reducer, with the names of timm and of ``TokenFilter`` or the reducer."""
    whole = model.backbone.state_dict()
    backbone = {timm_name(name): whole[name] for name in whole if not name.startswith("patch_drop.")}
    return backbone, (model.scorer if isinstance(model.drop, PatchSlot) else model.drop).state_dict()
