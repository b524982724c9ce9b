"""Recovers the timm name and arguments of a model that somebody else created, so that it can be saved as a bundle.

timm records the name in ``pretrained_cfg`` but not the arguments. They are read from the model's attributes, and the
result is checked: a model created from them, without weights, must equal the given one module by module.
"""

from typing import Any, Final

import timm
import torch
from torch import nn

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.backbone import create_backbone

__all__ = ["architecture_from_backbone", "architecture_problem"]

_PLAIN: Final = (bool, int, float, str, type(None))
_WITHOUT_EFFECT: Final = {"training", "fused_attn", "grad_checkpointing", "p", "drop_prob", "inplace", "dump_patches"}
"""Attributes that change neither weights nor the outputs in evaluation mode."""


def architecture_from_backbone(backbone: Any) -> Architecture:
    """Name and arguments with which timm creates this model again. Raises UnsupportedModelError with the reason."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str) or not timm.is_model(name):
        raise UnsupportedModelError(f"it does not record the timm model that it was created as (got {name!r})")
    found = _facts(backbone)
    default = _facts(_without_weights(Architecture(name)))
    architecture = Architecture(name, {key: value for key, value in found.items() if value != default.get(key)})
    problem = architecture_problem(architecture, backbone)
    if problem:
        raise UnsupportedModelError(f"timm's {name} with {dict(architecture.kwargs)} is another model: {problem}")
    return architecture


def architecture_problem(architecture: Architecture, backbone: nn.Module) -> str:
    """The first difference between a model and the one that timm creates from ``architecture``; empty for none."""
    expected, found = _structure(_without_weights(architecture)), _structure(backbone)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'absent')} here and {expected.get(name, 'absent')} there"
    return ""


def _without_weights(architecture: Architecture) -> nn.Module:
    with torch.device("meta"):
        return create_backbone(architecture)


def _facts(backbone: Any) -> dict[str, Any]:
    """Constructor arguments that can be read from a model, as timm names them."""
    block = backbone.blocks[0]
    size, patch = backbone.patch_embed.img_size, backbone.patch_embed.patch_size
    facts = {
        "img_size": size[0] if size[0] == size[1] else tuple(size),
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "num_classes": backbone.num_classes,
        "global_pool": backbone.global_pool,
        "embed_dim": backbone.embed_dim,
        "depth": len(backbone.blocks),
        "num_heads": getattr(block.attn, "num_heads", None),
        "mlp_ratio": _mlp_ratio(block, backbone.embed_dim),
        "class_token": backbone.cls_token is not None,
        "reg_tokens": getattr(backbone, "num_reg_tokens", None),
        "dynamic_img_size": getattr(backbone, "dynamic_img_size", None),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _mlp_ratio(block: Any, width: int) -> float | None:
    hidden = getattr(getattr(block.mlp, "fc1", None), "out_features", None)
    return None if hidden is None else hidden / width


def _structure(backbone: nn.Module) -> dict[str, str]:
    """Types and plain attributes of all modules, and shapes of all weights; the slot ``patch_drop`` is left out."""
    parts = {}
    for name, module in backbone.named_modules():
        if name.split(".")[0] == "patch_drop":
            continue
        parts[f"module {name or 'itself'}"] = type(module).__name__
        for key, value in vars(module).items():
            if not key.startswith("_") and key not in _WITHOUT_EFFECT and _is_plain(value):
                parts[f"{name}.{key}".lstrip(".")] = repr(value)
    weights = backbone.state_dict()
    return parts | {name: str(list(weights[name].shape)) for name in weights if not name.startswith("patch_drop.")}


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(item, _PLAIN) for item in value))
