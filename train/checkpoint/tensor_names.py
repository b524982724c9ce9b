"""Which of transformers' tensors make up each tensor of timm's model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from tokfilter.errors import DataError
from tokfilter.train.checkpoint.families import Family, Shape
from tokfilter.train.checkpoint.tensor_files import TensorFiles

__all__ = ["HEAD_NAMES", "class_count", "timm_weights"]

_UNUSED: Final = ("embeddings.mask_token", "embeddings.position_ids", "pooler.", "post_layernorm.", "head.")
"""Tensors of the base models that their classifiers do not use, by what follows the prefix."""

HEAD_NAMES: Final = ("head", "head_dist")


@dataclass(frozen=True)
class Source:
    """One tensor of timm.

    names: of transformers' tensors, joined along the first axis
    shape: of each of them
    result: shape in timm, where it is another
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    result: tuple[int, ...] | None = None


def _heads(family: Family) -> dict[str, str]:
    if family.name == "distilled":
        return {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    return {"head": "classifier"}


def class_count(files: TensorFiles, family: Family) -> int:
    """Classes of the checkpoint's classifier. Raises DataError when it has none."""
    name = f"{_heads(family)['head']}.weight"
    shape = files.shapes.get(name, ())
    if len(shape) != 2 or not 1 <= shape[0] <= 1_000_000:
        raise DataError(f"{files.folder}: expected the classifier {name} [classes, channels], got {list(shape)}.")
    return shape[0]


def timm_weights(
    files: TensorFiles, shape: Shape, family: Family, classes: int, image: tuple[int, int]
) -> dict[str, Tensor]:
    """The weights of timm's model for ``image`` (height, width), with those of the head.

    Raises DataError that names missing, surplus and wrongly shaped tensors, before a value is read.
    """
    sources = dict(_sources(shape, family, classes))
    _check(files, sources, family)
    weights = {}
    for name, source in sources.items():
        parts = [files.read(part) for part in source.names]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        weights[name] = joined if source.result is None else joined.reshape(source.result)
    _place_positions(weights, shape, family, image)
    return weights


def _check(files: TensorFiles, sources: Mapping[str, Source], family: Family) -> None:
    wanted = {name: source.shape for source in sources.values() for name in source.names}
    missing = [name for name in wanted if name not in files.shapes]
    unused = tuple(family.prefix + name for name in _UNUSED)
    surplus = [name for name in files.shapes if name not in wanted and not name.startswith(unused)]
    wrong = [name for name in wanted if name in files.shapes and files.shapes[name] != wanted[name]]
    if not (missing or surplus or wrong):
        return
    first = next(iter([*missing, *wrong, *surplus]))
    got = list(files.shapes[first]) if first in files.shapes else "none"
    raise DataError(
        f"{files.folder}: its weights do not fit its config.json: {len(missing)} tensors are missing, {len(wrong)} "
        f"have another shape, {len(surplus)} are unknown; first: {first[:200]}, expected "
        f"{list(wanted[first]) if first in wanted else 'none'}, got {got}."
    )


def _sources(shape: Shape, family: Family, classes: int) -> Iterator[tuple[str, Source]]:
    """timm's name and its source, for every tensor."""
    width = shape.width
    yield from _embedding(shape, family)
    names = _CLIP_BLOCK if family.vision else _DINOV2_BLOCK if family.head == "class+mean" else _VIT_BLOCK
    for i in range(shape.depth):
        block = f"{family.prefix}encoder.{'layers' if family.vision else 'layer'}.{i}."
        yield from _block(f"blocks.{i}.", block, names, shape)
        if family.head == "class+mean":
            for scale in ("1", "2"):
                yield f"blocks.{i}.ls{scale}.gamma", Source((f"{block}layer_scale{scale}.lambda1",), (width,))
    if family.arguments.get("final_norm", True):
        last = "post_layernorm" if family.vision else "layernorm"
        yield from _both("norm", f"{family.prefix}{last}", (width,))
    features = 2 * width if family.head == "class+mean" else width
    for name, theirs in _heads(family).items():
        yield from _both(name, theirs, (classes, features), (classes,))


def _embedding(shape: Shape, family: Family) -> Iterator[tuple[str, Source]]:
    width, patches = shape.width, shape.grid[0] * shape.grid[1]
    start, projection = f"{family.prefix}embeddings.", (width, 3, *shape.patch)
    if family.vision:
        if family.name == "clip":
            yield "cls_token", Source((f"{start}class_embedding",), (width,), (1, 1, width))
            yield from _both("norm_pre", f"{family.prefix}pre_layrnorm", (width,))
        count = patches + (family.name == "clip")
        yield "pos_embed", Source((f"{start}position_embedding.weight",), (count, width), (1, count, width))
        yield "patch_embed.proj.weight", Source((f"{start}patch_embedding.weight",), projection)
        if family.name == "siglip":
            yield "patch_embed.proj.bias", Source((f"{start}patch_embedding.bias",), (width,))
        return
    token = (1, 1, width)
    yield "cls_token", Source((f"{start}cls_token",), token)
    distilled = family.name in ("deit", "distilled")
    if distilled:
        name = "dist_token" if family.name == "distilled" else "reg_token"
        yield name, Source((f"{start}distillation_token",), token)
    if shape.registers:
        yield "reg_token", Source((f"{start}register_tokens",), (1, shape.registers, width))
    yield "pos_embed", Source((f"{start}position_embeddings",), (1, patches + 1 + distilled, width))
    yield from _both("patch_embed.proj", f"{start}patch_embeddings.projection", projection, (width,))


_VIT_BLOCK: Final = {
    "norm1": "layernorm_before",
    "qkv": "attention.attention.query attention.attention.key attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_DINOV2_BLOCK: Final = {**_VIT_BLOCK, "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_SWIGLU_MLP: Final = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
_CLIP_BLOCK: Final = {
    "norm1": "layer_norm1",
    "qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _block(ours: str, theirs: str, names: Mapping[str, str], shape: Shape) -> Iterator[tuple[str, Source]]:
    width, hidden = shape.width, shape.hidden
    names = {**names, **_SWIGLU_MLP} if shape.swiglu else names
    entry = 2 * hidden if shape.swiglu else hidden
    for part, rows, columns in (
        ("norm1", width, 0),
        ("attn.proj", width, width),
        ("norm2", width, 0),
        ("mlp.fc1", entry, width),
        ("mlp.fc2", width, hidden),
    ):
        yield from _both(ours + part, theirs + names[part], (rows, columns) if columns else (rows,), (rows,))
    qkv = [theirs + name for name in names["qkv"].split()]
    yield f"{ours}attn.qkv.weight", Source(tuple(f"{name}.weight" for name in qkv), (width, width))
    if shape.qkv_bias:
        yield f"{ours}attn.qkv.bias", Source(tuple(f"{name}.bias" for name in qkv), (width,))


def _both(
    ours: str, theirs: str, weight: tuple[int, ...], bias: tuple[int, ...] | None = None
) -> Iterator[tuple[str, Source]]:
    yield f"{ours}.weight", Source((f"{theirs}.weight",), weight)
    yield f"{ours}.bias", Source((f"{theirs}.bias",), bias or weight)


def _place_positions(weights: dict[str, Tensor], shape: Shape, family: Family, image: tuple[int, int]) -> None:
    """Resample the position embedding for another image size, and give registers none, as transformers does."""
    positions, patches = weights["pos_embed"], shape.grid[0] * shape.grid[1]
    prefix, grid = positions[:, : positions.shape[1] - patches], positions[:, positions.shape[1] - patches :]
    if image != shape.image:
        grid = _resampled(grid, shape, image, family.antialias)
    if family.arguments.get("no_embed_class"):
        weights["cls_token"] = weights["cls_token"] + prefix
        weights["pos_embed"] = grid
    else:
        weights["pos_embed"] = torch.cat([prefix, grid], dim=1)


def _resampled(grid: Tensor, shape: Shape, image: tuple[int, int], antialias: bool) -> Tensor:
    """[1, N, C] of the checkpoint's grid for the patches of ``image``: ``interpolate_pos_encoding`` in transformers."""
    rows, columns = shape.grid
    target = image[0] // shape.patch[0], image[1] // shape.patch[1]
    planes = grid.reshape(1, rows, columns, shape.width).permute(0, 3, 1, 2)
    resize: Callable[..., Tensor] = F.interpolate
    planes = resize(planes, size=target, mode="bicubic", align_corners=False, antialias=antialias)
    return planes.permute(0, 2, 3, 1).reshape(1, target[0] * target[1], shape.width)
