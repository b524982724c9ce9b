"""accuracy.json: top-1 by method and budget, with intervals over seeds, or over images for a single model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scipy import stats

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.evaluated_part import Choice, part_from_images
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import ImageList, Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.evaluation import CONFIDENCE, evaluate, wilson
from tokfilter.vit.bundle import model_from_bundle
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = [
    "accuracy_of_model",
    "interval_name",
    "mean_and_half_width",
    "model_card",
    "row_from_members",
    "with_rates",
]


def accuracy_of_model(
    bundle: Bundle, model: FilteredViT, listed: tuple[ImageList, bool], name: str, keeps: Sequence[Keep], batch: int,
    command: str, progress: Progress, report: Callable[[str], None], choice: Choice = "held-out",
) -> dict[str, Any]:  # fmt: skip
    """accuracy.json of one bundle and its model on the test images of a folder. Raises DataError, BudgetError.

    listed: of ``evaluated_part.listed_images``
    name: of the data
    choice: held-out leaves out the images that the bundle was trained on
    """
    tested = part_from_images(*listed, bundle.split, choice, progress, report)
    images = tested.images
    found = evaluate(model, ImageDataset(images, bundle.preprocessing, progress), [1.0, *keeps], progress, batch)
    rows = [
        row_from_members(
            "full" if a.tokens == model.num_patches else "filter",
            a.tokens,
            macs(model, a.tokens),
            [asdict(a)],
            model.num_patches,
        )
        for a in found
    ]
    facts = {"name": name, "images": len(images), "classes": len(images.class_names)}
    facts |= {"part": tested.part, "trained": tested.trained}
    settings = {"seeds": [], "interval": interval_name(1)}
    return {
        **header("accuracy", command),
        "model": model_card(bundle),
        "data": facts,
        "settings": settings,
        "rows": rows,
    }


def interval_name(models: int) -> str:
    """Description of ``low`` and ``high`` of a row with so many trained models."""
    if models > 1:
        return f"Student's t over {models} seeds, {CONFIDENCE:.0%}"
    return f"Wilson, {CONFIDENCE:.0%}, for one model on these images"


def row_from_members(
    method: str, tokens: int, count: int, members: Sequence[Mapping[str, Any]], patches: int
) -> dict[str, Any]:
    """One row from the models of every seed: each with top1, correct and images."""
    top1 = [member["top1"] for member in members]
    mean, half = mean_and_half_width(top1)
    if half is None:
        low, high = wilson(members[0]["correct"], members[0]["images"])
    else:
        low, high = max(0.0, mean - half), min(1.0, mean + half)
    return {
        "method": method, "keep": tokens / patches, "tokens": tokens, "macs": count,
        "top1": top1, "mean": mean, "low": low, "high": high,
    }  # fmt: skip


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds, and the half width of its interval (Student's t, 95 %); None for a single seed.

    scipy's ``t.interval`` and ``ttest_1samp`` give NaN where all seeds are equal; this gives a width of 0.
    """
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))


def model_card(bundle: Bundle) -> dict[str, Any]:
    """Description of the model in a document."""
    model = model_from_bundle(bundle)
    return {
        "architecture": bundle.architecture.name,
        "input_size": list(bundle.preprocessing.input_size),
        "patches": model.num_patches,
        "prefix_tokens": model.prefix_tokens,
        "classes": model.backbone.num_classes,
    }


def with_rates(document: Mapping[str, Any], speed: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the images per second of baseline_speed.json, and the speed-up over the full model, in every
    row that was timed there. A row with every token has the rate of the full model."""
    timed: dict[tuple[str, int], dict[str, Any]] = {}
    for row in speed["rows"]:
        timed.setdefault((row["method"], row["tokens"]), {})[row["runtime"]] = row
    patches = document["model"]["patches"]

    def rated(row: Mapping[str, Any]) -> dict[str, Any]:
        budget = row.get("budget", row["tokens"])
        found = timed.get(("full" if budget == patches else row["method"], budget))
        if not found:
            return dict(row)
        rates = {runtime: measured["images_per_s"] for runtime, measured in found.items()}
        speedups = {runtime: measured["speedup"] for runtime, measured in found.items()}
        return {**row, "images_per_s": rates, "speedup": speedups}

    parts = {name: [rated(row) for row in document[name]] for name in ("rows", "curve") if name in document}
    settings = {**document["settings"], "speed": speed["settings"]}
    return {**document, **parts, "settings": settings}
