"""label_methods.json: agreement of the cheaper label methods with exact labels, and their speed.

    python -m tokfilter.benchmarks label-methods model.pt DATA --images 256 -o label_methods.json

Every batch is labelled by all methods in turn, so that other load on the machine affects all of them equally.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import torch
from scipy.stats import spearmanr
from torch import Tensor

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import Interval, speedup_from_pairs
from tokfilter.train.data import checked, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.labels import LabelConfig, LabelPrecision, delta_loss
from tokfilter.train.loop import generator_from
from tokfilter.train.masking import MaskConfig
from tokfilter.train.token_sets import Grouping, groups_of_tokens
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.model import FilteredViT

__all__ = ["BUDGETS", "compare_methods", "document_from_methods", "main", "methods", "rank_correlation", "top_overlap"]

BUDGETS: Final[tuple[Keep, ...]] = (0.7, 0.5, 0.35, 0.25)
EXACT: Final = "exact"

_HALVES: Final[tuple[LabelPrecision, ...]] = ("bf16", "fp16")


def methods(mask: MaskConfig | None = None) -> dict[str, LabelConfig]:
    """Name -> settings of the compared methods. First-order labels do not exist for the mask ``removed``."""
    mask = mask or MaskConfig()
    found = {EXACT: LabelConfig(mask), **{f"exact, {half}": LabelConfig(mask, precision=half) for half in _HALVES}}
    if mask.value != "removed":
        found["first-order"] = LabelConfig(mask, method="first-order")
    for groups in (
        Grouping("block", 4, 2),
        Grouping("block", 4, 1),
        Grouping("random", 4, 2),
        Grouping("random", 4, 1),
    ):
        name = f"{groups.shape} groups of {groups.size}, {groups.rounds} round{'s' if groups.rounds > 1 else ''}"
        found[name] = LabelConfig(mask, method="grouped", groups=groups)
    return found


def compare_methods(
    model: FilteredViT,
    dataset: ImageDataset,
    configs: Mapping[str, LabelConfig] | None = None,
    batch: int = 32,
    chunk: int = 256,
    budgets: Sequence[Keep] = BUDGETS,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> list[dict[str, Any]]:
    """Label every image by every method. Returns one row per method, the exact one first; see the schema.

    Raises DataError if a method does not support the model or the mask.
    """
    configs = configs or methods()
    model.eval()
    _label(model, dataset, next(dataset.in_order(min(batch, 4))), configs, chunk)  # warm-up, untimed
    found: dict[str, list[Tensor]] = {name: [] for name in configs}
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for done, part in enumerate(dataset.in_order(batch)):
        progress("labelling by every method", done * batch / len(dataset))
        for name, (delta, took) in _label(model, dataset, part, configs, chunk).items():
            found[name].append(delta)
            seconds[name].append(took)
    labels = {name: torch.cat(parts) for name, parts in found.items()}
    return [_row(model, name, configs[name], labels, seconds, budgets) for name in configs]


def document_from_methods(
    model: FilteredViT,
    dataset: ImageDataset,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    mask: MaskConfig,
    command: str,
) -> dict[str, Any]:
    """The document (``schemas/label_methods.json``).

    name: of the data set
    """
    return {
        **header("label-methods", command),
        "model": {
            "architecture": type(model.backbone).__name__,
            "patches": model.num_patches,
            "channels": model.channels,
        },
        "data": {"name": name, "images": len(dataset), "digest": dataset.images.digest()},
        "settings": {"mask": asdict(mask), "threads": torch.get_num_threads()},
        "rows": list(rows),
    }


def rank_correlation(labels: Tensor, exact: Tensor) -> Interval:
    """Spearman's rank correlation per image: mean over the images with a normal interval at 95 %.

    labels, exact: [n, N]; an image with constant labels counts as 0
    """
    pairs = zip(labels.numpy(), exact.numpy(), strict=True)
    values = torch.tensor([_spearman(one, other) for one, other in pairs], dtype=torch.float64)
    mean, half = float(values.mean()), 1.96 * float(values.std(correction=0)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def top_overlap(labels: Tensor, exact: Tensor, tokens: int) -> float:
    """Fraction of the top ``tokens`` tokens by exact labels that are also top by ``labels``; mean over the images."""
    chosen = torch.zeros(exact.shape, dtype=torch.bool).scatter(1, exact.topk(tokens).indices, True)
    return float(chosen.gather(1, labels.topk(tokens).indices).float().mean())


def _label(
    model: FilteredViT, dataset: ImageDataset, part: Any, configs: Mapping[str, LabelConfig], chunk: int
) -> dict[str, tuple[Tensor, float]]:
    device = next(model.parameters()).device
    images, labels = dataset.normalised(part.images, device), part.labels.to(device)
    found = {}
    for name, config in configs.items():
        begun = perf_counter()
        delta = delta_loss(model, images, labels, config, chunk, part.positions)[0].cpu()
        found[name] = (delta, perf_counter() - begun)
    return found


def _row(
    model: FilteredViT,
    name: str,
    config: LabelConfig,
    labels: Mapping[str, Tensor],
    seconds: Mapping[str, Sequence[float]],
    budgets: Sequence[Keep],
) -> dict[str, Any]:
    delta, exact = labels[name], labels[EXACT]
    counts = [tokens_from_keep(keep, model.num_patches) for keep in budgets]
    return {
        "name": name,
        "method": config.method,
        "groups": asdict(config.groups) if config.method == "grouped" else None,
        "precision": config.precision,
        "passes": _passes(model, config),
        "spearman": asdict(rank_correlation(delta, exact)),
        "overlap": [
            {"tokens": k, "shared": top_overlap(delta, exact, k), "chance": k / model.num_patches} for k in counts
        ],
        "images_per_s": len(delta) / sum(seconds[name]),
        "speedup": asdict(speedup_from_pairs(seconds[EXACT], seconds[name])),
        "accuracy": None,
    }


def _passes(model: FilteredViT, config: LabelConfig) -> int:
    """Forward passes per image; a backward pass counts as two forward passes."""
    if config.method == "first-order":
        return 3
    if config.method == EXACT:
        return model.num_patches + 1
    return groups_of_tokens(model.grid, config.groups, torch.zeros(1)).shape[1] + 1


def _spearman(one: Any, other: Any) -> float:
    if one.min() == one.max() or other.min() == other.max():
        return 0.0
    return float(spearmanr(one, other).statistic)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="Random training images.")
@click.option("--mask", type=click.Choice(["zero", "mean", "removed"]), default="zero", show_default=True)
@click.option("--name", help="Name of the data set. Default: its folder's name.")
@threads_option(None, "Of PyTorch. Default: its own choice.")
@output_option("label_methods.json")
@json_option
def main(
    bundle: Path,
    data: Path,
    images: int,
    mask: Any,
    name: str | None,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Compare label methods with the model BUNDLE (model.pt) on training images of the folder DATA."""
    if threads is not None:
        torch.set_num_threads(threads)
    content = load_bundle(bundle)
    model, chosen = model_from_bundle(content), MaskConfig(mask)
    train = splits_from_folder(data, content.class_names or None).train
    order = torch.randperm(len(train), generator=generator_from("label methods"))[:images]
    part = checked(
        train.subset(sorted(order.tolist())), lambda stage, fraction: None, lambda text: click.echo(text, err=True)
    )
    dataset = ImageDataset(part, content.preprocessing)
    rows = compare_methods(model, dataset, methods(chosen))
    document = document_from_methods(model, dataset, rows, name or data.name, chosen, command_line())
    lines = (
        f"{row['name']:34} rank correlation {row['spearman']['value']:.3f}  {row['images_per_s']:8.1f} images/s  "
        f"{row['speedup']['value']:.1f} times the exact labels' speed"
        for row in rows
    )
    publish(document, output, as_json, lines)
