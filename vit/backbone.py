"""Backbones: which timm models can be filtered once before the first attention block, and how one is created."""

from difflib import get_close_matches
from inspect import signature
from typing import Any, Final

import timm
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.heads import use_class_and_mean

__all__ = ["check_filterable", "create_backbone", "is_filterable"]

_SUPPORTED = (VisionTransformer, VisionTransformerDistilled, Eva)

# Only what shapes the model: timm's loader also takes paths and addresses, which a bundle must not be able to name.
_ARGUMENTS = {name for kind in _SUPPORTED for name in signature(kind).parameters} - {"weight_init", "device"}

_MODULES: Final = ("vision_transformer", "deit", "eva")
"""timm's modules of the supported classes."""

_REASONS = {
    "VisionTransformerSAM": "its attention works in windows of the full grid and adds relative positions",
    "NaFlexVit": "its patch_drop slot works only while training",
    "Beit": "its attention adds a relative position bias for every pair of grid positions",
    "VisionTransformerRelPos": "its attention adds a relative position bias for every pair of grid positions",
    "Cait": "timm gives it no patch_drop slot, and its class token joins only behind the blocks of patch tokens",
    "SwinTransformer": "its attention works in windows that need the full grid",
    "SwinTransformerV2": "its attention works in windows that need the full grid",
}


def is_filterable(module: nn.Module) -> bool:
    """Whether the class of a module is one that can be filtered (``check_filterable`` looks at its settings too)."""
    return type(module) in _SUPPORTED


def check_filterable(backbone: nn.Module) -> None:
    """Raise UnsupportedModelError with the reason, unless dropping tokens in timm's ``patch_drop`` slot is sound."""
    kind = type(backbone).__name__
    if not is_filterable(backbone):
        library = type(backbone).__module__.split(".")[0]
        if library == "timm" and kind in _REASONS:
            reason = _REASONS[kind]
        elif hasattr(backbone, "patch_drop"):
            reason = "the layers after its patch_drop slot may depend on token positions, which was not examined"
        elif library == "timm":
            reason = "it has no patch_drop slot before its first block (as in models whose layers need the full grid)"
        else:
            reason = f"it is not a timm model (its class is in {type(backbone).__module__})"
        raise UnsupportedModelError(
            f"{kind} cannot be filtered: {reason}. Supported are timm's VisionTransformer (ViT, DeiT, DINOv2, CLIP, "
            "SigLIP, MAE...), VisionTransformerDistilled and Eva."
        )
    pool = getattr(backbone, "attn_pool", None)
    if pool is not None and getattr(pool, "pos_embed", None) is not None:
        raise UnsupportedModelError(
            f"{kind} cannot be filtered: its attention pooling adds a position embedding of its own to kept tokens. "
            "Use a model whose position embedding comes before the first block only."
        )


def create_backbone(architecture: Architecture, pretrained: bool = False) -> nn.Module:
    """Build a timm model, with the epsilon and head of ``architecture``. ``pretrained``: timm fetches its weights.

    Raises UnsupportedModelError for a name that timm does not know, arguments that it refuses, or a model that cannot
    be filtered.
    """
    if not timm.is_model(architecture.name):
        raise UnsupportedModelError(
            f"timm {timm.__version__} has no model {architecture.name[:100]!r}.{_similar(architecture.name)}"
        )
    unknown = sorted(set(architecture.kwargs) - _ARGUMENTS)
    if unknown:
        raise UnsupportedModelError(
            f"{architecture.name} takes arguments of timm's Vision Transformers, got {', '.join(unknown)}."
        )
    try:
        backbone: nn.Module = timm.create_model(architecture.name, pretrained=pretrained, **architecture.kwargs)
    except (TypeError, ValueError, AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"timm refuses {architecture.name} with {dict(architecture.kwargs)}: {error}"
        ) from error
    check_filterable(backbone)
    if architecture.norm_eps is not None:
        _set_norm_eps(backbone, architecture.norm_eps)
    if architecture.head == "class+mean":
        use_class_and_mean(backbone)
    return backbone


def _similar(name: str) -> str:
    """The supported models with the names nearest to a mistyped one, as a sentence; empty where none is near."""
    supported = [model for module in _MODULES for model in timm.list_models(module=module)]
    near = get_close_matches(name[:100].lower(), supported, n=3, cutoff=0.7)
    return f" Did you mean {' or '.join(near)}?" if near else " `timm.list_models()` lists the names."


def _set_norm_eps(backbone: nn.Module, eps: float) -> None:
    """timm takes the class of a normalisation layer as a plain argument, its epsilon not."""
    for module in backbone.modules():
        part: Any = module
        if isinstance(part, nn.LayerNorm):
            part.eps = eps
