"""int8_accuracy*.json: top-1 of int8 and fp8 exports against fp32, on the study's sets.

``python -m tokfilter.benchmarks int8-accuracy WORK --demo DEMO`` exports two models with ``--precision int8`` and
``fp8``, calibrated on 500 training images each, and records what the gate measured on 1,000 test images:

* a ViT-S/14 with weights trained by others (``pretrained_vit.py``) and our linear head for Fashion-MNIST. Its filter
  has seeded random weights: which tokens are kept does not matter for the difference between two precisions.
* the model of ``make demo`` with its trained filter, on digits in scenes.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import torch
from safetensors.torch import save_file

from tokfilter.artifacts.bundle import Bundle, FilterConfig
from tokfilter.artifacts.manifest import Manifest
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.trained_vit_start import ARCHITECTURE, PIXELS, Sizes, images_of, weights_with_head
from tokfilter.benchmarks.study.wheels import wheels_option
from tokfilter.export.options import ExportOptions, Precision
from tokfilter.export.pipeline import export_bundle
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import ImageList, Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.start import start_from_timm
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model

__all__ = ["FASHION", "RESULT", "Case", "main", "rows_of"]

RESULT: Final = RESULTS / "int8_accuracy.json"
FASHION: Final = RESULTS / "int8_accuracy_fashion.json"
"""Fashion-MNIST by itself: ``int8-accuracy WORK -o benchmarks/results/int8_accuracy_fashion.json``."""
_PRECISIONS: Final[tuple[Precision, ...]] = ("int8", "fp8")
_KEEPS: Final = (0.7, 0.5)
_OPSET: Final = 19


@dataclass(frozen=True)
class Case:
    """A model with images: for calibration, and to classify."""

    name: str
    bundle: Path
    calibrate: Path
    check: Path


def fashion_case(work: Path, wheels: Path, progress: Progress) -> Case:
    """The trained ViT-S/14 and Fashion-MNIST in ``work``; what is there is not made again. Raises DataError."""
    images = images_of(work / "data", Sizes(), progress)
    weights = work / "start.safetensors"
    if not weights.is_file():
        save_file(weights_with_head(images["head"], wheels, progress), weights)
    bundle = work / "model.pt"
    if not bundle.is_file():
        save_bundle(_bundle(weights, images["test"], progress), bundle)
    return Case("Fashion-MNIST", bundle, work / "data" / "train", work / "data" / "test")


def _bundle(weights: Path, tests: ImageList, progress: Progress) -> Bundle:
    start = start_from_timm(ARCHITECTURE, 10, checkpoint=weights, preprocessing=PIXELS)
    backbone: Any = start.backbone
    torch.manual_seed(0)
    model: Any = FilteredViT(backbone, keep=0.5).eval()
    model.scorer.trained = True  # random on purpose, see above
    dataset = ImageDataset(tests.subset(range(4)), start.preprocessing, progress)
    images = torch.cat([dataset.normalised(batch.images) for batch in dataset.in_order(4)])
    golden = golden_from_model(model, images, list(_KEEPS))
    trained, scorer = weights_from_model(model)
    names = list(tests.class_names)
    return Bundle(start.architecture, trained, FilterConfig(), scorer, 0.5, start.preprocessing, names, golden, {})


def rows_of(case: Case, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """One row per precision and budget."""
    for precision, record in manifest.verification["quantization"].items():
        for row in record["budgets"]:
            yield {
                "model": case.name,
                "architecture": manifest.model.architecture,
                "patches": manifest.model.num_patches,
                "precision": precision,
                "calibration_images": record["calibration_images"],
                "check_images": record["check_images"],
                "layers": record["layers"],
                "in_fp32": record["in_fp32"],
                **row,
            }


def measure(case: Case) -> list[dict[str, Any]]:
    """Export a model in int8 and fp8; raises VerificationError where the gate fails."""
    options = ExportOptions(
        precisions=_PRECISIONS, opset=_OPSET, calibrate=case.calibrate, check_images=case.check, keeps=_KEEPS
    )
    with tempfile.TemporaryDirectory(prefix="tokfilter-int8-") as scratch:
        return list(rows_of(case, export_bundle(case.bundle, Path(scratch) / "out", options)))


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option(
    "--demo",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Also the model that `make demo` left.",
)
@wheels_option
@output_option(RESULT)
@json_option
def main(work: Path | None, demo: Path | None, wheels: Path, output: Path, as_json: bool) -> None:
    """Measure top-1 of int8 and fp8 exports against fp32, ten minutes of two cores.

    The trained ViT-S/14 and Fashion-MNIST go to the folder WORK; without one they are left out.
    """
    if work is None and demo is None:
        raise click.UsageError("give a folder WORK for Fashion-MNIST, --demo DEMO for digits in scenes, or both.")
    cases = [] if work is None else [fashion_case(work, wheels, lambda *_: None)]
    if demo is not None:
        cases.append(Case("digits in scenes", demo / "model.pt", demo / "data" / "train", demo / "data" / "test"))
    rows = [row for case in cases for row in measure(case)]
    publish({**header("int8-accuracy", command_line()), "rows": rows}, output, as_json, map(_line, rows))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['model']:16} {row['precision']} {row['tokens']:3} tokens  fp32 {row['fp32_top1']:.2%}  "
        f"{row['top1']:.2%}  lost {row['drop']:+.2f} ({row['drop_low']:+.2f} to {row['drop_high']:+.2f})"
    )
