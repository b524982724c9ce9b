"""accuracy.json: top-1 of the filter and of its rivals at the same budgets, after the same fine-tuning.

Every method begins with the same backbone and gets the same steps, data order, budgets and learning rate; only what
chooses the tokens differs. ``python -m tokfilter.benchmarks.accuracy WORK --seeds 0,1,2`` runs the study on
digits-in-scenes; each seed's rows are kept, so an interrupted study goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress as Bar

from tokfilter.backbone import Architecture, create_backbone
from tokfilter.benchmarks.record import header, write_json
from tokfilter.budget import Keep
from tokfilter.bundle import Bundle, load_bundle, model_from_bundle, save_bundle
from tokfilter.macs import macs
from tokfilter.model import FilterConfig, FilteredViT
from tokfilter.train.data import Progress, Splits, checked, images_from_folder, splits_from_folder
from tokfilter.train.evaluation import Accuracy, evaluate, wilson
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning, train_elastic
from tokfilter.train.loop import Plan, Work, load_plain
from tokfilter.train.pipeline import Recipe, bundle_from_start
from tokfilter.train.rivals import RIVALS, LowResolution, grid_from_tokens, rival_from_weights
from tokfilter.train.scenes import write_scenes
from tokfilter.train.start import start_from_timm
from tokfilter.train.views import Views

__all__ = ["ARCHITECTURE", "BUDGETS", "Study", "demo_study", "document_from_bundle", "run"]

BUDGETS: Final[tuple[Keep, ...]] = (1.0, 0.5, 0.35, 0.25, 0.15)
ARCHITECTURE: Final = Architecture(
    "vit_tiny_patch16_224", {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2}
)


@dataclass(frozen=True)
class Study:
    """How much work one seed is. Counts of images and of steps of 32 images; the defaults are the demo's."""

    train: int = 8000
    test: int = 2000
    backbone_steps: int = 2500
    labelled: int = 2000
    filter_steps: int = 400
    finetune_steps: int = 400

    def recipe(self, seed: int) -> Recipe:
        """The stages with their settings."""
        return Recipe(
            keep=0.25,
            seed=seed,
            label_limit=self.labelled,
            filter_config=FilterConfig(width=32),  # 1.3 % of the full model's multiply-accumulates
            backbone=FineTuning(Plan(self.backbone_steps, batch=32, lr=1e-3)),
            filter=FilterTraining(Plan(self.filter_steps, batch=64, lr=2e-3, weight_decay=0.01)),
            finetune=FineTuning(Plan(self.finetune_steps, batch=32, lr=3e-4)),
        )


def demo_study(folder: Path, seed: int, progress: Progress, study: Study | None = None) -> dict[str, Any]:
    """One seed from nothing: ``folder/data``, ``folder/model.pt`` and ``folder/accuracy.json``, whose value it returns.

    Stages that an interrupted call finished are not done again.
    """
    rows, bundle = _one_seed(folder, seed, study or Study(), progress)
    document = _document(bundle, [rows], [seed], study or Study(), f"demo, seed {seed}")
    write_json(folder / "accuracy.json", document)
    return document


def run(folder: Path, seeds: Sequence[int], progress: Progress, study: Study | None = None) -> dict[str, Any]:
    """The study with several seeds: data, backbone, labels, filter and rivals anew for each. Writes accuracy.json."""
    found = [_one_seed(folder / f"seed-{seed}", seed, study or Study(), progress) for seed in seeds]
    command = f"python -m tokfilter.benchmarks.accuracy --seeds {','.join(map(str, seeds))}"
    document = _document(found[0][1], [rows for rows, _ in found], seeds, study or Study(), command)
    write_json(folder / "accuracy.json", document)
    return document


def document_from_bundle(
    path: Path, data: Path, keeps: Sequence[Keep], batch: int, command: str, progress: Progress,
    report: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """accuracy.json of one bundle on the test images of a folder. Raises BundleError, DataError, BudgetError."""
    bundle = load_bundle(path)
    names = bundle.class_names or None
    divided = any((data / name).is_dir() for name in ("train", "training")) and "train" not in (names or ())
    listed = splits_from_folder(data, names).test if divided else images_from_folder(data, names)
    images = checked(listed, progress, report)
    model = model_from_bundle(bundle)
    found = evaluate(model, Views(images, bundle.preprocessing, progress), [1.0, *keeps], progress, batch)
    rows = [
        _row(
            "full" if a.tokens == model.patches else "filter",
            a.tokens,
            macs(model, a.tokens),
            [asdict(a)],
            model.patches,
        )
        for a in found
    ]
    facts = {"name": data.name, "images": len(images), "classes": len(images.class_names)}
    settings = {"seeds": [], "interval": "Wilson, 95 %, for one model on these images"}
    return {**header("accuracy", command), "model": _card(bundle), "data": facts, "settings": settings, "rows": rows}


Rows = list[dict[str, Any]]

_VERSION: Final = 2  # of rows.json
_BEFORE: Final = "full_before_fine_tuning"
"""Top-1 of the backbone that every method begins with. Elastic fine-tuning costs the full model a little, so a drop
that is measured against row ``full`` alone would flatter the filter."""


def _one_seed(folder: Path, seed: int, study: Study, progress: Progress) -> tuple[Rows, Bundle]:
    """Rows of every method at every budget: method, tokens, macs, correct, images."""
    kept, identity = folder / "rows.json", json.dumps([_VERSION, seed, asdict(study), list(BUDGETS)])
    if kept.is_file() and (content := json.loads(kept.read_text(encoding="utf-8")))["identity"] == identity:
        return content["rows"], load_bundle(folder / "model.pt")
    data = folder / "data"
    if not (data / "complete").is_file():
        write_scenes(data, seed, study.train, study.test, progress=progress)
        (data / "complete").touch()
    splits = splits_from_folder(data)
    work = Work(folder / "work", resume=True, progress=progress)
    recipe = study.recipe(seed)
    options = {"crop_pct": 1.0}
    start = start_from_timm(ARCHITECTURE, 10, seed=seed, preprocessing=options)
    bundle = bundle_from_start(start, splits, recipe, work, keeps=BUDGETS)
    save_bundle(bundle, folder / "model.pt")
    rows = _filter_rows(bundle) + _rival_rows(bundle, splits, recipe, work)
    write_json(kept, {"identity": identity, "rows": rows})
    return rows, bundle


def _filter_rows(bundle: Bundle) -> Rows:
    model = model_from_bundle(bundle)
    return [
        {"method": "full" if a["tokens"] == model.patches else "filter", **a, "macs": macs(model, a["tokens"])}
        for a in bundle.training["accuracy"]
    ]


def _rival_rows(bundle: Bundle, splits: Splits, recipe: Recipe, work: Work) -> Rows:
    views, tests = (Views(part, bundle.preprocessing, work.progress) for part in (splits.train, splits.test))
    rows: Rows = []
    assert work.folder is not None
    weights = load_plain(work.folder / "backbone.checkpoint.pt")["weights"]
    prefix = "backbone."
    start = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix) and ".patch_drop." not in n}
    unchanged = rival_from_weights("norm", bundle.architecture, start, recipe.seed)
    rows.append({"method": _BEFORE, **asdict(evaluate(unchanged, tests, [1.0], work.progress)[0]), "macs": 0})
    for name in RIVALS:
        rival = rival_from_weights(name, bundle.architecture, start, recipe.seed)
        train_elastic(rival, views, recipe.finetune, recipe.seed, work, name=f"rival-{name}")
        for found in evaluate(rival, tests, [keep for keep in BUDGETS if keep != 1.0], work.progress, seed=recipe.seed):
            rows.append({"method": name, **asdict(found), "macs": _rival_macs(rival, bundle, found)})
    return rows


def _rival_macs(rival: Any, bundle: Bundle, found: Accuracy) -> int:
    if isinstance(rival, FilteredViT):
        return macs(rival, found.tokens)
    assert isinstance(rival, LowResolution)
    grid = grid_from_tokens(found.tokens, rival.grid)
    size = tuple(side * patch for side, patch in zip(grid, rival.patch, strict=True))
    smaller = Architecture(bundle.architecture.name, {**bundle.architecture.kwargs, "img_size": size})
    return macs(FilteredViT(create_backbone(smaller)), 1.0)


def _document(
    bundle: Bundle, per_seed: Sequence[Rows], seeds: Sequence[int], study: Study, command: str
) -> dict[str, Any]:
    before = [row["top1"] for rows in per_seed for row in rows if row["method"] == _BEFORE]
    per_seed = [[row for row in rows if row["method"] != _BEFORE] for rows in per_seed]
    cells = [(row["method"], row["tokens"], row["macs"]) for row in per_seed[0]]
    found = [[r for rows in per_seed for r in rows if (r["method"], r["tokens"]) == cell[:2]] for cell in cells]
    patches = model_from_bundle(bundle).patches
    rows = [_row(*cell, members, patches) for cell, members in zip(cells, found, strict=True)]
    interval = "min to max over seeds" if len(seeds) > 1 else "Wilson, 95 %, for one model on these images"
    settings = {"seeds": list(seeds), "interval": interval, _BEFORE: before, **asdict(study)}
    data = {"name": "digits-in-scenes", "images": study.test, "classes": 10}
    return {**header("accuracy", command), "model": _card(bundle), "data": data, "settings": settings, "rows": rows}


def _row(method: str, tokens: int, count: int, members: Sequence[Mapping[str, Any]], patches: int) -> dict[str, Any]:
    top1 = [member["top1"] for member in members]
    low, high = (min(top1), max(top1)) if len(top1) > 1 else wilson(members[0]["correct"], members[0]["images"])
    mean = sum(top1) / len(top1)
    return {
        "method": method, "keep": tokens / patches, "tokens": tokens, "macs": count,
        "top1": top1, "mean": mean, "low": low, "high": high,
    }  # fmt: skip


def _card(bundle: Bundle) -> dict[str, Any]:
    model = model_from_bundle(bundle)
    return {
        "architecture": bundle.architecture.name,
        "input_size": list(bundle.preprocessing.input_size),
        "patches": model.patches,
        "prefix_tokens": model.prefix_tokens,
        "classes": model.backbone.num_classes,
    }


def main() -> None:
    """Command line of the study."""
    parser = argparse.ArgumentParser(description="Accuracy of the filter and its rivals on digits-in-scenes.")
    parser.add_argument("folder", type=Path, help="where data, models and accuracy.json go")
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    with Bar(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("study", total=1.0)
        seeds = [int(seed) for seed in asked.seeds.split(",")]
        run(asked.folder, seeds, lambda what, share: bar.update(task, description=what, completed=share))


if __name__ == "__main__":
    main()
