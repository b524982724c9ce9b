"""The stages from images to model.pt, each recorded in the bundle: backbone, label, filter, finetune."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import DataError
from tokfilter.train.data import ImageList, Progress, Splits
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.evaluation import evaluate
from tokfilter.train.filter_training import FilterTraining, train_filter
from tokfilter.train.finetune import FineTuning, train_backbone, train_elastic
from tokfilter.train.label_store import SHARD_IMAGES, Labels, LabelStore
from tokfilter.train.labels import LabelConfig, identity_from, label_images
from tokfilter.train.loop import RunDir, generator_from
from tokfilter.train.start import Start
from tokfilter.vit.bundle import Bundle, golden_from_model, weights_from_model
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import FilterConfig, TokenFilter

__all__ = ["STAGES", "Recipe", "bundle_from_start", "label_folder", "labelled_dataset"]

STAGES: Final = ("backbone", "label", "filter", "finetune")


@dataclass(frozen=True)
class Recipe:
    """What is done with data and start weights.

    stages: some of STAGES, in that order
    keep: the bundle's default budget
    label_limit: at most so many training images are labelled, drawn at random; None labels all
    label_chunk: masked variants per forward pass; bounds the memory
    seed: every random draw depends on it
    """

    stages: tuple[str, ...] = STAGES
    keep: Keep = 0.5
    label_limit: int | None = None
    label_chunk: int = 256
    seed: int = 0
    filter_config: FilterConfig = field(default_factory=FilterConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    backbone: FineTuning = field(default_factory=FineTuning)
    filter: FilterTraining = field(default_factory=FilterTraining)
    finetune: FineTuning = field(default_factory=FineTuning)

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            raise DataError(f"stages are some of {', '.join(STAGES)}, got {', '.join(self.stages) or 'none'}.")


def bundle_from_start(
    start: Start,
    splits: Splits,
    recipe: Recipe,
    work: RunDir,
    labels: Path | None = None,
    keeps: Sequence[Keep] = (1.0, 0.5, 0.25),
    datasets: tuple[ImageDataset, ImageDataset] | None = None,
) -> Bundle:
    """Run the recipe's stages and measure the result on the test images.

    labels: a label store made before, instead of the stage ``label``; refused when it belongs to another model or data
    dataset: of the training and test images, where somebody has decoded them already
    Raises DataError, BudgetError.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    model = FilteredViT(start.backbone, keep=recipe.keep)
    model.drop.scorer = _scorer(model, start, recipe)
    model.to(device)
    tokens_from_keep(recipe.keep, model.num_patches)
    train_dataset, tests = datasets or (
        ImageDataset(part, start.preprocessing, work.progress) for part in (splits.train, splits.test)
    )
    record: dict[str, Any] = {**start.record, "start": start.origin, "data": _data_record(splits), "seed": recipe.seed}
    if "backbone" in recipe.stages:
        _freeze_scorer(model)
        metrics = train_backbone(model, train_dataset, recipe.backbone, recipe.seed, work)
        record["backbone"] = {**asdict(recipe.backbone), **metrics}
    elif not start.trained:
        raise DataError(f"{start.origin} cannot tell the data's classes apart yet: add the stage `backbone`.")
    if "filter" in recipe.stages:
        record.update(_filter_stages(model, train_dataset, recipe, work, labels))
    if "finetune" in recipe.stages:
        _freeze_scorer(model, but_summary=True)
        teacher = _teacher(model) if recipe.finetune.distill > 0 else None
        metrics = train_elastic(model, train_dataset, recipe.finetune, recipe.seed, work, teacher=teacher)
        record["finetune"] = {**asdict(recipe.finetune), **metrics}
    model.eval()
    record["accuracy"] = [asdict(row) for row in evaluate(model, tests, keeps, work.progress)]
    return _bundle(model.cpu(), start, splits, recipe, tests, record)


def label_folder(
    start: Start, images: ImageList, recipe: Recipe, folder: Path, progress: Progress,
    shard_images: int = SHARD_IMAGES, dist_context: DistContext = SINGLE_PROCESS,
) -> Labels:  # fmt: skip
    """Labels of training images by a start model, kept in ``folder``. Raises DataError.

    shard_images: images whose labels are written at once
    """
    if not start.trained:
        raise DataError(f"{start.origin} cannot tell the data's classes apart yet: train its backbone first.")
    model = FilteredViT(start.backbone).to(dist_context.device).eval()
    dataset = ImageDataset(_labelled(images, recipe), start.preprocessing, progress)
    store, work = LabelStore(folder, shard_images), RunDir(progress=progress)
    return label_images(model, dataset, recipe.labels, store, work, recipe.label_chunk, dist_context)


def _filter_stages(
    model: FilteredViT, dataset: ImageDataset, recipe: Recipe, work: RunDir, given: Path | None
) -> dict[str, Any]:
    subset = labelled_dataset(dataset, recipe, work.progress)
    labels = _labels(model, subset, recipe, work, given)
    model.requires_grad_(False)
    metrics = train_filter(model, subset, labels.delta, recipe.labels, recipe.filter, recipe.seed, work)
    model.requires_grad_(True)
    return {
        "label": {**asdict(recipe.labels), "images": len(subset), "identity": labels.identity, "rho": metrics["rho"]},
        "filter": {**asdict(recipe.filter), **metrics},
    }


def labelled_dataset(dataset: ImageDataset, recipe: Recipe, progress: Progress) -> ImageDataset:
    """The training images that get labels: all, or as many as the recipe allows."""
    chosen = _labelled(dataset.images, recipe)
    return dataset if chosen is dataset.images else ImageDataset(chosen, dataset.preprocessing, progress)


def _labels(model: FilteredViT, dataset: ImageDataset, recipe: Recipe, work: RunDir, given: Path | None) -> Labels:
    """Labels from a store made before, or made now. Raises DataError."""
    if given is not None:
        store = LabelStore(given)
        store.check(identity_from(model, dataset, recipe.labels))
        return store.read()
    if "label" not in recipe.stages:
        raise DataError("the stage `filter` wants labels: add the stage `label`, or give labels made before.")
    if work.folder is None:
        raise DataError("labels want a work directory to be kept in.")
    store = LabelStore(work.folder / "labels")
    if not work.resume:
        store.clear()
    return label_images(model, dataset, recipe.labels, store, work, recipe.label_chunk)


def _labelled(images: ImageList, recipe: Recipe) -> ImageList:
    if recipe.label_limit is None or recipe.label_limit >= len(images):
        return images
    order = torch.randperm(len(images), generator=generator_from(recipe.seed, "labelled"))
    return images.subset(sorted(order[: recipe.label_limit].tolist()))


def _scorer(model: FilteredViT, start: Start, recipe: Recipe) -> TokenFilter:
    """A new filter, unless the start brought one that is going to stay; with a summary where either asks for one."""
    old = start.scorer
    if old is None or "filter" in recipe.stages:
        there = 0 if old is None else old.config.summary
        return model.new_filter(replace(recipe.filter_config, summary=recipe.filter_config.summary or there))
    if recipe.filter_config.summary in (0, old.config.summary):
        return old
    scorer = model.new_filter(replace(old.config, summary=recipe.filter_config.summary))
    deciding = {name: value for name, value in old.state_dict().items() if not name.startswith("summary.")}
    scorer.load_state_dict(deciding, strict=False)
    return scorer


def _teacher(model: FilteredViT) -> FilteredViT:
    """The model as it is now, for good."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def _freeze_scorer(model: FilteredViT, but_summary: bool = False) -> None:
    """What decides stays as it is; what the class token is told is learned with the backbone."""
    model.requires_grad_(True)
    model.scorer.requires_grad_(False)
    summary = model.scorer.summary
    if but_summary and isinstance(summary, nn.Module):
        summary.requires_grad_(True)


def _data_record(splits: Splits) -> dict[str, Any]:
    return {
        "train": {"images": len(splits.train), "digest": splits.train.digest()},
        "test": {"images": len(splits.test), "digest": splits.test.digest()},
        "classes": len(splits.train.class_names),
    }


def _bundle(
    model: FilteredViT, start: Start, splits: Splits, recipe: Recipe, tests: ImageDataset, record: dict[str, Any]
) -> Bundle:
    examples = next(tests.batches([torch.arange(min(4, len(tests)))]))
    keeps = sorted(
        {tokens_from_keep(keep, model.num_patches) for keep in (0.7, 0.5, 0.25, recipe.keep)} - {model.num_patches}
    )
    backbone, scorer = weights_from_model(model)
    config = model.scorer.config
    assert isinstance(config, FilterConfig)
    return Bundle(
        architecture=start.architecture,
        backbone=backbone,
        filter_config=config,
        filter=scorer,
        keep=recipe.keep,
        preprocessing=start.preprocessing,
        class_names=list(splits.train.class_names),
        golden=golden_from_model(model, tests.normalised(examples.images), keeps),
        training=record,
    )
