"""Delta loss: what masking a token alone costs (arXiv 2305.14840), exact, for every token of every image.

Per token: cross-entropy of the frozen backbone on the true label with that token masked, minus the one without a mask.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokfilter.bundle import weights_from_model
from tokfilter.errors import DataError
from tokfilter.model import FilteredViT
from tokfilter.train.label_store import Labels, LabelStore, Shard
from tokfilter.train.loop import Work
from tokfilter.train.masking import MaskConfig, logits_of_variants
from tokfilter.train.views import Views

__all__ = ["LabelConfig", "delta_loss", "identity_from", "label_images", "weights_digest"]


@dataclass(frozen=True)
class LabelConfig:
    """How labels are made, and which tokens count as important.

    mask: what masking means
    rho: a token is important when its delta loss is greater, in nats (the paper's rule; its value is not known)
    share: used when rho is None: rho becomes the quantile above which this share of all tokens lies
    """

    mask: MaskConfig = field(default_factory=MaskConfig)
    rho: float | None = None
    share: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise DataError(f"the share of important tokens wants to lie between 0 and 1, got {self.share}.")

    def threshold(self, delta: Tensor) -> float:
        """rho, as given or as the wanted share asks for. delta: [n, N]."""
        if self.rho is not None:
            return self.rho
        ranked = delta.flatten().sort(descending=True).values  # torch.quantile refuses more than 16 million values
        return float(ranked[min(len(ranked) - 1, int(self.share * len(ranked)))])


@torch.inference_mode()
def delta_loss(
    model: FilteredViT, images: Tensor, labels: Tensor, config: MaskConfig, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """Delta loss of every patch token; the patch embedding is computed once per image.

    images: [B, 3, H, W], normalised
    labels: [B]
    chunk: masked variants per forward pass; bounds the memory, does not change the result
    Returns delta loss [B, N] and the unmasked loss [B], in nats. The model has to be in evaluation mode.
    """
    tokens = model.embed(images)
    plain = [
        F.cross_entropy(model.classify_tokens(tokens[i : i + chunk], images), labels[i : i + chunk], reduction="none")
        for i in range(0, len(tokens), chunk)
    ]
    base = torch.cat(plain).float()
    repeated = labels.repeat_interleave(model.patches)
    masked = torch.empty(len(repeated), device=images.device)
    for part, logits in logits_of_variants(model, images, tokens, config, chunk):
        masked[part] = F.cross_entropy(logits.float(), repeated[part], reduction="none")
    return masked.view(len(images), model.patches) - base[:, None], base


def label_images(
    model: FilteredViT, views: Views, config: MaskConfig, store: LabelStore, work: Work, chunk: int = 256
) -> Labels:
    """Delta loss of every image, shard by shard into ``store``; whole shards that lie there already are kept.

    Raises DataError when the store belongs to another model, other data or other settings.
    """
    model.eval()
    device = next(model.parameters()).device
    store.open(identity_from(model, views, config), views.images, model.patches)
    missing = store.missing()
    for done, shard in enumerate(missing):
        parts = []
        for batch in views.batches(torch.split(torch.arange(shard.start, shard.stop), 32)):
            images = views.normalised(batch.images, device)
            parts.append(delta_loss(model, images, batch.labels.to(device), config, chunk))
            work.progress("label: delta loss of every token", (done + len(parts) * 32 / len(shard)) / len(missing))
        delta, base = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        store.write(Shard(shard.start, delta, base))
    return store.read()


def identity_from(model: FilteredViT, views: Views, config: MaskConfig) -> dict[str, Any]:
    """What labels depend on: weights, images, preprocessing, and what masking means."""
    return {
        "weights": weights_digest(weights_from_model(model)[0]),
        "images": views.images.digest(),
        "preprocessing": asdict(views.preprocessing),
        "mask": asdict(config),
        "loss": "cross-entropy on the true label",
    }


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Hexadecimal SHA-256 over names, types, shapes and values."""
    text = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        text.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        text.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()
