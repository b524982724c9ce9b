"""Trains the token filter to predict delta loss from the tokens before attention; the backbone is frozen.

From the paper, as far as it is known: labels by a threshold rho on delta loss, an MLP before attention. Binary
cross-entropy, its class-balancing weight and the MLP's shape are ours.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.errors import DataError
from tokfilter.train.dataset import Batch, TrainingData
from tokfilter.train.labels import LabelConfig
from tokfilter.train.loop import RunDir, TrainingPlan, loss_metrics, train
from tokfilter.train.share import Share
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import TokenFilter

__all__ = ["FilterTraining", "Objective", "ranking_loss", "train_filter"]

Objective = Literal["threshold", "regression", "ranking", "combined"]


@dataclass(frozen=True)
class FilterTraining:
    """Settings of the filter's training.

    objective: threshold (binary labels delta loss > rho; the paper's rule), regression (of the signed square root of
        delta loss in units of its standard deviation; ours), ranking (pairs of tokens of an image, each weighted by
        the square root of the difference in delta loss; ours) or combined (the losses of threshold and ranking, added)
    """

    plan: TrainingPlan = field(default_factory=lambda: TrainingPlan(steps=400, lr=2e-3, weight_decay=0.01))
    objective: Objective = "threshold"

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise DataError(
                f"the filter's objective is one of {', '.join(get_args(Objective))}, got {self.objective!r}."
            )


def train_filter(
    model: FilteredViT,
    dataset: TrainingData,
    delta: Tensor,
    labels: LabelConfig,
    config: FilterTraining,
    seed: int,
    run_dir: RunDir,
) -> dict[str, Any]:
    """Train ``model.scorer`` in place.

    dataset: the labelled images
    delta: [n, N], their delta loss
    Returns metrics: rho, fraction of important tokens, first and last losses. Raises DataError where no label of an
    image differs from another.
    """
    if not (delta.amax(1) > delta.amin(1)).any() and delta.shape[1] > 1:
        raise DataError(
            "every token of each image has the same label, so there is nothing to learn: masking moves this model's "
            "outputs too little. Label more images, or check that the head is trained."
        )
    rho = labels.threshold(delta)
    important, values = (delta > rho).float(), _signed_root(delta)
    device = next(model.parameters()).device
    model.eval()

    def loss(batch: Batch, share: Share, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            tokens = model.embed(dataset.normalised(batch.images, device))
        scores = model.scorer(tokens[:, model.prefix_tokens :].clone()).float()
        at = batch.positions
        if config.objective == "regression":
            return F.mse_loss(scores, values[at].to(device))
        terms = []
        if config.objective != "ranking":
            weight = _balance(important).to(device)
            terms.append(F.binary_cross_entropy_with_logits(scores, important[at].to(device), pos_weight=weight))
        if config.objective != "threshold":
            whole = delta[share.whole].to(device)
            terms.append(ranking_loss(scores, delta[at].to(device), whole) / share.fraction)
        return torch.stack(terms).sum()

    settings = {**asdict(config), "plan": config.plan.identity()}
    identity = f"{dataset.images.digest()} {settings} {rho} {float(delta.double().sum())}"
    losses = train("filter", _trainable(model.scorer), dataset, loss, config.plan, seed, identity, run_dir)
    if isinstance(model.scorer, TokenFilter):
        model.scorer.trained = True
    return {"rho": rho, "important": float(important.mean()), **loss_metrics(losses)}


def ranking_loss(scores: Tensor, delta: Tensor, whole: Tensor | None = None) -> Tensor:
    """Logistic loss over pairs of tokens of an image, weighted by the square root of their difference in delta loss.

    scores, delta: [B, N]
    whole: delta loss of all images of the step [W, N], when these are a part of them: the losses of parts then add up
    Returns a scalar: near 0 when every pair is in order by a wide margin, ln 2 when all scores are equal.
    """
    margins = scores[:, :, None] - scores[:, None, :]
    weights = _pair_weights(delta)
    if whole is None or len(whole) == len(delta):
        sum_of_weights = weights.sum()
    else:  # image by image, for less memory
        sum_of_weights = torch.stack([_pair_weights(row[None]).sum() for row in whole]).sum()
    total: Tensor = (F.softplus(-margins) * weights).sum() / sum_of_weights.clamp_min(1e-12)
    return total


def _pair_weights(delta: Tensor) -> Tensor:
    """[B, N] -> [B, N, N]."""
    return (delta[:, :, None] - delta[:, None, :]).clamp_min(0).sqrt()


def _signed_root(delta: Tensor) -> Tensor:
    """Targets of the regression, in units of their standard deviation."""
    root = delta.sign() * delta.abs().sqrt()
    return root / root.std().clamp_min(1e-12)


def _balance(important: Tensor) -> Tensor:
    """Positive weight of the cross-entropy: important and unimportant tokens get the same total weight."""
    positive = important.mean().clamp(1e-3, 1 - 1e-3)
    return (1 - positive) / positive


def _trainable(scorer: nn.Module) -> nn.Module:
    return scorer.requires_grad_(True).train()
