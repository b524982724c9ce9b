"""trained_vit.json: the whole method on trained weights, a ViT-S/14 of the DINOv2 shape, with Fashion-MNIST.

``python -m tokfilter.benchmarks trained-vit WORK`` reads the weights from a wheel (see ``pretrained_vit.py``), fits a
linear head to frozen features, labels images with delta loss, trains filters, and measures top-1 at each budget with
baselines: on the frozen backbone, which was never trained with missing tokens, and after a short fine-tuning, the same
for all. Pictures of kept tokens are written to ``docs/``. An interrupted run continues; in all it takes about half an
hour of one core.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress as Bar

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish
from tokfilter.benchmarks.records.paths import DOCS, RESULTS
from tokfilter.benchmarks.study.baseline_models import Row, macs_of_row, model_of, own_budgets
from tokfilter.benchmarks.study.trained_vit_pictures import write_pictures
from tokfilter.benchmarks.study.trained_vit_start import ARCHITECTURE, Sizes, images_of, trained_bundle
from tokfilter.benchmarks.study.trained_vit_tuning import TUNED, TUNING, tuned_model
from tokfilter.benchmarks.study.wheels import wheels_option
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.train.data import ImageList, Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.evaluation import wilson
from tokfilter.train.filter_training import Objective
from tokfilter.train.label_store import LabelStore
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle

__all__ = ["BUDGETS", "METHODS", "RESULT", "measure"]

RESULT: Final = RESULTS / "trained_vit.json"
BUDGETS: Final = (1.0, 0.7, 0.5, 0.35, 0.25)
FILTERS: Final[dict[str, Objective]] = {"filter": "threshold", "regression": "regression", "ranking": "ranking"}
"""Row name of a filter -> its training objective."""

METHODS: Final = ("full", "filter", "random", "centre", "norm", "evit", "tome", "regression", "ranking")


def measure(folder: Path, wheels: Path, progress: Progress, sizes: Sizes | None = None) -> dict[str, Any]:
    """All measurements, without the pictures. Returns the document; writes ``folder/filter.pt``. Raises DataError."""
    sizes = sizes or Sizes()
    images = images_of(folder / "data", sizes, progress)
    bundles = {name: _bundle(name, folder, images, wheels, progress) for name in FILTERS}
    bundle = bundles["filter"]
    tests = ImageDataset(images["test"], bundle.preprocessing, progress)
    frozen, tuned = folder / "answers", folder / "tuned-answers"
    correct = {
        method: _predictions(
            partial(_model, method, bundles.get(method, bundle)), method, bundle, tests, frozen, progress
        )
        for method in METHODS
    }
    rows = [row for method in METHODS for row in _rows(method, bundle, correct[method], correct["filter"], False)]
    correct = {
        method: _predictions(
            partial(tuned_model, method, bundle, images["tuned"], folder / "tuned", progress),
            method,
            bundle,
            tests,
            tuned,
            progress,
        )
        for method in TUNED
    }
    rows += [row for method in TUNED for row in _rows(method, bundle, correct[method], correct["filter"], True)]
    settings = {
        **asdict(sizes),
        "interval": "Wilson, 95 %, for one model on these images",
        "filter_ahead": "images that only the filter gets right, and that only this row gets right",
        "fine_tuning": asdict(TUNING),
    }
    return {
        "model": _model_facts(bundle),
        "data": {"name": "Fashion-MNIST", "images": len(tests), "classes": 10},
        "settings": settings,
        "labels": _label_facts(bundle, folder),
        "rows": rows,
    }


def _model_facts(bundle: Bundle) -> dict[str, Any]:
    num_patches = model_from_bundle(bundle).num_patches
    return {"architecture": ARCHITECTURE.name, **ARCHITECTURE.kwargs, "patches": num_patches}


def _bundle(name: str, folder: Path, images: Mapping[str, ImageList], wheels: Path, progress: Progress) -> Bundle:
    path = folder / f"{name}.pt"
    if not path.is_file():
        save_bundle(trained_bundle(folder, images, wheels, FILTERS[name], progress), path)
    return load_bundle(path)


def _predictions(
    make: Callable[[], Any], method: str, bundle: Bundle, tests: ImageDataset, folder: Path, progress: Progress
) -> dict[int, Any]:
    """Budget of the filter -> whether each test image is classified correctly. Stored in ``folder``.

    make: gives the model
    """
    kept = folder / f"{method}.json"
    if kept.is_file():
        return {int(k): np.array(right) for k, right in json.loads(kept.read_text(encoding="utf-8")).items()}
    model = make()
    budgets = [tokens_from_keep(keep, model.num_patches) for keep in BUDGETS]
    own, _ = own_budgets(method, model, bundle, budgets)
    found = {k: _correct(model, budget, tests, progress) for k, budget in own.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(kept, {str(k): right.astype(int).tolist() for k, right in found.items()})
    return found


def _model(method: str, bundle: Bundle) -> Any:
    return model_of("filter" if method in FILTERS else method, bundle)


@torch.inference_mode()
def _correct(model: Any, tokens: int, tests: ImageDataset, progress: Progress) -> Any:
    parts = []
    for done, batch in enumerate(tests.in_order(50)):
        parts.append(model(tests.normalised(batch.images), tokens).argmax(1) == batch.labels)
        progress(f"{type(model).__name__}, {tokens} tokens", done * 50 / len(tests))
    return torch.cat(parts).numpy()


def _rows(
    method: str, bundle: Bundle, correct: dict[int, Any], filtered: dict[int, Any], tuned: bool
) -> list[dict[str, Any]]:
    model = _model(method, bundle)
    own, _ = own_budgets(method, model, bundle, list(correct))
    rows = []
    for tokens, right in sorted(correct.items(), reverse=True):
        low, high = wilson(int(right.sum()), len(right))
        row = {
            "method": method,
            "fine_tuned": tuned,
            "tokens": tokens,
            "keep": tokens / model.num_patches,
            "macs": macs_of_row(Row(method, own[tokens]), model, bundle),
            "correct": int(right.sum()),
            "top1": float(right.mean()),
            "low": low,
            "high": high,
        }
        if tokens in filtered and method != "filter":
            ours = filtered[tokens].astype(bool)
            row["filter_ahead"] = [int((ours & ~right.astype(bool)).sum()), int((~ours & right.astype(bool)).sum())]
        rows.append(row)
    return rows


def _label_facts(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Statistics of the delta-loss labels."""
    delta = LabelStore(folder / "labels").read().delta
    record = bundle.training["filter"]
    return {
        "images": len(delta),
        "rho": record["rho"],
        "median": float(delta.median()),
        "largest": float(delta.max()),
        "share_below_zero": float((delta < 0).float().mean()),
    }


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@wheels_option
@output_option(RESULT)
@json_option
def main(work: Path, wheels: Path, output: Path, as_json: bool) -> None:
    """Run the method on a trained ViT-S/14 with Fashion-MNIST, half an hour of one core.

    Data, labels and models go to the folder WORK, pictures of kept tokens to docs/ of the
    checkout, else to WORK. An interrupted run continues.
    """
    with Bar(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("study", total=1.0)
        document = measure(work, wheels, lambda what, fraction: bar.update(task, description=what, completed=fraction))
    document = {**header("trained-vit", command_line()), **document}
    publish(document, output, as_json, map(_line, document["rows"]))
    pictures = DOCS if DOCS.is_dir() else work
    for path in write_pictures(load_bundle(work / "filter.pt"), work / "data" / "test", wheels, pictures):
        click.echo(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB", err=True)


def _line(row: dict[str, Any]) -> str:
    state = "fine-tuned" if row["fine_tuned"] else "frozen"
    return (
        f"{row['method']:10} {state:10} {row['tokens']:3} tokens  top-1 {row['top1']:.1%} "
        f"({row['low']:.1%} to {row['high']:.1%})"
    )
