"""The training stages of one model, in place: backbone, label, filter, finetune."""

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from tokfilter.errors import DataError
from tokfilter.train.config import TrainConfig
from tokfilter.train.dataset import TrainingData
from tokfilter.train.filter_training import train_filter
from tokfilter.train.finetune import train_backbone, train_elastic
from tokfilter.train.label_store import Labels, LabelStore
from tokfilter.train.labels import backbone_digest, identity_from, label_images
from tokfilter.train.loop import RunDir, generator_from
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.filter import PatchSlot
from tokfilter.vit.scorers import TokenFilter

__all__ = ["NO_LABELS", "labelled_dataset", "labelled_positions", "run_stages"]

NO_LABELS: Final = "the stage `filter` needs labels: add the stage `label`, or give labels made before (--labels)."


def run_stages(
    model: FilteredViT,
    dataset: TrainingData,
    config: TrainConfig,
    run_dir: RunDir,
    labels: Path | None = None,
    before_finetune: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Train ``model`` in place by the stages of ``config``. Returns settings and metrics of each stage.

    labels: a label store made before, in place of the stage ``label``
    before_finetune: measures the model before the last stage; its result is recorded
    Raises DataError when the store belongs to another model or other data.
    """
    record: dict[str, Any] = {}
    if config.frozen:
        _check_summary(model, config)
        record["frozen_backbone"] = backbone_digest(model.backbone)
    if "backbone" in config.stages:
        _freeze_scorer(model)
        metrics = train_backbone(model, dataset, config.backbone, config.seed, run_dir)
        record["backbone"] = {**asdict(config.backbone), **metrics}
    if "filter" in config.stages:
        record.update(_filter_stages(model, dataset, config, run_dir, labels))
    if "finetune" in config.stages:
        if before_finetune is not None:
            record["accuracy_before_finetune"] = before_finetune()
        _freeze_scorer(model, but_summary=True, frozen=config.frozen)
        teacher = _teacher(model) if config.finetune.needs_teacher else None
        other_reducer = not isinstance(model.drop, PatchSlot)
        if other_reducer:  # what it learns is trained here, so there is nothing to warn of
            model.drop.state.warned = True
        metrics = train_elastic(model, dataset, config.finetune, config.seed, run_dir, teacher=teacher)
        record["finetune"] = {**asdict(config.finetune), **metrics}
        if other_reducer:
            for part in model.drop.modules():
                if isinstance(part, TokenFilter):
                    part.trained = True
    model.eval()
    if config.frozen and backbone_digest(model.backbone) != record["frozen_backbone"]:
        raise DataError("the weights of the frozen backbone have changed: do not train them beside fit, and try again.")
    return record


def _check_summary(model: FilteredViT, config: TrainConfig) -> None:
    """Raise DataError where the stage finetune has nothing to train."""
    if "finetune" in config.stages and not (isinstance(model.scorer, TokenFilter) and model.scorer.summary):
        raise DataError(
            "with a frozen backbone the stage finetune trains the filter's global context, and this filter has "
            "none: set filter.global_context to 64, or leave the stage out (stages=label,filter)."
        )


def labelled_dataset(dataset: TrainingData, config: TrainConfig) -> TrainingData:
    """The training images that get labels: all, or as many as ``config.label_limit`` allows."""
    positions = labelled_positions(len(dataset), config)
    return dataset if positions is None else dataset.subset(positions)


def labelled_positions(count: int, config: TrainConfig) -> list[int] | None:
    """Which of ``count`` training images get labels; None for all."""
    if config.label_limit is None or config.label_limit >= count:
        return None
    order = torch.randperm(count, generator=generator_from(config.seed, "labelled"))
    return sorted(order[: config.label_limit].tolist())


def _filter_stages(
    model: FilteredViT, dataset: TrainingData, config: TrainConfig, run_dir: RunDir, given: Path | None
) -> dict[str, Any]:
    subset = labelled_dataset(dataset, config)
    labels = _labels(model, subset, config, run_dir, given)
    model.requires_grad_(False)
    metrics = train_filter(model, subset, labels.delta, config.labels, config.filter, config.seed, run_dir)
    model.requires_grad_(not config.frozen)
    settings = config.labels.record()
    return {
        "label": {**settings, "images": len(subset), "identity": labels.identity, "rho": metrics["rho"]},
        "filter": {**asdict(config.filter), **metrics},
    }


def _labels(
    model: FilteredViT, dataset: TrainingData, config: TrainConfig, run_dir: RunDir, given: Path | None
) -> Labels:
    """Labels from a store made before, or made now. Raises DataError."""
    if given is not None:
        store = LabelStore(given)
        store.check(identity_from(model, dataset, config.labels), len(dataset))
        return store.read()
    if "label" not in config.stages:
        raise DataError(NO_LABELS)
    if run_dir.folder is None:
        raise DataError("the stage `label` writes its labels to a folder, got none: give a run directory.")
    store = LabelStore(run_dir.folder / "labels")
    if not run_dir.resume and run_dir.processes.is_main:
        store.clear()
    return label_images(model, dataset, config.labels, store, run_dir, config.label_chunk, run_dir.processes)


def _teacher(model: FilteredViT) -> FilteredViT:
    """A frozen copy of the model as it is now."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def _freeze_scorer(model: FilteredViT, but_summary: bool = False, frozen: bool = False) -> None:
    """Freeze the filter; its global context, which changes the class token and no scores, may train.

    frozen: freeze the backbone too
    """
    model.requires_grad_(not frozen)
    if not isinstance(model.drop, PatchSlot):
        return
    model.scorer.requires_grad_(False)
    summary = getattr(model.scorer, "summary", None)
    if but_summary and isinstance(summary, nn.Module):
        summary.requires_grad_(True)
