"""Checks a bundle's tensors against the architecture that it names, and its parts against each other."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokfilter.artifacts.bundle import Architecture, Bundle, Golden
from tokfilter.artifacts.golden import indices_problem
from tokfilter.errors import BundleError
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.mask_models import new_mask_head
from tokfilter.vit.model import FilteredViT, weights_from_model

__all__ = ["check_bundle"]


def check_bundle(bundle: Bundle) -> None:
    """Raise BundleError for the first contradiction in a bundle; the model is built without memory for its weights."""
    _require(isinstance(bundle.backbone, dict), "its backbone holds no tensors")
    _require(_depth(bundle.architecture) <= len(bundle.backbone), "its architecture is deeper than it has weights")
    _require(isinstance(bundle.filter, dict), "its filter holds no tensors")
    filtered = bundle.reducer.name == "filter"
    depth = bundle.filter_config.depth
    _require(not filtered or depth <= len(bundle.filter), "its filter is deeper than it has weights")
    with torch.device("meta"):
        backbone = create_backbone(bundle.architecture)
        skeleton = FilteredViT(backbone, keep=bundle.keep, reducer=bundle.reducer)
        if bundle.reducer.name == "filter":
            skeleton.drop.scorer = skeleton.new_filter(bundle.filter_config)
        if bundle.mask_config is not None:
            skeleton.mask_head = new_mask_head(skeleton, bundle.mask_config)
    backbone_weights, filter_weights = weights_from_model(skeleton)
    _check_tensors("backbone", backbone_weights, bundle.backbone)
    _check_tensors("filter", filter_weights, bundle.filter)

    size, expected = bundle.preprocessing.input_size, (3, *skeleton.backbone.patch_embed.img_size)
    _require(size == expected, f"its preprocessing makes {size} images, its model takes {expected}")
    output = skeleton.output_shape
    if skeleton.mask_head is not None and bundle.mask_config is not None:
        _check_tensors("mask head", skeleton.mask_head.state_dict(), bundle.mask_head)
    what, names = {"logits": "classes"}.get(skeleton.output_name, skeleton.output_name), len(bundle.class_names)
    allowed = (0,) if what == "embedding" else (0, output[0])
    _require(names in allowed, f"it names {names} classes and its model has {output[0]} {what}")
    _check_golden(bundle.golden, size, skeleton.num_patches, output)


def _depth(architecture: Architecture) -> int:
    depth = architecture.kwargs.get("depth", 0)
    return depth if isinstance(depth, int) else 0


def _check_golden(golden: Golden, input_size: tuple[int, ...], patches: int, output: tuple[int, ...]) -> None:
    count = golden.images.shape[0]
    budgets = sorted(golden.logits)
    _require(count >= 1 and budgets == sorted(golden.indices), "its golden tensors do not belong together")
    _require(all(isinstance(k, int) and 1 <= k < patches for k in budgets), f"its golden budgets {budgets} do not fit")
    expected = {
        "images": torch.empty(count, *input_size, device="meta"),
        "scores": torch.empty(count, patches, device="meta"),
        "full": torch.empty(count, *output, device="meta"),
    }
    found = {name: getattr(golden, name) for name in expected}
    for k in budgets:
        expected[f"logits {k}"], found[f"logits {k}"] = expected["full"], golden.logits[k]
        expected[f"indices {k}"] = torch.empty(count, k, dtype=torch.int32, device="meta")
        found[f"indices {k}"] = golden.indices[k]
    _check_tensors("golden", expected, found)
    for k, indices in golden.indices.items():
        problem = indices_problem(indices.numpy(), golden.scores.numpy())
        _require(not problem, f"its golden indices {k}: {problem}")


def _check_tensors(what: str, expected: Mapping[str, Tensor], found: Any) -> None:
    _require(isinstance(found, dict), f"its {what} holds no tensors")
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(map(str, found.keys() - expected.keys()))
    _require(not missing, f"its {what} lacks {len(missing)} tensors, first {missing[:1]}")
    _require(not surplus, f"its {what} has {len(surplus)} tensors too many, first {surplus[:1]}")
    for name, tensor in expected.items():
        got = found[name]
        _require(isinstance(got, Tensor) and got.layout == torch.strided, f"{what} {name} is no dense tensor")
        _require(
            got.shape == tensor.shape and got.dtype == tensor.dtype,
            f"{what} {name} must be {tensor.dtype} {list(tensor.shape)}, got {got.dtype} {list(got.shape)}",
        )
        _require(bool(got.isfinite().all()), f"{what} {name} holds NaN or infinity")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise BundleError(problem)
