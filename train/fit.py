"""``tokfilter.fit``: delta-loss labels, filter training and fine-tuning of a model in memory, in place."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from tokfilter.artifacts.bundle import FilterConfig, Preprocessing
from tokfilter.errors import DataError, UnsupportedModelError
from tokfilter.train.checkpoint.class_names import naming_note, same_names
from tokfilter.train.class_map import mapped
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import Progress, Splits, checked, quiet, split_from_images, splits_from_folder
from tokfilter.train.dataset import ImageDataset, TrainingData
from tokfilter.train.distributed import DistContext, context_from_torchrun
from tokfilter.train.evaluation import evaluate
from tokfilter.train.finetune import check_training
from tokfilter.train.image_loss import CROSS_ENTROPY, check_loss
from tokfilter.train.loop import RunDir
from tokfilter.train.new_filter import shape_of_new_filter
from tokfilter.train.recipe import Recipe, ReducerSettings, config_from_recipe
from tokfilter.train.recipe_file import changed_recipe, recipe_for_backbone, recipe_from_source
from tokfilter.train.similarity import evaluate_similarity, full_outputs
from tokfilter.train.stages import run_stages
from tokfilter.train.tensor_dataset import check_tensors, dataset_from_loader
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT, check_patched
from tokfilter.vit.scorers import TokenFilter

__all__ = ["fit"]

_STAGES = ("label", "filter", "finetune")
_EXAMPLES = 4
"""Training images that a bundle's golden tensors are computed from."""


def fit(
    model: FilteredViT,
    data: Any,
    *,
    recipe: str | Path | Recipe = "default",
    overrides: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: Progress = quiet,
    loss: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    backbone: str | None = None,
) -> dict[str, Any]:
    """Label tokens by delta loss, train the filter, fine-tune the backbone: ``model`` is changed in place.

    The model's head must be trained for the data's classes already; otherwise add the stage ``backbone``:
    ``overrides={"stages": ["backbone", "label", "filter", "finetune"]}``. With another reducer than the filter the only
    stage is ``finetune``, which trains what the reducer learns too. It runs on the device that the model is on.
    Under torchrun every process calls this with the same arguments, and its model on its own device; all get the same
    weights, and the first one writes to ``folder``, which all must see.

    data: a folder with one subfolder per class (a ``.tar`` archive, webdataset shards, or ``train`` and ``test`` of
        these, docs/training-at-scale.md); or a torch DataLoader, or a Dataset, of (float images [3, H, W] normalised as
        for the model, class index); with a mask head in place of the class index a class for each pixel of the masks,
        [H', W'], -100 for pixels without one. With
        loss="feature" or "kl" also a folder of images without classes, and a loader of images alone
    recipe: a recipe, the name of a built-in one, or a TOML file (``tokfilter train --print-recipe``)
    overrides: settings by dotted name, such as ``{"finetune.epochs": 2, "labels.limit": 1000}``. With a mask head
        ``labels.mask`` is mean where it is unset, as docs/segmentation.md has measured
    folder: keeps labels and checkpoints; None uses a temporary folder, with several processes give one
    resume: continue from the checkpoints in ``folder``; the model must be the one that the interrupted call began with
    progress: called with the step's name and the completed fraction
    loss: of labels and fine-tuning, in place of the recipe's: "cross-entropy"; or without class labels "feature"
        (cosine distance from the full model's output, for embedding models) or "kl" (from its class distribution)
    preprocessing: values that replace the model's, for a model that was fine-tuned with others than timm's: mean, std,
        interpolation, crop_pct, crop_mode
    backbone: "frozen" trains no weight of it, the filter and its global context alone, by the recipe "frozen" where
        ``recipe`` is "default" (docs/frozen.md); "trained", or None for what the recipe says
    Returns the training record: data, seed, settings and metrics of each stage; for a folder also "accuracy" on the
    test images, or "similarity" to the full model where there is no top-1. The model is in evaluation mode afterwards.
    Raises RecipeError, DataError, UnsupportedModelError.
    """
    check_patched(model)
    changes = {**(overrides or {}), **({} if loss is None else {"loss": loss})}
    settings = _recipe(*recipe_for_backbone(recipe, changes, backbone))
    head = model.mask_head
    check_loss(settings.loss, model.backbone.num_classes if head is None else head.config.masks)
    if head is not None and settings.labels.mask is None:
        settings = changed_recipe(settings, {"labels.mask": "mean"})
    _check_reducer(model, settings.reducer)
    stages: tuple[str, ...] = _STAGES if model.drop.name == "filter" else ("finetune",)
    before = config_from_recipe(settings, 1, stages, model.drop.config)  # refuses what it can before data are read
    check_training(before.finetune, model.drop.name, settings.finetune.batch, model.num_patches, head is not None)
    with (
        context_from_torchrun() as processes,
        _folder(folder, processes) as run_folder,
        torch.random.fork_rng(),
        ExitStack() as stack,
    ):
        torch.manual_seed(settings.seed)  # a loader that shuffles gives the same order each time
        progress = progress if processes.is_main else quiet
        run_dir = RunDir(run_folder, resume, settings.save_seconds, progress, processes)
        stack.enter_context(run_dir.locked())
        own: Any = model.backbone
        pixels = _preprocessing(model, {"crop_pct": settings.data.crop_pct, **(preprocessing or {})})
        tests: ImageDataset | None = None
        dataset: TrainingData
        if isinstance(data, str | Path):
            dataset, tests, facts = _datasets_from_folder(Path(data), settings, pixels, model, run_dir)
        else:
            file = run_folder / ("images.f32" if processes.is_main else f"images.{processes.rank}.f32")
            classes = own.num_classes if head is None else head.config.masks
            size = () if head is None else head.config.size
            labelled = settings.loss == CROSS_ENTROPY
            check_tensors(settings.data.augmentation)
            dataset = dataset_from_loader(data, pixels, classes, file, progress, size, labelled)
            facts = {"train": _facts(dataset), "classes": classes}
        config = config_from_recipe(settings, len(dataset), stages, model.drop.config)
        record: dict[str, Any] = {"start": "model in memory", "data": facts, "seed": config.seed}
        top1 = settings.loss == CROSS_ENTROPY or (tests is not None and _has_top1(model, tests))
        reference = None if tests is None or top1 else full_outputs(model, tests, progress, processes=processes)
        record.update(_train(model, dataset, config, run_dir))
        if tests is not None and top1:
            rows = evaluate(model, tests, (1.0, model.keep), progress, processes=processes)
            record["accuracy"] = [asdict(row) for row in rows]
        elif tests is not None:
            likeness = evaluate_similarity(model, tests, (1.0, model.keep), progress, reference, processes=processes)
            record["similarity"] = [asdict(row) for row in likeness]
        _note(model, dataset, tests, record)
    return record


def _has_top1(model: FilteredViT, tests: ImageDataset) -> bool:
    names = tests.images.class_names
    known = names if model.info is None else model.info.class_names or names
    return model.backbone.num_classes == len(names) > 0 and tuple(known) == names


def _check_reducer(model: FilteredViT, settings: ReducerSettings) -> None:
    """Refuse a recipe for another reducer, or other settings of it, than the model was patched with."""
    own = model.drop.config
    wanted = settings.config(own)
    if wanted != own:
        raise DataError(
            f"the recipe is for the reducer {wanted.name} with {dict(wanted.settings)}, the model was patched with "
            f"{own.name} and {dict(own.settings)}: leave reducer.* out of the recipe, or patch the model with "
            f"reducer=({wanted.name!r}, {settings.given})."
        )


def _note(model: FilteredViT, dataset: TrainingData, tests: ImageDataset | None, record: dict[str, Any]) -> None:
    """Store the record with the model, for its bundle."""
    if model.info is None:
        return
    split = None  # images of a loader have no files
    if tests is not None and isinstance(dataset, ImageDataset):
        split = split_from_images(Splits(dataset.images, tests.images), model.info.split)
    (batch,) = dataset.batches([torch.arange(min(_EXAMPLES, len(dataset)))])
    model.info = replace(
        model.info,
        preprocessing=dataset.preprocessing,
        class_names=tuple(record["data"].get("class_names", model.info.class_names)),
        training=record,
        examples=dataset.normalised(batch.images).clone(),
        split=split,
    )


def _recipe(recipe: str | Path | Recipe, overrides: Mapping[str, Any] | None) -> Recipe:
    return (
        changed_recipe(recipe, overrides or {}) if isinstance(recipe, Recipe) else recipe_from_source(recipe, overrides)
    )


def _preprocessing(model: FilteredViT, overrides: Mapping[str, Any]) -> Preprocessing:
    """The model's own preprocessing, or timm's, with the overrides that are not None."""
    if "input_size" in overrides:
        raise DataError("the model has its input size: create it with img_size, leave input_size out.")
    own = {} if model.info is None else asdict(model.info.preprocessing)
    own.pop("input_size", None)
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := sorted(given.keys() - Preprocessing.__dataclass_fields__.keys()):
        raise DataError(
            f"preprocessing has no {', '.join(unknown)}: expected mean, std, interpolation, crop_pct, crop_mode."
        )
    return preprocessing_from_backbone(model.backbone, **{**own, **given})


@contextmanager
def _folder(folder: str | Path | None, processes: DistContext) -> Iterator[Path]:
    if folder is None and processes.size > 1:
        raise DataError("several processes share their labels and checkpoints: give fit a folder that all of them see.")
    if folder is None:
        with TemporaryDirectory(prefix="tokfilter-fit-") as temporary:
            yield Path(temporary)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)


def _datasets_from_folder(
    root: Path, recipe: Recipe, preprocessing: Preprocessing, model: FilteredViT, run_dir: RunDir
) -> tuple[ImageDataset, ImageDataset, dict[str, Any]]:
    """Training images, test images, and their entry in the record. Raises DataError.

    The classes have the model's order where the model has names and the data the same ones.
    """
    if model.mask_head is not None:
        raise DataError(
            "a model with a mask head is trained on masks, and a folder has classes only: give a torch Dataset or "
            "DataLoader of (image, mask)."
        )
    classes, processes = model.backbone.num_classes, run_dir.processes
    once = _warn if processes.is_main else _unsaid
    labelled = recipe.loss == CROSS_ENTROPY
    splits = splits_from_folder(root, holdout=recipe.data.holdout, need_classes=labelled)
    names = () if model.info is None else model.info.class_names
    if names and same_names(names, splits.train.class_names):
        splits = Splits(*(mapped(part, names, once) for part in (splits.train, splits.test)))
    elif labelled and (note := naming_note(names, splits.train.class_names)):
        once(note)
    if labelled and len(splits.train.class_names) != classes:
        raise DataError(
            f"{root} has {len(splits.train.class_names)} classes, the model's head has {classes}: "
            "create the model with the data's num_classes."
        )
    progress = run_dir.progress
    splits = Splits(*(checked(part, progress, _warn, processes) for part in (splits.train, splits.test)))
    train, test = (ImageDataset(part, preprocessing, progress) for part in (splits.train, splits.test))
    facts = {"train": _facts(train), "test": _facts(test), "classes": classes}
    if not labelled and not _has_top1(model, test):
        return train, test, facts
    return train, test, {**facts, "class_names": list(splits.train.class_names)}


def _facts(dataset: TrainingData) -> dict[str, Any]:
    return {"images": len(dataset), "digest": dataset.images.digest()}


def _train(model: FilteredViT, dataset: TrainingData, config: TrainConfig, run_dir: RunDir) -> dict[str, Any]:
    flags = [(parameter, parameter.requires_grad) for parameter in model.backbone.parameters()]
    if "filter" in config.stages:
        torch.manual_seed(config.seed)
        model.drop.scorer = _new_scorer(model, config)
    try:
        return run_stages(model, dataset, config, run_dir)
    finally:
        model.requires_grad_(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        model.eval()


def _new_scorer(model: FilteredViT, config: TrainConfig) -> nn.Module:
    """A new filter of the recipe's shape, or of the model's own where the recipe has the default shape.

    Neighbours and a global context: as ``new_filter.py`` has it.
    A scorer of the user's own class is trained as it is. Raises UnsupportedModelError when it has no parameters.
    """
    scorer = model.scorer
    if not isinstance(scorer, TokenFilter):
        if not any(True for _ in scorer.parameters()):
            raise UnsupportedModelError(
                f"the model's scorer {type(scorer).__name__} has no parameters to train: leave out the stage `filter`, "
                "or patch the model with a trainable scorer."
            )
        return scorer
    wanted = config.filter_config
    usual = replace(wanted, summary=0, neighbours=False) == FilterConfig()
    shape = shape_of_new_filter(scorer.config if usual else wanted, scorer.config, scorer.trained, model, config)
    return model.new_filter(shape).to(next(model.parameters()).device)


def _unsaid(text: str) -> None:
    """In every process but the first, which says it."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
