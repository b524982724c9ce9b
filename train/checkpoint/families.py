"""transformers' image classifiers that are, module by module, a timm Vision Transformer: from ``config.json`` to timm.

Sources: ``configuration_*.py`` and ``modeling_*.py`` of transformers 5.24 in ``models/{vit, deit, dinov2,
dinov2_with_registers, clip, siglip}``; timm's ``vision_transformer.py`` and ``deit.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import UnsupportedModelError
from tokfilter.train.checkpoint.fields import Fields

__all__ = ["CLASSES", "Family", "Shape", "family_from_config", "shape_from_config"]


@dataclass(frozen=True)
class Family:
    """How one of transformers' classes differs from the others.

    prefix: of the names of its tensors
    defaults: of its configuration, for what ``config.json`` leaves out
    arguments: of timm's VisionTransformer, fixed for the class
    vision: whether the vision part has an object of its own in ``config.json``
    square: whether transformers takes square images and patches only
    antialias: of the resampled position embedding
    """

    model_type: str
    prefix: str
    defaults: Mapping[str, Any]
    arguments: Mapping[str, Any]
    head: str = "timm"
    vision: bool = False
    square: bool = True
    antialias: bool = False
    name: str = "vit"


_VIT: Final = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
_DINOV2: Final = {
    **{key: value for key, value in _VIT.items() if key != "intermediate_size"},
    "layer_norm_eps": 1e-6,
    "patch_size": 14,
    "mlp_ratio": 4,
    "use_swiglu_ffn": False,
}
_CLIP: Final = {
    **{key: value for key, value in _VIT.items() if key != "qkv_bias"},
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "patch_size": 32,
}
_SIGLIP: Final = {**_CLIP, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "patch_size": 16}
_MEAN: Final = {"global_pool": "avg", "fc_norm": False}

CLASSES: Final = {
    "ViTForImageClassification": Family("vit", "vit.", _VIT, {}, square=False),
    "DeiTForImageClassification": Family("deit", "deit.", _VIT, {"reg_tokens": 1}, square=False, name="deit"),
    "DeiTForImageClassificationWithTeacher": Family("deit", "deit.", _VIT, {}, square=False, name="distilled"),
    "Dinov2ForImageClassification": Family(
        "dinov2", "dinov2.", _DINOV2, {"init_values": 1e-5}, head="class+mean", name="dinov2"
    ),
    "Dinov2WithRegistersForImageClassification": Family(
        "dinov2_with_registers",
        "dinov2_with_registers.",
        {**_DINOV2, "patch_size": 16, "num_register_tokens": 4},
        {"init_values": 1e-5, "no_embed_class": True},
        head="class+mean",
        antialias=True,
        name="dinov2_reg4",
    ),
    "CLIPForImageClassification": Family(
        "clip", "vision_model.", _CLIP, {"pre_norm": True, "final_norm": False, **_MEAN}, vision=True, name="clip"
    ),
    "SiglipForImageClassification": Family(
        "siglip", "vision_model.", _SIGLIP, {"class_token": False, **_MEAN}, vision=True, name="siglip"
    ),
}
"""Class in ``architectures`` of ``config.json`` -> its family."""

# The timm model whose name the bundle shows; every argument that shapes it is given, so only the class matters.
_NAMES: Final = {
    "vit": {192: "vit_tiny_patch16_224", 384: "vit_small_patch16_224", 1024: "vit_large_patch16_224"},
    "deit": {192: "deit_tiny_patch16_224", 384: "deit_small_patch16_224", 768: "deit_base_patch16_224"},
    "distilled": {192: "deit_tiny_distilled_patch16_224", 384: "deit_small_distilled_patch16_224"},
    "dinov2": {384: "vit_small_patch14_dinov2", 768: "vit_base_patch14_dinov2", 1024: "vit_large_patch14_dinov2"},
    "dinov2_reg4": {
        384: "vit_small_patch14_reg4_dinov2",
        768: "vit_base_patch14_reg4_dinov2",
        1024: "vit_large_patch14_reg4_dinov2",
    },
    "clip": {},
    "siglip": {},
}
_OTHER_NAME: Final = {"distilled": "deit_base_distilled_patch16_224"}
_SWIGLU: Final = {"dinov2": "vit_giant_patch14_dinov2", "dinov2_reg4": "vit_giant_patch14_reg4_dinov2"}

_ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Shape:
    """A model's sizes as ``config.json`` states them, within bounds.

    hidden: width of the MLP; of SwiGLU, the width of each half
    """

    width: int
    depth: int
    heads: int
    hidden: int
    image: tuple[int, int]
    patch: tuple[int, int]
    registers: int
    eps: float
    activation: str
    qkv_bias: bool
    swiglu: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns)."""
        return self.image[0] // self.patch[0], self.image[1] // self.patch[1]


def family_from_config(config: Fields) -> tuple[str, Family]:
    """The class of ``config.json`` and its family. Raises UnsupportedModelError with the reason."""
    names = config.values.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) else ""
    model_type = config.text("model_type")
    known = ", ".join(CLASSES)
    if name not in CLASSES:
        of_type = [known_name for known_name, family in CLASSES.items() if family.model_type == model_type]
        reason = (
            f"it has no classifier that is known here, fine-tune {' or '.join(of_type)}"
            if of_type
            else f"the model type {model_type[:50]!r} has no counterpart in timm that was proven equal"
        )
        raise UnsupportedModelError(
            f"{config.source}: {name[:100] or 'no class under architectures'} cannot be read: {reason}. Readable are "
            f"{known}."
        )
    family = CLASSES[name]
    if model_type and model_type != family.model_type:
        raise UnsupportedModelError(
            f"{config.source}: {name} has the model type {family.model_type}, got {model_type!r}."
        )
    reasons = {
        "quantization_config": "its weights are quantised; give the model in fp32, fp16 or bf16",
        "auto_map": "it runs code of its own, which may compute something else",
    }
    for key, reason in reasons.items():
        if key in config:
            raise UnsupportedModelError(f"{config.source}: {name} with {key} cannot be read: {reason}.")
    kind = config.text("problem_type", "single_label_classification")
    if kind != "single_label_classification":
        raise UnsupportedModelError(f"{config.source}: problem_type must be single_label_classification, got {kind!r}.")
    return name, family


def shape_from_config(config: Fields, family: Family) -> Shape:
    """Sizes and settings. Raises DataError for what is out of bounds, UnsupportedModelError for what timm cannot do."""
    fields = (config.part("vision_config") if family.vision else config).with_defaults(family.defaults)
    width, heads = fields.count("hidden_size", 1, 16384), fields.count("num_attention_heads", 1, 1024)
    fields.count("num_channels", 3, 3)
    if width % heads or ("head_dim" in fields and fields.count("head_dim", 1, width) * heads != width):
        raise UnsupportedModelError(
            f"{fields.source}: hidden_size must be num_attention_heads times the width of a head, got {width}, {heads} "
            f"and {fields.values.get('head_dim', 'no head_dim')}."
        )
    image, patch = fields.pair("image_size", 1, 4096), fields.pair("patch_size", 1, 1024)
    if image[0] < patch[0] or image[1] < patch[1]:
        raise fields.error("patch_size", f"at most the image_size {image}")
    if family.square and (image[0] != image[1] or patch[0] != patch[1]):
        raise UnsupportedModelError(
            f"{fields.source}: images and patches of this model are square, got {image} and {patch}."
        )
    swiglu = fields.flag("use_swiglu_ffn")
    activation = fields.text("hidden_act")
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{fields.source}: hidden_act must be one of {', '.join(_ACTIVATIONS)}, got {activation[:50]!r}."
        )
    return Shape(
        width=width,
        depth=fields.count("num_hidden_layers", 1, 256),
        heads=heads,
        hidden=_hidden(fields, width, swiglu),
        image=image,
        patch=patch,
        registers=fields.count("num_register_tokens", 1, 256) if "num_register_tokens" in family.defaults else 0,
        eps=fields.number("layer_norm_eps", 0, 0.1),
        activation=_ACTIVATIONS[activation],
        qkv_bias=fields.flag("qkv_bias", True),
        swiglu=swiglu,
    )


def _hidden(fields: Fields, width: int, swiglu: bool) -> int:
    if "mlp_ratio" not in fields:
        return fields.count("intermediate_size", 1, 1 << 17)
    hidden = int(width * fields.number("mlp_ratio", 0, 64))
    if hidden < 1:
        raise fields.error("mlp_ratio", "large enough for one hidden channel")
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden  # as in Dinov2SwiGLUFFN


def architecture_from_shape(shape: Shape, family: Family, classes: int, image: tuple[int, int]) -> Architecture:
    """What timm builds; ``image``: (height, width) of its input, which may differ from the checkpoint's."""
    names = {**_NAMES[family.name]}
    name = names.get(shape.width, _OTHER_NAME.get(family.name, "vit_base_patch16_224"))
    hidden = shape.hidden
    if shape.swiglu:
        name, hidden = _SWIGLU[family.name], 2 * hidden  # timm's ratio counts both halves
    arguments = {
        "img_size": image[0] if image[0] == image[1] else list(image),
        "patch_size": shape.patch[0] if shape.patch[0] == shape.patch[1] else list(shape.patch),
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": _ratio(hidden, shape.width),
        "qkv_bias": shape.qkv_bias,
        "num_classes": classes,
        **family.arguments,
    }
    if shape.registers:
        arguments["reg_tokens"] = shape.registers
    if not shape.swiglu and shape.activation != "gelu":
        arguments["act_layer"] = shape.activation
    return Architecture(name, arguments, norm_eps=shape.eps, head=family.head)


def _ratio(hidden: int, width: int) -> float:
    """The ratio from which timm's ``int(width * ratio)`` gives exactly ``hidden``."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
