"""label_selection.json: how little the output changes when the tokens that labels put first are kept.

    python -m tokfilter.benchmarks label-selection model.pt DATA --images 300 -o label_selection.json

No filter is trained: the labels of an image choose its own tokens, so a row is what a filter could reach that
predicts these labels perfectly, on the frozen backbone. The loss of all labels is the divergence from the full model's
class distribution (``kl``), which no class label enters, and so does the comparison.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import click
import torch
from torch import Tensor

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import Progress, quiet, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.image_loss import output_distance
from tokfilter.train.labels import LabelConfig, delta_loss
from tokfilter.train.loop import generator_from
from tokfilter.train.masking import MaskConfig
from tokfilter.train.token_sets import GroupEstimate, Grouping, groups_of_tokens
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.model import FilteredViT

__all__ = ["label_configs", "main", "measure"]

BUDGETS: Final[tuple[Keep, ...]] = (0.7, 0.5, 0.35, 0.25)
_BATCH: Final = 50


def label_configs(patches: int) -> dict[str, LabelConfig]:
    """Name -> settings. Groups have at most as many passes as exact labels."""
    configs = {"exact, zero": LabelConfig(loss="kl"), "exact, removed": LabelConfig(MaskConfig("removed"), loss="kl")}
    for part, name in ((4, "quarter"), (2, "half")):
        size = max(2, patches // part)
        rounds = patches // math.ceil(patches / size)
        for estimate in get_args(GroupEstimate):
            groups = Grouping("random", size, rounds, estimate)
            configs[f"{name} removed, {estimate}"] = LabelConfig(
                MaskConfig("removed"), method="grouped", groups=groups, loss="kl"
            )
    return configs


def measure(model: FilteredViT, dataset: ImageDataset, progress: Progress = quiet) -> list[dict[str, Any]]:
    """One row for each method: passes per image, and for each budget divergence (nats) and agreement."""
    model.eval()
    configs = label_configs(model.num_patches)
    counts = [tokens_from_keep(keep, model.num_patches) for keep in BUDGETS]
    found: dict[str, dict[int, list[Tensor]]] = {name: {k: [] for k in counts} for name in configs}
    for done, batch in enumerate(dataset.in_order(_BATCH)):
        images = dataset.normalised(batch.images)
        for at, (name, config) in enumerate(configs.items()):
            progress(name, (done + at / len(configs)) * _BATCH / len(dataset))
            delta, _ = delta_loss(model, images, batch.labels, config, positions=batch.positions)
            for k in counts:
                found[name][k].append(_changes(model, images, delta, k))
    return [_row(model, name, configs[name], found[name]) for name in configs]


@torch.inference_mode()
def _changes(model: FilteredViT, images: Tensor, labels: Tensor, tokens: int) -> Tensor:
    """Divergence and agreement [2, B] of the model with the tokens whose labels [B, N] are highest."""
    embedded, prefix = model.embed(images), model.prefix_tokens
    places = labels.topk(tokens, dim=1).indices.sort(dim=1).values
    chosen = embedded[:, prefix:].gather(1, places[..., None].expand(-1, -1, embedded.shape[2]))
    kept = torch.cat([embedded[:, :prefix], chosen], dim=1)
    full = model.classify_tokens(embedded, images)
    logits = model.classify_tokens(kept, images, places.to(torch.int32))
    same = logits.argmax(1) == full.argmax(1)
    return torch.stack([output_distance(logits, full, "kl"), same.float()])


def _row(model: FilteredViT, name: str, config: LabelConfig, found: Mapping[int, Sequence[Tensor]]) -> dict[str, Any]:
    groups = groups_of_tokens(model.grid, config.groups, torch.zeros(1)) if config.method == "grouped" else None
    kept = []
    for tokens, parts in found.items():
        divergence, same = torch.cat(list(parts), dim=1)
        kept.append({"tokens": tokens, "divergence": float(divergence.mean()), "agree": float(same.mean())})
    return {"name": name, "passes": 1 + (model.num_patches if groups is None else groups.shape[1]), "kept": kept}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(min=1), default=300, show_default=True, help="Random training images.")
@click.option("--name", help="Name of the data set. Default: its folder's name.")
@threads_option(None, "Of PyTorch. Default: its own choice.")
@output_option("label_selection.json")
@json_option
def main(
    bundle: Path, data: Path, images: int, name: str | None, threads: int | None, output: Path, as_json: bool
) -> None:
    """Compare labels by what the model BUNDLE (model.pt) does with the tokens they put first, on images of DATA."""
    if threads is not None:
        torch.set_num_threads(threads)
    content = load_bundle(bundle)
    model, train = model_from_bundle(content), splits_from_folder(data, content.class_names or None).train
    order = torch.randperm(len(train), generator=generator_from("label selection"))[:images]
    dataset = ImageDataset(train.subset(sorted(order.tolist())), content.preprocessing)
    rows = measure(model, dataset)
    document = {
        **header("label-selection", command_line()),
        "model": {"architecture": content.architecture.name, "patches": model.num_patches},
        "data": {"name": name or data.name, "images": len(dataset), "digest": dataset.images.digest()},
        "rows": rows,
    }
    publish(document, output, as_json, map(_line, rows))


def _line(row: Mapping[str, Any]) -> str:
    cells = (f"{k['tokens']}: {k['divergence']:.3f} nats, {k['agree']:.1%}" for k in row["kept"])
    return f"{row['name']:26} {row['passes']:3} passes  {'  '.join(cells)}"
