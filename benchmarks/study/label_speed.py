"""label_speed.json: masked variants per second against the images per second of the plain backbone.

    python -m tokfilter.benchmarks label-speed --model deit_tiny_patch16_224 --model fashion-mnist --batch 64

A model is timm's, or that of a study's task (``tasks.py``). Both run in one process with the same threads, precision
and batch size, in turn: plain, labels, plain, labels... The plain backbone runs in inference mode without the filter.
Weights are random; trained weights take the same time. Before they are timed, the labels are compared with labels of
single forward passes. The time of the labels includes embedding and unmasked loss.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import torch
from torch import Tensor

from tokfilter.artifacts.bundle import Architecture
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.tasks import TASKS
from tokfilter.errors import VerificationError
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import speedup_from_pairs
from tokfilter.train.labels import LabelConfig, LabelPrecision, autocast_from_precision, delta_loss
from tokfilter.train.masking import MaskConfig
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT

__all__ = ["GOAL", "RESULT", "measure"]

RESULT: Final = RESULTS / "label_speed.json"
GOAL: Final = 0.95

_TOLERANCES: Final[dict[LabelPrecision, float]] = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.1}
"""In nats: the order of sums depends on the batch size. The loss with random weights is about 7."""


def measure(
    architecture: Architecture,
    batch: int,
    images: int | None,
    rounds: int,
    mask: MaskConfig,
    precision: LabelPrecision = "fp32",
) -> dict[str, Any]:
    """One row of the document.

    batch: images of the plain backbone, and variants of the labels, per forward pass
    images: labelled per round; None is as many as give 12 batches of variants. The plain backbone gets as many images
        as there are variants, in whole batches
    Raises UnsupportedModelError, VerificationError.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain: Any = create_backbone(architecture).to(device).eval()
    model = FilteredViT(create_backbone(architecture)).to(device).eval()
    size = plain.patch_embed.img_size
    images = images or max(1, round(12 * batch / model.num_patches))
    pixels, few = torch.randn(batch, 3, *size, device=device), torch.randn(images, 3, *size, device=device)
    config = LabelConfig(mask, precision=precision)
    difference = _difference(model, few[:1], config, batch)
    with torch.inference_mode():
        seconds = _pairs(plain, pixels, model, few, config, rounds)
    ratio = speedup_from_pairs(seconds["plain"], seconds["labels"])
    middle = {name: sorted(values)[rounds // 2] for name, values in seconds.items()}
    return {
        "architecture": {"name": architecture.name, **architecture.kwargs},
        "patches": model.num_patches,
        "mask": asdict(mask),
        "precision": precision,
        "device": device,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "images_per_round": images,
        "difference": difference,
        "rounds": rounds,
        "images_per_s": 1 / middle["plain"],
        "variants_per_s": 1 / middle["labels"],
        "ratio": asdict(ratio),
        "goal": GOAL,
        "reached": ratio.value >= GOAL,
    }


def _difference(model: FilteredViT, image: Tensor, config: LabelConfig, chunk: int) -> float:
    """Largest difference of labels in chunks from labels by one forward pass per token. Raises VerificationError."""
    chunked, single = (delta_loss(model, image, _classes(image), config, size)[0] for size in (chunk, 1))
    difference = float((chunked - single).abs().max())
    if difference > _TOLERANCES[config.precision]:
        raise VerificationError(
            f"labels in chunks of {chunk} differ by {difference:.2g} from labels one by one, so they are not timed."
        )
    return difference


def _pairs(
    plain: Any, pixels: Tensor, model: FilteredViT, few: Tensor, config: LabelConfig, rounds: int
) -> dict[str, list[float]]:
    """Seconds per image of the plain backbone and per variant of the labels, round by round."""
    batch, variants, classes = len(pixels), len(few) * model.num_patches, _classes(few)
    passes = max(1, round(variants / batch))
    seconds: dict[str, list[float]] = {"plain": [], "labels": []}

    def run_plain(times: int) -> None:
        with autocast_from_precision(config.precision, pixels.device):
            for _ in range(times):
                plain(pixels)

    run_plain(1)  # warm-up, untimed; the labels were run by the comparison
    for _ in range(rounds):
        seconds["plain"].append(_timed(lambda: run_plain(passes)) / (passes * batch))
        seconds["labels"].append(_timed(lambda: delta_loss(model, few, classes, config, batch)) / variants)
    return seconds


def _classes(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.long, device=images.device)


def _architecture(name: str) -> Architecture:
    return TASKS[name].architecture if name in TASKS else Architecture(name)


def _timed(call: Callable[[], Any]) -> float:
    begun = perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - begun


@click.command()
@click.option(
    "--model",
    multiple=True,
    default=("deit_tiny_patch16_224",),
    show_default=True,
    help="Name in timm, or a task of the study. Repeatable.",
)
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--images", type=click.IntRange(min=1), help="Images labelled per round. Default: as many as give 12 batches."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--mask", type=click.Choice(["zero", "mean", "removed"]), default="zero", show_default=True)
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default=("fp32",), multiple=True, help="Repeatable."
)
@threads_option(None, "Of PyTorch. Default: its own choice.")
@output_option(RESULT)
@json_option
def main(
    model: tuple[str, ...],
    batch: int,
    images: int | None,
    rounds: int,
    mask: Any,
    precision: Any,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Measure the speed of delta-loss labels against the plain backbone. Exit code 1 below the goal."""
    if threads is not None:
        torch.set_num_threads(threads)
    before = conditions()
    rows = [
        {"model": name, **measure(_architecture(name), batch, images, rounds, MaskConfig(mask), number)}
        for name in model
        for number in precision
    ]
    state = {"before": before, "after": conditions()}
    document = {**header("label-speed", command_line()), "conditions": state, "rows": rows}
    publish(document, output, as_json, map(_line, rows))
    sys.exit(0 if all(row["reached"] for row in rows) else 1)


def _line(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    return (
        f"{row['model']}, {row['precision']}: {row['variants_per_s']:.1f} variants/s, "
        f"plain {row['images_per_s']:.1f} images/s, "
        f"ratio {ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
    )
