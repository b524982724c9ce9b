"""label_speed.json: masked variants per second against the images per second of the plain backbone.

    python -m tokfilter.benchmarks.label_speed --arch deit_tiny_patch16_224 --batch 64

Both run in one process with the same threads and the same images or variants per forward pass, in turn: plain, labels,
plain, labels... Weights are random, which costs the same time as trained ones.
"""

import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import torch

from tokfilter.backbone import Architecture, create_backbone
from tokfilter.benchmarks.machine import conditions
from tokfilter.benchmarks.record import header, write_json
from tokfilter.benchmarks.statistics import speedup_from_pairs
from tokfilter.model import FilteredViT
from tokfilter.train.labels import LabelConfig, delta_loss
from tokfilter.train.masking import MaskConfig

__all__ = ["GOAL", "RESULTS", "measure"]

RESULTS: Final = Path(__file__).parent / "results" / "label_speed.json"
GOAL: Final = 0.95


def measure(architecture: Architecture, batch: int, images: int, rounds: int, mask: MaskConfig) -> dict[str, Any]:
    """One row of the document.

    batch: images of the plain backbone, and variants of the labels, per forward pass
    images: labelled per round; the plain backbone gets as many images as that makes variants, in whole batches
    Raises UnsupportedModelError.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain: Any = create_backbone(architecture).to(device).eval()
    model = FilteredViT(create_backbone(architecture)).to(device).eval()
    size = plain.patch_embed.img_size
    pixels, few = torch.randn(batch, 3, *size, device=device), torch.randn(images, 3, *size, device=device)
    classes = torch.zeros(images, dtype=torch.long, device=device)
    passes = max(1, round(images * model.patches / batch))
    seconds: dict[str, list[float]] = {"plain": [], "labels": []}
    with torch.inference_mode():
        plain(pixels), delta_loss(model, few[:1], classes[:1], LabelConfig(mask), batch)  # warm up, untimed
        for _ in range(rounds):
            seconds["plain"].append(_timed(lambda: [plain(pixels) for _ in range(passes)]) / (passes * batch))
            took = _timed(lambda: delta_loss(model, few, classes, LabelConfig(mask), batch))
            seconds["labels"].append(took / (images * model.patches))
    ratio = speedup_from_pairs(seconds["plain"], seconds["labels"])
    middle = {name: sorted(values)[rounds // 2] for name, values in seconds.items()}
    return {
        "model": architecture.name,
        "patches": model.patches,
        "mask": asdict(mask),
        "device": device,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "rounds": rounds,
        "images_per_s": 1 / middle["plain"],
        "variants_per_s": 1 / middle["labels"],
        "ratio": asdict(ratio),
        "goal": GOAL,
        "reached": ratio.value >= GOAL,
    }


def _timed(work: Callable[[], Any]) -> float:
    begun = perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - begun


@click.command()
@click.option("--arch", multiple=True, default=("deit_tiny_patch16_224",), show_default=True, help="Repeatable.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=4, show_default=True, help="Labelled per round.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--mask", type=click.Choice(["zero", "mean", "removed"]), default="zero", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(arch: tuple[str, ...], batch: int, images: int, rounds: int, mask: Any, output: Path) -> None:
    """Measure labels against the plain backbone."""
    before = conditions()
    rows = [measure(Architecture(name), batch, images, rounds, MaskConfig(mask)) for name in arch]
    command = f"python -m tokfilter.benchmarks.label_speed {shlex.join(sys.argv[1:])}".strip()
    found = {**header("label-speed", command), "conditions": {"before": before, "after": conditions()}, "rows": rows}
    write_json(output, found)
    for row in rows:
        ratio = row["ratio"]
        click.echo(
            f"{row['model']}: {row['variants_per_s']:.1f} variants/s, plain {row['images_per_s']:.1f} images/s, "
            f"ratio {ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        )
    sys.exit(0 if all(row["reached"] for row in rows) else 1)


if __name__ == "__main__":
    main()
