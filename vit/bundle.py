"""Between models and model.pt: load, save, and the checks that need the architecture (format: ``artifacts.bundle``)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import (
    Architecture,
    Bundle,
    FilterConfig,
    bundle_from_content,
    content_from_bundle,
    read_bundle,
    sound_bundle,
    write_content,
)
from tokfilter.errors import DataError, UnsupportedModelError
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle_check import check_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.info import ModelInfo
from tokfilter.vit.mask_models import new_mask_head
from tokfilter.vit.model import FilteredViT, check_patched, weights_from_model
from tokfilter.vit.reducers.filter import PatchSlot
from tokfilter.vit.scorers import TokenFilter

__all__ = ["UNTRAINED", "bundle_from_model", "load_bundle", "load_model", "model_from_bundle", "save_bundle"]

_GOLDEN_KEEPS: Final[tuple[Keep, ...]] = (0.7, 0.5, 0.25)
_RANDOM_EXAMPLES: Final = 2
UNTRAINED: Final = "untrained"
"""Entry `filter` of the training record of a model whose filter has new weights."""


def load_bundle(path: str | Path) -> Bundle:
    """Read and check model.pt. Raises DataError when there is no such file, BundleError when it is not a bundle."""
    bundle = read_bundle(path)
    with sound_bundle(str(path)):
        check_bundle(bundle)
    return bundle


def load_model(path: str | Path) -> FilteredViT:
    """The model of model.pt on the CPU in evaluation mode. Raises DataError, BundleError."""
    return model_from_bundle(load_bundle(path))


def save_bundle(
    source: Bundle | FilteredViT,
    path: str | Path,
    *,
    architecture: tuple[str, Mapping[str, Any]] | None = None,
    examples: Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write model.pt atomically, after the same checks that reading makes.

    architecture, examples, class_names: of a model, as in ``bundle_from_model``
    Raises BundleError, UnsupportedModelError, DataError, OSError.
    """
    if isinstance(source, Bundle):
        bundle = source
    else:
        bundle = bundle_from_model(source, architecture=architecture, examples=examples, class_names=class_names)
    content = content_from_bundle(bundle)
    name = "the bundle to be written"
    checked = bundle_from_content(content, name)
    with sound_bundle(name):
        check_bundle(checked)
    write_content(content, path)


def model_from_bundle(bundle: Bundle) -> FilteredViT:
    """The bundle's model, in evaluation mode."""
    backbone = create_backbone(bundle.architecture)
    backbone.load_state_dict(bundle.backbone)
    model = FilteredViT(backbone, keep=bundle.keep, reducer=bundle.reducer)
    if bundle.reducer.name == "filter":
        model.drop.scorer = scorer = model.new_filter(bundle.filter_config)
        scorer.load_state_dict(bundle.filter)
        scorer.trained = bundle.training.get("filter") != UNTRAINED
    else:
        model.drop.load_state_dict(bundle.filter)
        for part in model.drop.modules():
            if isinstance(part, TokenFilter):
                part.trained = bundle.training.get("filter") != UNTRAINED
    if bundle.mask_config is not None:
        model.mask_head = new_mask_head(model, bundle.mask_config)
        model.mask_head.load_state_dict(bundle.mask_head)
    model.info = ModelInfo(
        bundle.architecture,
        bundle.preprocessing,
        class_names=tuple(bundle.class_names),
        training=bundle.training,
        examples=bundle.golden.images,
        split=bundle.split,
    )
    return model.eval()


def bundle_from_model(
    model: FilteredViT,
    *,
    architecture: tuple[str, Mapping[str, Any]] | None = None,
    examples: Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> Bundle:
    """The bundle of a model that ``tokfilter.patch`` made; its golden tensors are computed here, in fp32 on the CPU.

    architecture: timm's name and arguments, where they could not be recovered from the model
    examples: [G, 3, H, W], normalised images for the golden tensors; default: those of training, else random ones
    class_names: one per class
    Raises UnsupportedModelError for what is not such a model, DataError for unfit examples.
    """
    check_patched(model)
    info, reducer = model.info, model.drop
    scorer = reducer.scorer if isinstance(reducer, PatchSlot) else None
    if info is None or not isinstance(scorer, TokenFilter | None):
        raise UnsupportedModelError(
            f"a bundle holds a timm model with a TokenFilter or another reducer, this model has a "
            f"{type(scorer or reducer).__name__} and {'no' if info is None else 'its'} record of timm's arguments. "
            "Make it with tokfilter.patch(model)."
        )
    if architecture is not None:
        info = replace(info, architecture=Architecture(architecture[0], dict(architecture[1])))
    if info.architecture is None:
        raise UnsupportedModelError(
            f"this model cannot be saved as it is: {info.problem}. Give the arguments of timm.create_model: "
            'architecture=("vit_small_patch16_224", {"img_size": 96}).'
        )
    model = _on_cpu(model)
    images, note = _examples(model, info, examples)
    training = {key: value for key, value in info.training.items() if key != "golden" and value != UNTRAINED}
    backbone, weights = weights_from_model(model)
    if weights:
        training["filter"] = training.get("filter", "trained elsewhere") if reducer.trained else UNTRAINED
    names = info.class_names if class_names is None else class_names
    head = model.mask_head
    return Bundle(
        architecture=info.architecture,
        backbone=backbone,
        filter_config=FilterConfig() if scorer is None else scorer.config,
        filter=weights,
        keep=model.keep,
        preprocessing=info.preprocessing,
        class_names=list(names),
        golden=golden_from_model(model, images, _golden_keeps(model)),
        training=training | ({"golden": note} if note else {}),
        split=info.split,
        mask_config=None if head is None else head.config,
        mask_head={} if head is None else head.state_dict(),
        reducer=reducer.config,
    )


def _golden_keeps(model: FilteredViT) -> list[Keep]:
    """The budgets of golden tensors that the model's reducer has."""
    keeps = sorted({*_GOLDEN_KEEPS, model.keep}, key=str)
    return [keep for keep in keeps if tokens_from_keep(keep, model.num_patches) >= model.drop.smallest]


def _on_cpu(model: FilteredViT) -> FilteredViT:
    """The model on the CPU in fp32: itself, or a copy."""
    if all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in model.parameters()):
        return model
    return copy.deepcopy(model).to("cpu", torch.float32)


def _examples(model: FilteredViT, info: ModelInfo, given: Tensor | None) -> tuple[Tensor, str]:
    """Images for the golden tensors [G, 3, H, W], and a note where they are random."""
    size = (3, *model.backbone.patch_embed.img_size)
    images = info.examples if given is None else given
    if images is None:
        drawn = torch.randn(_RANDOM_EXAMPLES, *size, generator=torch.Generator().manual_seed(0))
        return drawn, "random images, seed 0"
    if images.ndim != 4 or len(images) == 0 or tuple(images.shape[1:]) != size or not images.is_floating_point():
        raise DataError(f"examples must be float images [G, {', '.join(map(str, size))}], got {list(images.shape)}.")
    return images.detach().to("cpu", torch.float32), ""
