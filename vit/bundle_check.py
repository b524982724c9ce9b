"""Is a bundle sound? Its tensors against the architecture that it names, its parts against each other."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokfilter.errors import BundleError
from tokfilter.vit.backbone import Architecture, create_backbone
from tokfilter.vit.golden import Golden
from tokfilter.vit.model import FilteredViT, weights_from_model

if TYPE_CHECKING:
    from tokfilter.vit.bundle import Bundle

__all__ = ["check_bundle"]


def check_bundle(bundle: "Bundle") -> None:
    """Raise BundleError for the first thing in which a bundle contradicts itself."""
    _want(isinstance(bundle.backbone, dict), "its backbone holds no tensors")
    _want(_depth(bundle.architecture) <= len(bundle.backbone), "its architecture is deeper than it has weights")
    with torch.device("meta"):
        backbone = create_backbone(bundle.architecture)
        skeleton = FilteredViT(backbone, keep=bundle.keep)
        skeleton.drop.scorer = skeleton.new_filter(bundle.filter_config)
    backbone_weights, filter_weights = weights_from_model(skeleton)
    _check_tensors("backbone", backbone_weights, bundle.backbone)
    _check_tensors("filter", filter_weights, bundle.filter)

    size, wanted = bundle.preprocessing.input_size, (3, *skeleton.backbone.patch_embed.img_size)
    _want(size == wanted, f"its preprocessing makes {size} images, its model wants {wanted}")
    numbers = (*bundle.preprocessing.mean, *bundle.preprocessing.std, bundle.preprocessing.crop_pct)
    _want(all(math.isfinite(number) for number in numbers), "its preprocessing is not finite")
    _want(len(bundle.preprocessing.mean) == len(bundle.preprocessing.std) == 3, "its mean and std want three channels")
    _want(all(number > 0 for number in bundle.preprocessing.std), "its std is not positive")
    classes = skeleton.backbone.num_classes or skeleton.backbone.num_features
    names = bundle.class_names
    _want(isinstance(names, list) and all(isinstance(name, str) for name in names), "its class names are no texts")
    _want(len(names) in (0, classes), f"it names {len(names)} classes and its model has {classes}")
    _check_golden(bundle.golden, size, skeleton.num_patches, classes)


def _depth(architecture: Architecture) -> int:
    depth = architecture.kwargs.get("depth", 0)
    return depth if isinstance(depth, int) else 0


def _check_golden(golden: Golden, input_size: tuple[int, ...], patches: int, classes: int) -> None:
    count = golden.images.shape[0]
    budgets = sorted(golden.logits)
    _want(count >= 1 and budgets == sorted(golden.indices), "its golden tensors do not belong together")
    _want(all(isinstance(k, int) and 1 <= k < patches for k in budgets), f"its golden budgets {budgets} do not fit")
    expected = {
        "images": torch.empty(count, *input_size, device="meta"),
        "scores": torch.empty(count, patches, device="meta"),
        "full": torch.empty(count, classes, device="meta"),
    }
    found = {name: getattr(golden, name) for name in expected}
    for k in budgets:
        expected[f"logits {k}"], found[f"logits {k}"] = expected["full"], golden.logits[k]
        expected[f"indices {k}"] = torch.empty(count, k, dtype=torch.int32, device="meta")
        found[f"indices {k}"] = golden.indices[k]
    _check_tensors("golden", expected, found)
    in_range = all(bool(((i >= 0) & (i < patches)).all()) for i in golden.indices.values())
    _want(in_range, f"its golden indices lie outside 0..{patches - 1}")


def _check_tensors(what: str, expected: Mapping[str, Tensor], found: Any) -> None:
    _want(isinstance(found, dict), f"its {what} holds no tensors")
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(map(str, found.keys() - expected.keys()))
    _want(not missing, f"its {what} lacks {len(missing)} tensors, first {missing[:1]}")
    _want(not surplus, f"its {what} has {len(surplus)} tensors too many, first {surplus[:1]}")
    for name, want in expected.items():
        got = found[name]
        _want(isinstance(got, Tensor) and got.layout == torch.strided, f"{what} {name} is no dense tensor")
        _want(
            got.shape == want.shape and got.dtype == want.dtype,
            f"{what} {name} wants {want.dtype} {list(want.shape)}, got {got.dtype} {list(got.shape)}",
        )
        _want(bool(got.isfinite().all()), f"{what} {name} holds NaN or infinity")


def _want(condition: bool, complaint: str) -> None:
    if not condition:
        raise BundleError(complaint)
