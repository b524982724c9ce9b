"""From images and start weights to a bundle (model.pt), and to a folder of labels."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Bundle, FilterConfig
from tokfilter.errors import DataError
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import ImageList, Progress, Splits, split_from_images
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.evaluation import evaluate
from tokfilter.train.finetune import check_training
from tokfilter.train.image_loss import CROSS_ENTROPY, check_loss
from tokfilter.train.label_store import SHARD_IMAGES, Labels, LabelStore
from tokfilter.train.labels import backbone_digest, label_images, settings_identity
from tokfilter.train.loop import RunDir
from tokfilter.train.new_filter import shape_of_new_filter
from tokfilter.train.similarity import evaluate_similarity, full_outputs
from tokfilter.train.stages import NO_LABELS, labelled_positions, run_stages
from tokfilter.train.start import Start
from tokfilter.vit.bundle import UNTRAINED
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model
from tokfilter.vit.reducers.filter import PatchSlot
from tokfilter.vit.reducers.registry import made_reducer
from tokfilter.vit.scorers import TokenFilter

__all__ = ["bundle_from_start", "check_label_run", "check_run", "has_top1", "label_folder"]


def bundle_from_start(
    start: Start,
    splits: Splits,
    config: TrainConfig,
    run_dir: RunDir,
    labels: Path | None = None,
    keeps: Sequence[Keep] = (1.0, 0.5, 0.25),
    datasets: tuple[ImageDataset, ImageDataset] | None = None,
) -> Bundle:
    """Run the stages of ``config`` and measure the accuracy on the test images.

    Without top-1, because the model gives embeddings or the data have none of its classes, the record has "similarity"
    in place of "accuracy": outputs at budgets against those of the start model with every token (``similarity.py``).

    labels: a label store made before, in place of the stage ``label``; refused when it belongs to another model or data
    datasets: of the training and test images, where they are decoded already
    Every process of ``run_dir`` calls this and gets the same bundle. Raises DataError, BudgetError.
    """
    check_run(start, config, labels)
    processes = run_dir.processes
    torch.manual_seed(config.seed)
    model = FilteredViT(start.backbone, keep=config.keep, reducer=config.reducer)
    if isinstance(model.drop, PatchSlot):
        model.drop.scorer = _scorer(model, start, config)
    elif model.drop.config == start.reducer:
        model.drop.load_state_dict(start.reducer_weights)
    model.to(processes.device)
    train_dataset, tests = datasets or (
        ImageDataset(part, start.preprocessing, run_dir.progress) for part in (splits.train, splits.test)
    )
    record: dict[str, Any] = {**start.record, "start": start.origin, "data": _data_record(splits), "seed": config.seed}

    def accuracy(budgets: Sequence[Keep]) -> list[dict[str, Any]]:
        found = evaluate(model, tests, budgets, run_dir.progress, processes=processes, precision=config.test_precision)
        return [asdict(row) for row in found]

    for name in ("accuracy_before_finetune", "accuracy", "similarity", "frozen_backbone"):
        record.pop(name, None)  # of a training that the start model comes from
    top1 = has_top1(start, splits.test, config)
    reference = None if top1 else full_outputs(model, tests, run_dir.progress, processes=processes)
    before = (lambda: accuracy([1.0])) if top1 else None
    record.update(run_stages(model, train_dataset, config, run_dir, labels, before))
    if not model.drop.trained:
        record["filter"] = UNTRAINED
        model.drop.state.warned = True  # the record has it, and the stages were the caller's choice
    budgets = [k for k in keeps if tokens_from_keep(k, model.num_patches) >= model.drop.smallest]
    if top1:
        record["accuracy"] = accuracy(budgets)
    else:
        rows = evaluate_similarity(model, tests, budgets, run_dir.progress, reference, processes=processes)
        record["similarity"] = [asdict(row) for row in rows]
    return _bundle(model.cpu(), start, splits, config, tests, record)


def has_top1(start: Start, images: ImageList, config: TrainConfig) -> bool:
    """Whether the images have the classes that the start model gives logits of; with cross-entropy they must."""
    if config.finetune.loss == CROSS_ENTROPY:
        return True
    names = start.class_names or images.class_names
    return start.backbone.num_classes == len(images.class_names) > 0 and names == images.class_names


def label_folder(
    start: Start, images: ImageList, config: TrainConfig, folder: Path, progress: Progress,
    shard_images: int = SHARD_IMAGES, dist_context: DistContext = SINGLE_PROCESS,
) -> Labels:  # fmt: skip
    """Labels of training images by a start model, kept in ``folder``. Raises DataError.

    shard_images: images per file
    """
    check_label_run(start, config, folder)
    model = FilteredViT(start.backbone).to(dist_context.device).eval()
    positions = labelled_positions(len(images), config)
    chosen = images if positions is None else images.subset(positions)
    dataset = ImageDataset(chosen, start.preprocessing, progress)
    store, run_dir = LabelStore(folder, shard_images), RunDir(folder, progress=progress, processes=dist_context)
    with run_dir.locked():
        return label_images(model, dataset, config.labels, store, run_dir, config.label_chunk, dist_context)


def check_run(start: Start, config: TrainConfig, labels: Path | None = None) -> None:
    """What of a training can be refused before an image is read. Raises DataError, BudgetError."""
    _check_loss(start, config)
    if config.frozen and not start.trained:
        raise DataError(
            f"a frozen backbone must be trained for the data's classes, and {start.origin} is not: train it first, "
            "without --frozen-backbone, or start from trained weights (--checkpoint)."
        )
    if "backbone" not in config.stages and not start.trained:
        raise DataError(f"{start.origin} has no head trained for the data's classes: add the stage `backbone`.")
    for stage, settings in (("backbone", config.backbone), ("finetune", config.finetune)):
        if stage in config.stages:
            check_training(settings, config.reducer.name, settings.plan.batch, start.backbone.patch_embed.num_patches)
    fixed = config.finetune.fixed
    for keep in (config.keep, *([] if fixed is None else [fixed])):
        tokens_from_keep(keep, start.backbone.patch_embed.num_patches)
        if config.reducer.name != "filter":
            made_reducer(start.backbone, config.reducer).tokens(keep)
    if "filter" not in config.stages:
        return
    if labels is None and "label" not in config.stages:
        raise DataError(NO_LABELS)
    if labels is not None:
        store, identity = LabelStore(labels), settings_identity(start.preprocessing, config.labels)
        if "backbone" not in config.stages:
            identity["weights"] = backbone_digest(start.backbone)
        store.check(identity, partial=True)


def check_label_run(start: Start, config: TrainConfig, folder: Path) -> None:
    """What of a label run can be refused before an image is read. Raises DataError."""
    _check_loss(start, config)
    if not start.trained:
        raise DataError(f"{start.origin} has no head trained for the data's classes: train its backbone first.")
    if LabelStore(folder).exists:
        weights = {"weights": backbone_digest(start.backbone)}
        LabelStore(folder).check(settings_identity(start.preprocessing, config.labels) | weights, partial=True)


def _check_loss(start: Start, config: TrainConfig) -> None:
    loss = config.labels.loss
    check_loss(loss, start.backbone.num_classes)
    if loss != CROSS_ENTROPY and not start.trained:
        raise DataError(
            f"the loss {loss} compares with the outputs of a trained model, and this one has {start.origin}: give "
            "trained weights (--checkpoint, or --pretrained)."
        )


def _scorer(model: FilteredViT, start: Start, config: TrainConfig) -> TokenFilter:
    """A new filter, or the start's own when it is not trained again; with the context that a setting asks for."""
    old, shape = start.scorer, config.filter_config
    if old is None or "filter" in config.stages:
        before, trained = (None, False) if old is None else (old.config, old.trained)
        return model.new_filter(shape_of_new_filter(shape, before, trained, model, config))
    if shape.summary in (0, old.config.summary):
        return old
    scorer = model.new_filter(replace(old.config, summary=shape.summary))
    scorer.trained = old.trained
    scoring = {name: value for name, value in old.state_dict().items() if not name.startswith("summary.")}
    scorer.load_state_dict(scoring, strict=False)
    return scorer


def _data_record(splits: Splits) -> dict[str, Any]:
    return {
        "train": {"images": len(splits.train), "digest": splits.train.digest()},
        "test": {"images": len(splits.test), "digest": splits.test.digest()},
        "classes": len(splits.train.class_names),
    }


def _bundle(
    model: FilteredViT, start: Start, splits: Splits, config: TrainConfig, tests: ImageDataset, record: dict[str, Any]
) -> Bundle:
    examples = next(tests.batches([torch.arange(min(4, len(tests)))]))
    budgets = {tokens_from_keep(keep, model.num_patches) for keep in (0.7, 0.5, 0.25, config.keep)}
    keeps = sorted(k for k in budgets - {model.num_patches} if k >= model.drop.smallest)
    backbone, scorer = weights_from_model(model)
    filter_config = model.scorer.config if isinstance(model.drop, PatchSlot) else FilterConfig()
    assert isinstance(filter_config, FilterConfig)
    return Bundle(
        architecture=start.architecture,
        backbone=backbone,
        filter_config=filter_config,
        filter=scorer,
        keep=config.keep,
        preprocessing=start.preprocessing,
        class_names=list(splits.train.class_names if has_top1(start, splits.test, config) else start.class_names),
        golden=golden_from_model(model, tests.normalised(examples.images), keeps),
        training=record,
        split=split_from_images(splits, start.split),
        reducer=model.drop.config,
    )
