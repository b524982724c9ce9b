"""similarity.json: outputs at budgets against the full model's, of a model without top-1 on the images at hand."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.accuracy_document import accuracy_of_model, interval_name, model_card
from tokfilter.benchmarks.evaluated_part import Choice, EvaluatedPart, listed_images, part_from_images
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import ImageList, Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.similarity import evaluate_similarity, full_outputs
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.macs import macs

__all__ = ["evaluation_from_bundle"]


def evaluation_from_bundle(
    path: Path, data: Path, keeps: Sequence[Keep], batch: int, command: str, progress: Progress,
    report: Callable[[str], None], choice: Choice = "held-out", reference: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """accuracy.json where the model classifies and the images have classes, similarity.json otherwise.

    reference: bundle whose outputs with every token are the truth; None: this one's
    Raises BundleError, DataError, BudgetError.
    """
    bundle = load_bundle(path)
    model = model_from_bundle(bundle)
    for keep in keeps:
        tokens_from_keep(keep, model.num_patches)
    listed, divided = listed_images(bundle, data)
    if listed.labelled and model.output_name != "embedding" and reference is None:
        name = data.resolve().name
        return accuracy_of_model(
            bundle, model, (listed, divided), name, keeps, batch, command, progress, report, choice
        )
    truth = None if reference is None else _reference(reference, bundle)
    tested = part_from_images(listed, divided, bundle.split, choice, progress, report)
    dataset = ImageDataset(tested.images, bundle.preprocessing, progress)
    full = None if truth is None else _full(truth, tested.images, progress, batch)
    budgets = [1.0, *(keep for keep in keeps if tokens_from_keep(keep, model.num_patches) >= model.drop.smallest)]
    rows = [
        {
            "method": "full" if row.tokens == model.num_patches else model.drop.name,
            "keep": row.tokens / model.num_patches,
            "macs": macs(model, row.tokens),
            **asdict(row),
        }
        for row in evaluate_similarity(model, dataset, budgets, progress, full, batch)
    ]
    return {
        **header("similarity", command),
        "model": {**model_card(bundle), "classes": model.backbone.num_classes, "output": list(model.output_shape)},
        "data": _facts(data, tested),
        "settings": {"interval": interval_name(1), "reference": None if reference is None else reference.name},
        "rows": rows,
    }


def _facts(data: Path, tested: EvaluatedPart) -> dict[str, Any]:
    images = tested.images
    facts = {"name": data.resolve().name, "images": len(images), "classes": len(images.class_names)}
    return {**facts, "part": tested.part, "trained": tested.trained}


def _reference(path: Path, bundle: Bundle) -> Bundle:
    truth = load_bundle(path)
    found, expected = truth.golden.full.shape[1:], bundle.golden.full.shape[1:]
    if found != expected:
        raise DataError(
            f"{path} gives outputs {list(found)}, the bundle to be evaluated {list(expected)}: a reference must be the "
            "model that it was trained from."
        )
    return truth


def _full(truth: Bundle, images: ImageList, progress: Progress, batch: int) -> torch.Tensor:
    dataset = ImageDataset(images, truth.preprocessing, progress)
    return full_outputs(model_from_bundle(truth), dataset, progress, batch)
