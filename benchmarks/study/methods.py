"""The rows of the accuracy study: each method begins with the same backbone and gets the same fine-tuning.

The token filter and its ablations run the product's own stages (``train/pipeline.py``) and differ in one setting each;
the baselines differ in what chooses the tokens.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.study.baseline_models import Row, macs_of_row, rows_of
from tokfilter.benchmarks.study.baselines import REDUCING, RIVALS, baseline_from_weights
from tokfilter.benchmarks.study.setup import Study, Subject
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import write_json
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import Progress, Splits, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.evaluation import evaluate
from tokfilter.train.finetune import train_elastic
from tokfilter.train.label_store import LabelStore
from tokfilter.train.labels import label_images
from tokfilter.train.loop import RunDir
from tokfilter.train.masking import MaskConfig
from tokfilter.train.pipeline import bundle_from_start
from tokfilter.train.stages import labelled_dataset
from tokfilter.train.start import Start, start_from_bundle, start_from_timm
from tokfilter.train.token_sets import Grouping
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle
from tokfilter.vit.macs import macs

__all__ = [
    "ABLATIONS",
    "BEFORE",
    "BEST",
    "FILTER",
    "LONGER",
    "LONG_SPECIALISTS",
    "MAIN",
    "SPECIALISTS",
    "Rows",
    "Setting",
    "rows_from_method",
    "write_data",
]

Rows = list[dict[str, Any]]

FILTER: Final = "filter"
BEFORE: Final = "full_before_fine_tuning"
"""Top-1 of the backbone that every method begins with. Elastic fine-tuning changes the full model too, so a drop that
is measured against row ``full`` alone could flatter the filter."""
DISTILLED: Final = "filter, distilled"
"""Fine-tuning also imitates the logits that the backbone had with every token."""
BEST: Final = "filter, distilled, with summary"
"""Our best variant: the class token is told of the whole image, too (``summary.py``)."""
SPECIALISTS: Final = "one checkpoint per budget"

MAIN: Final = (BEFORE, FILTER, DISTILLED, BEST, *RIVALS, *REDUCING)

_LONGER_RIVALS: Final = {
    "longer: token merging": "tome",
    "longer: centre tokens": "centre",
    "longer: largest norm": "norm",
}
LONGER: Final = ("longer: filter", "longer: filter with summary", *_LONGER_RIVALS)
"""The contenders once more, all distilled, with four times the steps and twice the learning rate."""
LONG_SPECIALISTS: Final = "longer: with summary, one checkpoint per budget"

ABLATIONS: Final[dict[str, Callable[[TrainConfig], TrainConfig]]] = {
    "mask: image's mean": lambda recipe: _labels(recipe, mask=MaskConfig("mean")),
    "mask: token removed": lambda recipe: _labels(recipe, mask=MaskConfig("removed")),
    "mask before the position": lambda recipe: _labels(recipe, mask=MaskConfig("zero", "before")),
    "rho: 5 % important": lambda recipe: _labels(recipe, fraction=0.05),
    "rho: 40 % important": lambda recipe: _labels(recipe, fraction=0.4),
    "labels: first-order": lambda recipe: _labels(recipe, method="first-order"),
    "labels: grouped": lambda recipe: _labels(recipe, method="grouped"),
    "labels: sets of 24 removed": lambda recipe: _labels(
        recipe, method="grouped", groups=Grouping("random", 24, 25), mask=MaskConfig("removed")
    ),
    "objective: regression": lambda recipe: replace(recipe, filter=replace(recipe.filter, objective="regression")),
    "objective: ranking": lambda recipe: replace(recipe, filter=replace(recipe.filter, objective="ranking")),
    "no global feature": lambda recipe: replace(
        recipe, filter_config=replace(recipe.filter_config, global_feature="none")
    ),
    "no fine-tuning": lambda recipe: replace(recipe, stages=("label", "filter")),
}
"""Name -> what it changes in the filter's recipe."""

_VARIANTS: Final[dict[str, Callable[[TrainConfig], TrainConfig]]] = {
    FILTER: lambda recipe: recipe,
    DISTILLED: lambda recipe: _distilled(recipe),
    BEST: lambda recipe: _told(_distilled(recipe)),
    LONGER[0]: lambda recipe: _longer(recipe),
    LONGER[1]: lambda recipe: _told(_longer(recipe)),
    **ABLATIONS,
}


@dataclass(frozen=True)
class Setting:
    """One seed of a subject: its images in ``data``, everything that is made from them in ``folder``."""

    subject: Subject
    study: Study
    seed: int
    data: Path
    folder: Path
    progress: Progress

    @property
    def recipe(self) -> TrainConfig:
        """The filter's recipe, the backbone being there already."""
        return replace(self.study.recipe(self.seed), stages=("label", "filter", "finetune"))

    @cached_property
    def splits(self) -> Splits:
        """The images, written when they are not there. Raises DataError."""
        write_data(self.subject, self.study, self.seed, self.data, self.progress)
        return splits_from_folder(self.data)

    @cached_property
    def datasets(self) -> tuple[ImageDataset, ImageDataset]:
        """Training and test images as the model sees them."""
        train, test = (
            ImageDataset(part, self._new().preprocessing, self.progress)
            for part in (self.splits.train, self.splits.test)
        )
        return train, test

    @property
    def backbone(self) -> Path:
        """A bundle with the backbone that every method begins with, trained when it is not there."""
        path = self.folder / "backbone.pt"
        if not path.is_file():
            recipe = replace(self.study.recipe(self.seed), stages=("backbone",))
            work = self.work("backbone")
            bundle = bundle_from_start(self._new(), self.splits, recipe, work, keeps=[1.0], datasets=self.datasets)
            save_bundle(bundle, path)
        return path

    def work(self, name: str) -> RunDir:
        """Where a method keeps its checkpoints."""
        return RunDir(self.folder / "work" / _slug(name), resume=True, progress=self.progress)

    def _new(self) -> Start:
        classes = len(self.splits.train.class_names)
        return start_from_timm(self.subject.architecture, classes, seed=self.seed, preprocessing={"crop_pct": 1.0})


def write_data(subject: Subject, study: Study, seed: int, data: Path, progress: Progress) -> None:
    """Write a subject's images, unless they are there. Raises DataError."""
    if not (data / "complete").is_file():
        subject.write(data, seed, study, progress)
        (data / "complete").touch()


def rows_from_method(setting: Setting, method: str) -> Rows:
    """Method, tokens, macs, correct, images and top1 of one method at every budget that it reaches.

    What an interrupted study found is not measured again. Raises DataError for a folder of another study.
    """
    _claim(setting)
    kept = setting.folder / "rows" / f"{_slug(method)}.json"
    if not kept.is_file():
        write_json(kept, {"rows": [{"method": method, **row} for row in _measured(setting, method)]})
    rows: Rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    return rows


_VERSION: Final = 5  # of what a setting's folder holds


def _claim(setting: Setting) -> None:
    """Write down whose folder it is, or refuse another's."""
    subject = setting.subject
    facts = [_VERSION, subject.name, asdict(subject.architecture), subject.budgets, asdict(setting.study), setting.seed]
    path, mine = setting.folder / "setting.json", json.loads(json.dumps({"setting": facts}))
    if not path.is_file():
        write_json(path, mine)
    elif json.loads(path.read_text(encoding="utf-8")) != mine:
        raise DataError(f"{setting.folder} holds a study of another seed, size or version: give another folder.")


def _measured(setting: Setting, method: str) -> Rows:
    if method == BEFORE:
        return _before(setting)
    if method in (*RIVALS, *REDUCING):
        return _baseline(setting, method, setting.recipe)
    if method in _LONGER_RIVALS:
        return _baseline(setting, _LONGER_RIVALS[method], _longer(setting.recipe))
    if method in (SPECIALISTS, LONG_SPECIALISTS):
        recipe = setting.recipe if method == SPECIALISTS else _told(_longer(setting.recipe))
        return [_specialist(setting, method, recipe, keep) for keep in setting.subject.budgets if keep != 1.0]
    bundle = _filter_bundle(setting, method, _VARIANTS[method](setting.recipe))
    rows = _filter_rows(bundle)
    if method == FILTER:
        save_bundle(bundle, setting.folder / "model.pt")
        return [{**row, "method": "full"} if row["tokens"] == rows[0]["tokens"] else row for row in rows]
    return rows


def _before(setting: Setting) -> Rows:
    bundle = load_bundle(setting.backbone)
    return [{**row, "macs": macs(model_from_bundle(bundle), 1.0)} for row in bundle.training["accuracy"]]


def _filter_bundle(setting: Setting, name: str, recipe: TrainConfig, keeps: tuple[Keep, ...] | None = None) -> Bundle:
    """The product's own stages on the trained backbone; methods whose labels are the same share them."""
    start = start_from_bundle(setting.backbone, setting.splits.train.class_names)
    work = setting.work(name)
    return bundle_from_start(
        start,
        setting.splits,
        recipe,
        work,
        _shared_labels(setting, recipe),
        keeps or setting.subject.budgets,
        setting.datasets,
    )


def _shared_labels(setting: Setting, recipe: TrainConfig) -> Path:
    config = recipe.labels
    folder = setting.folder / "labels" / f"{config.method}-{config.mask.value}-{config.mask.point}"
    chosen = labelled_dataset(setting.datasets[0], recipe)
    model = model_from_bundle(load_bundle(setting.backbone)).eval()
    label_images(model, chosen, config, LabelStore(folder), RunDir(progress=setting.progress), recipe.label_chunk)
    return folder


def _filter_rows(bundle: Bundle) -> Rows:
    model = model_from_bundle(bundle)
    return [{**found, "macs": macs(model, found["tokens"])} for found in bundle.training["accuracy"]]


def _specialist(setting: Setting, name: str, recipe: TrainConfig, keep: Keep) -> dict[str, Any]:
    """A checkpoint that was fine-tuned for one budget alone, with as many steps as the elastic one."""
    recipe = replace(recipe, keep=keep, finetune=replace(recipe.finetune, fixed=keep))
    (row,) = _filter_rows(_filter_bundle(setting, f"{name} {keep}", recipe, (keep,)))
    return row


def _baseline(setting: Setting, name: str, recipe: TrainConfig) -> Rows:
    bundle, finetune = load_bundle(setting.backbone), recipe.finetune
    weights = copy.deepcopy(dict(bundle.backbone))
    baseline: Any = baseline_from_weights(name, bundle.architecture, weights, setting.seed, recipe.filter_config)
    dataset, tests = setting.datasets
    teacher = copy.deepcopy(baseline).eval().requires_grad_(False) if finetune.distill else None
    work = setting.work(name if recipe == setting.recipe else f"longer: {name}")
    train_elastic(baseline, dataset, finetune, recipe.seed, work, name=f"baseline-{name}", teacher=teacher)
    budgets = [tokens_from_keep(keep, baseline.num_patches) for keep in setting.subject.budgets]
    reached = [row.tokens for row in rows_of(name, baseline, budgets)]
    found = evaluate(baseline, tests, reached, setting.progress, seed=recipe.seed) if reached else []
    return [{**asdict(a), "macs": macs_of_row(Row(name, a.tokens), baseline, bundle)} for a in found]


def _distilled(recipe: TrainConfig) -> TrainConfig:
    return replace(recipe, finetune=replace(recipe.finetune, distill=1.0))


def _told(recipe: TrainConfig) -> TrainConfig:
    """With a summary of 16 channels: 0.5 % of the full model's multiply-accumulates."""
    return replace(recipe, filter_config=replace(recipe.filter_config, summary=16))


def _longer(recipe: TrainConfig) -> TrainConfig:
    plan = recipe.finetune.plan
    plan = replace(plan, steps=4 * plan.steps, lr=2 * plan.lr)
    return _distilled(replace(recipe, finetune=replace(recipe.finetune, plan=plan)))


def _labels(recipe: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(recipe, labels=replace(recipe.labels, **changes))


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
