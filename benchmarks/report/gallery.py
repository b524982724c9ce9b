"""Pictures for the report: kept tokens and predictions of a bundle for some images at some budgets."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.images import open_image
from tokfilter.errors import DataError
from tokfilter.runtime.labelled import labelled_files
from tokfilter.runtime.mask_pictures import mask_picture
from tokfilter.runtime.pictures import BudgetResult, Picture, scale_from_size
from tokfilter.runtime.predict import class_name, probabilities_and_classes, stages_from_model
from tokfilter.runtime.preprocess import preprocess_from_fields
from tokfilter.vit.bundle import model_from_bundle
from tokfilter.vit.model import FilteredViT

__all__ = ["Sample", "default_keeps", "pictures_from_bundle", "samples_from_folder", "samples_from_golden"]

Sample = tuple[Image.Image, str | None]
"""An RGB image and its class, where known."""


def default_keeps(bundle: Bundle) -> list[Keep]:
    """Budgets of half, a quarter and a tenth of the tokens, where a model's reducer has them, else its smallest."""
    model = model_from_bundle(bundle)
    return [max(tokens_from_keep(keep, model.num_patches), model.drop.smallest) for keep in (0.5, 0.25, 0.1)]


def pictures_from_bundle(bundle: Bundle, samples: Sequence[Sample], keeps: Sequence[Keep]) -> list[Picture]:
    """Classify samples with every token and at each budget. Raises BudgetError, DataError for embeddings."""
    model = model_from_bundle(bundle)
    if model.output_name == "embedding":
        raise DataError(
            "the report's pictures show classes or masks, and this model gives embeddings (num_classes=0): draw its "
            "kept tokens with `tokfilter predict -o`."
        )
    transform = preprocess_from_fields(asdict(bundle.preprocessing))
    dataset = [transform.view(image) for image, _ in samples]
    if model.output_name == "masks":  # a class of the image would be compared with one of a pixel
        samples = [(image, None) for image, _ in samples]
    images = torch.from_numpy(np.stack([transform.input_from_view(view) for view in dataset]))
    budgets = sorted({tokens_from_keep(keep, model.num_patches) for keep in keeps} | {model.num_patches}, reverse=True)
    columns = [_choices(model, images, k, bundle.class_names, dataset) for k in budgets]
    with torch.inference_mode():
        scores = model.scores(images).numpy()
    return [
        Picture(view, model.grid, choices, truth, score)
        for view, (_, truth), choices, score in zip(dataset, samples, zip(*columns, strict=True), scores, strict=True)
    ]


@torch.inference_mode()
def _choices(
    model: FilteredViT, images: torch.Tensor, k: int, names: Sequence[str], views: Sequence[Image.Image]
) -> list[BudgetResult]:
    """Results at one budget, one per image. images: [B, 3, H, W], of the views."""
    results = [probabilities_and_classes(logits) for logits in model(images, k).numpy()]
    probabilities = np.stack([found for found, _ in results])
    drawn = [
        None if classes is None else mask_picture(view, classes, names, scale_from_size(view.size))
        for view, (_, classes) in zip(views, results, strict=True)
    ]
    chosen = model.last.indices
    kept = [None] * len(images) if chosen is None else [tuple(row) for row in chosen.tolist()]
    best, stages = probabilities.argmax(axis=-1), stages_from_model(model)
    return [
        BudgetResult(k, class_name(names, int(i)), float(row[i]), indices, masks, done)
        for i, row, indices, masks, done in zip(best, probabilities, kept, drawn, stages, strict=True)
    ]


def samples_from_golden(bundle: Bundle) -> list[Sample]:
    """The images of the bundle's golden tensors, without classes."""
    transform = preprocess_from_fields(asdict(bundle.preprocessing))
    return [(transform.view_from_input(image), None) for image in bundle.golden.images.numpy()]


def samples_from_folder(folder: Path, class_names: Sequence[str], count: int, seed: int = 0) -> list[Sample]:
    """``count`` images drawn at random from a folder with one subfolder per class. Raises DataError."""
    found = labelled_files(folder, class_names)
    drawn = np.random.default_rng(seed).permutation(len(found))[:count]
    return [(open_image(found[i][0]), class_name(class_names, found[i][1])) for i in drawn]
