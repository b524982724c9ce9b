"""``tokfilter.patch``: a timm model with a token filter, or another reducer, in its ``patch_drop`` slot."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import Architecture
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.architecture import architecture_from_backbone, architecture_problem
from tokfilter.vit.backbone import check_filterable, is_filterable
from tokfilter.vit.info import ModelInfo, preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.base import Reducer
from tokfilter.vit.scorers import TokenFilter

__all__ = ["patch"]


def patch(
    model: nn.Module,
    keep: Keep = 0.5,
    filter: nn.Module | None = None,
    *,
    architecture: tuple[str, Mapping[str, Any]] | Architecture | None = None,
    reducer: str | tuple[str, Mapping[str, Any]] | ReducerConfig = "filter",
) -> FilteredViT:
    """Put a token filter before the first attention block of a timm model, or another reducer into its blocks.

    The weights are used as they are, not copied: ``copy.deepcopy(model)`` first, if the original is still needed.

    model: timm's VisionTransformer (ViT, DeiT, DINOv2, CLIP, SigLIP ...), VisionTransformerDistilled or Eva
    keep: default budget, a ratio (float) or a count of tokens (int)
    filter: scores patch tokens [B, N, C] -> [B, N]; default: an untrained ``TokenFilter``, see ``tokfilter.fit``
    architecture: name and arguments of ``timm.create_model``, needed for saving where they cannot be recovered
    reducer: name of a reducer (docs/reducers.md), or its name and settings: ``("evit", {"fuse": False})``
    Raises UnsupportedModelError with the reason, BudgetError.
    """
    config = _reducer_config(reducer)
    _check_not_wrapped(model)
    check_filterable(model)
    found, problem = _architecture(model, architecture)
    training = model.training
    info = ModelInfo(found, preprocessing_from_backbone(model), problem=problem)
    if filter is not None:
        if config.name != "filter":
            raise UnsupportedModelError(f"filter= is the scorer of reducer='filter', got it with {config.name!r}.")
        _check_filter(filter, model)
    like = next(model.parameters())
    patched = FilteredViT(model, filter, keep, config)
    patched.drop.to(like)
    patched.info = info
    return patched.train(training)


def _reducer_config(reducer: str | tuple[str, Mapping[str, Any]] | ReducerConfig) -> ReducerConfig:
    """Raises UnsupportedModelError for what is no reducer."""
    if isinstance(reducer, ReducerConfig):
        return reducer
    try:
        name, settings = (reducer, {}) if isinstance(reducer, str) else reducer
        return ReducerConfig(name, dict(settings))
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(f"{error}.") from error


def _check_not_wrapped(model: object) -> None:
    """Refuse what is no bare timm model, with the argument to give instead. Raises UnsupportedModelError."""
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"patch expects a model, got {type(model).__name__} {model!r:.60}: create it with timm.create_model."
        )
    if any(isinstance(part, FilteredViT | Reducer) for part in model.modules()):
        raise UnsupportedModelError("this model is patched already: set its budget with model.keep = 0.5.")
    if is_filterable(model):
        return
    inside = [name for name, part in model.named_modules() if name and is_filterable(part)]
    if inside:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a timm model but holds one as {inside[0]!r}. Patch that part, "
            f"tokfilter.patch(model.get_submodule({inside[0]!r})), and put the result in its place."
        )


def _check_filter(scorer: nn.Module, model: Any) -> None:
    """Refuse a TokenFilter that was made for another width, number of tokens or grid. Raises UnsupportedModelError."""
    if not isinstance(scorer, TokenFilter):
        return
    patches = model.patch_embed.num_patches
    expected = model.embed_dim, patches
    found = scorer.norm.normalized_shape[0], patches if scorer.summary is None else scorer.summary.num_patches
    if found != expected:
        raise UnsupportedModelError(
            f"this model has {expected[0]} channels and {expected[1]} patch tokens, its filter was made for {found[0]} "
            f"and {found[1]}. Leave filter= out, or create the filter with this model's sizes."
        )
    grid = tuple(model.patch_embed.grid_size)
    if scorer.neighbours is not None and scorer.neighbours.grid != grid:
        rows, columns = scorer.neighbours.grid
        raise UnsupportedModelError(
            f"this model has {grid[0]} x {grid[1]} patch tokens, its filter reads neighbours in {rows} x {columns}. "
            "Leave filter= out, or create the filter with this model's grid."
        )


def _architecture(
    model: nn.Module, given: tuple[str, Mapping[str, Any]] | Architecture | None
) -> tuple[Architecture | None, str]:
    """The architecture, or the reason why it is unknown. Raises UnsupportedModelError for a wrong one."""
    if given is None:
        try:
            return architecture_from_backbone(model), ""
        except UnsupportedModelError as error:
            return None, str(error)
    architecture = given if isinstance(given, Architecture) else Architecture(given[0], dict(given[1]))
    problem = architecture_problem(architecture, model)
    if problem:
        raise UnsupportedModelError(f"architecture={given!r} does not describe this model: {problem}.")
    return architecture, ""
