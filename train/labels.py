"""Labels of tokens: delta loss (arXiv 2305.14840), exact or by a cheaper estimate.

Delta loss: cross-entropy of the frozen backbone on the true label with a token masked, minus the one without a mask.
Where a model gives masks, the label is a class per pixel, and the loss the mean over the pixels. Other losses need no
class labels (``image_loss.py``): how far the model's output moves when the token is masked.
"""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.errors import DataError
from tokfilter.train.dataset import TrainingData
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.first_order import first_order_loss
from tokfilter.train.image_loss import CROSS_ENTROPY, LossName, check_loss, image_loss
from tokfilter.train.label_store import Labels, LabelStore, Shard
from tokfilter.train.loop import RunDir
from tokfilter.train.masking import MaskConfig, logits_of_variants
from tokfilter.train.token_sets import Grouping, costs_of_tokens, groups_of_tokens, log_costs_of_tokens, single_tokens
from tokfilter.vit.model import FilteredViT

__all__ = [
    "LabelConfig",
    "LabelMethod",
    "LabelPrecision",
    "autocast_from_precision",
    "backbone_digest",
    "delta_loss",
    "identity_from",
    "label_images",
    "settings_identity",
    "weights_digest",
]

LabelMethod = Literal["exact", "first-order", "grouped"]
LabelPrecision = Literal["fp32", "fp16", "bf16"]

_HALVES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}

_LOSSES: Final = {
    CROSS_ENTROPY: "cross-entropy on the true label",
    "feature": "cosine distance from the output without a mask",
    "kl": "divergence from the class distribution without a mask",
}
"""Loss -> its entry in the identity of labels."""

_BATCH: Final = 32  # images that are decoded and embedded together


@dataclass(frozen=True)
class LabelConfig:
    """How labels are made, and which tokens count as important.

    mask: the replacement of a masked token
    rho: a token is important when its delta loss is greater, in nats (the paper's rule; its value is not known)
    fraction: used when rho is None: rho becomes the quantile above which this fraction of all tokens lies
    method: exact (the paper's: one forward pass per token), first-order (one gradient per image) or grouped (one
        forward pass per group of tokens); the latter two are ours
    groups: sets of tokens of the method grouped
    precision: of the forward passes; fp16 and bf16 by torch's autocast, with losses in fp32 always
    loss: cross-entropy on the true label (the paper's); or feature or kl, which need no labels (ours)
    """

    mask: MaskConfig = field(default_factory=MaskConfig)
    rho: float | None = None
    fraction: float = 0.15
    method: LabelMethod = "exact"
    groups: Grouping = field(default_factory=Grouping)
    precision: LabelPrecision = "fp32"
    loss: LossName = CROSS_ENTROPY

    def __post_init__(self) -> None:
        if self.method not in get_args(LabelMethod):
            raise DataError(f"the method of labels is one of {', '.join(get_args(LabelMethod))}, got {self.method!r}.")
        if self.precision not in get_args(LabelPrecision):
            raise DataError(
                f"the precision of labels is one of {', '.join(get_args(LabelPrecision))}, got {self.precision!r}."
            )
        if self.method == "first-order" and self.mask.value == "removed":
            raise DataError("first-order labels need a mask that replaces a token: zero or mean, got removed.")
        if self.loss not in _LOSSES:
            raise DataError(f"the loss of labels is one of {', '.join(_LOSSES)}, got {self.loss!r}.")
        if self.method == "first-order" and self.loss != CROSS_ENTROPY:
            raise DataError(
                f"the loss {self.loss} is least without a mask, so its gradient is zero there and first-order labels "
                "say nothing: choose the method exact or grouped."
            )
        if self.rho is not None and self.method == "grouped" and self.groups.estimate == "log-ridge":
            raise DataError(
                "labels by log-ridge are differences of a logarithm, and rho is in nats: leave rho unset, and set the "
                "fraction of important tokens."
            )
        if not 0 < self.fraction < 1:
            raise DataError(f"the fraction of important tokens must lie between 0 and 1, got {self.fraction}.")

    def record(self) -> dict[str, Any]:
        """Plain values for the training record, where the key of the fraction is ``share``."""
        names = {"fraction": "share"}
        return {names.get(name, name): value for name, value in asdict(self).items()}

    def threshold(self, delta: Tensor) -> float:
        """rho as given, or the quantile for ``fraction``. delta: [n, N]."""
        if self.rho is not None:
            return self.rho
        place = max(0, delta.numel() - 1 - int(self.fraction * delta.numel()))
        # torch.quantile refuses more than 16 million values, and sorting ImageNet's would need 4 GB.
        return float(np.partition(delta.cpu().numpy(), place, axis=None)[place])


def delta_loss(
    model: FilteredViT,
    images: Tensor,
    labels: Tensor,
    config: LabelConfig,
    chunk: int = 256,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Delta loss of every patch token, by the method of ``config``; the patch embedding is computed once per image.

    images: [B, 3, H, W], normalised
    labels: [B]; of a model with a mask head [B, H', W']; not used by the losses feature and kl
    chunk: masked variants per forward pass; bounds the memory, does not change the result
    positions: [B], indices of the images in their data set, the seeds of random groups; None counts from 0
    Returns delta loss [B, N] and the unmasked loss [B], in nats. The model must be in evaluation mode. By the losses
    feature and kl delta loss is the distance that the output moves, and the unmasked loss is zero.
    Raises DataError where the cosine of feature is not defined.
    """
    with autocast_from_precision(config.precision, images.device):
        return _delta_loss(model, images, labels, config, chunk, positions)


def autocast_from_precision(precision: LabelPrecision, device: torch.device) -> AbstractContextManager[Any]:
    """The autocast context for forward passes of that precision."""
    half = _HALVES.get(precision)
    return nullcontext() if half is None else torch.autocast(device.type, half)


def _delta_loss(
    model: FilteredViT, images: Tensor, labels: Tensor, config: LabelConfig, chunk: int, positions: Tensor | None
) -> tuple[Tensor, Tensor]:
    check_loss(config.loss, 0 if model.output_name == "embedding" else model.output_shape[0])
    if config.method == "first-order":
        return first_order_loss(model, images, labels, config.mask, chunk)
    if config.method == "grouped":
        places = torch.arange(len(images)) if positions is None else positions
        sets = groups_of_tokens(model.grid, config.groups, places)
    else:
        sets = single_tokens(len(images), model.num_patches)
    sets = sets.to(images.device)
    parts = [
        _cost_of_sets(model, images[i : i + chunk], labels[i : i + chunk], sets[i : i + chunk], config, chunk)
        for i in range(0, len(images), chunk)
    ]
    costs, base = (torch.cat(column) for column in zip(*parts, strict=True))
    if config.method == "grouped" and config.groups.estimate == "log-ridge":
        return log_costs_of_tokens(costs + base[:, None], sets, model.num_patches), base
    return costs_of_tokens(costs, sets, model.num_patches), base


@torch.inference_mode()
def _cost_of_sets(
    model: FilteredViT, images: Tensor, labels: Tensor, sets: Tensor, config: LabelConfig, chunk: int
) -> tuple[Tensor, Tensor]:
    """Added loss [B, S] of masking each set [B, S, size], and the unmasked loss [B]; B is at most ``chunk``."""
    tokens = model.embed(images)
    full = model.classify_tokens(tokens, images)
    base = image_loss(full, labels, config.loss, full)
    image = torch.arange(len(images), device=images.device).repeat_interleave(sets.shape[1])
    masked = torch.empty(len(image), device=images.device)
    for part, logits in logits_of_variants(model, images, tokens, sets, config.mask, chunk):
        masked[part] = image_loss(logits, labels[image[part]], config.loss, full[image[part]])
    return masked.view(len(images), -1) - base[:, None], base


def label_images(
    model: FilteredViT,
    dataset: TrainingData,
    config: LabelConfig,
    store: LabelStore,
    run_dir: RunDir,
    chunk: int = 256,
    dist_context: DistContext = SINGLE_PROCESS,
) -> Labels:
    """Delta loss of every image, shard by shard into ``store``; complete shards are not made again.

    dist_context: its processes divide the missing shards among themselves; all use the same store
    Raises DataError when the store belongs to another model, other data or other settings.
    """
    model.eval()
    device = next(model.parameters()).device
    identity = identity_from(model, dataset, config)
    if dist_context.is_main:
        store.open(identity, dataset.images, model.num_patches)
    dist_context.barrier()
    store.join(identity)
    missing = store.missing()
    dist_context.barrier()  # no process writes before all have listed the missing shards
    mine = {shard.stop: shard.start for shard in missing[dist_context.rank :: dist_context.size]}
    order = [part for stop, start in mine.items() for part in torch.split(torch.arange(start, stop), _BATCH)]
    parts = []
    run_dir.progress("label: delta loss of every token", 0.0)  # the first images may take minutes
    for done, batch in enumerate(dataset.batches(order)):
        images = dataset.normalised(batch.images, device)
        parts.append(delta_loss(model, images, batch.labels.to(device), config, chunk, batch.positions))
        run_dir.progress("label: delta loss of every token", (done + 1) / len(order))
        if (stop := int(batch.positions[-1]) + 1) in mine:
            delta, base = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
            store.write(Shard(mine[stop], delta, base))
            parts = []
    dist_context.barrier()
    if dist_context.is_main:
        store.sweep()
    return store.read()


def identity_from(model: FilteredViT, dataset: TrainingData, config: LabelConfig) -> dict[str, Any]:
    """All that labels depend on: weights, images, preprocessing, mask, method."""
    head = model.mask_head
    return {
        "weights": backbone_digest(model.backbone),
        **({} if head is None else {"mask_head": weights_digest(head.state_dict())}),
        "images": dataset.images.digest(),
        **settings_identity(dataset.preprocessing, config),
    }


def settings_identity(preprocessing: Preprocessing, config: LabelConfig) -> dict[str, Any]:
    """The part of the identity that is known without images and weights."""
    return {
        "preprocessing": asdict(preprocessing),
        "mask": asdict(config.mask),
        "method": config.method,
        "groups": _groups_identity(config.groups) if config.method == "grouped" else None,
        "precision": config.precision,
        "loss": _LOSSES[config.loss],
    }


def _groups_identity(groups: Grouping) -> dict[str, Any]:
    """Without the estimate at its default, which earlier versions did not have: their labels stay valid."""
    return {name: value for name, value in asdict(groups).items() if (name, value) != ("estimate", "mean")}


def backbone_digest(backbone: nn.Module) -> str:
    """Digest of a backbone's weights, without those of a token filter inside it."""
    weights = backbone.state_dict()
    return weights_digest({name: weights[name] for name in weights if not name.startswith("patch_drop.")})


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Hexadecimal SHA-256 over names, types, shapes and values."""
    text = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        text.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        text.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()
