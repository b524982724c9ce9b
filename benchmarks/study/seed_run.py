"""One seed of the accuracy study: trains the backbone, then measures each method on it.

Everything is kept in the seed's folder; a stage or row that is there is not computed again.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.benchmarks.study.baseline_models import Row, macs_of_row
from tokfilter.benchmarks.study.baselines import TOKEN_BASELINES, baseline_from_weights
from tokfilter.benchmarks.study.equal_cost import (
    OTHER_REDUCERS,
    count,
    curve_budgets,
    equal_budgets,
    filtered_model,
    reduced_model,
)
from tokfilter.benchmarks.study.methods import (
    BEFORE,
    FILTER,
    FILTER_CONFIGS,
    LONG_SPECIALISTS,
    LONGER_BASELINES,
    RECIPE,
    RECIPE_BASELINES,
    RECIPE_VARIANTS,
    SPECIALISTS,
    longer,
    with_global_context,
)
from tokfilter.benchmarks.study.recipe_config import config_of_task
from tokfilter.benchmarks.study.task_data import start_weights, write_data
from tokfilter.benchmarks.study.tasks import SMALL_MODELS, StudyConfig, Task
from tokfilter.benchmarks.study.work_folder import check_work_folder
from tokfilter.runtime.measure.record import write_json
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import Progress, Splits, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.evaluation import evaluate
from tokfilter.train.finetune import train_elastic
from tokfilter.train.image_loss import CROSS_ENTROPY
from tokfilter.train.label_store import LabelStore
from tokfilter.train.labels import LabelConfig, label_images
from tokfilter.train.loop import RunDir
from tokfilter.train.pipeline import bundle_from_start
from tokfilter.train.stages import labelled_dataset
from tokfilter.train.start import Start, start_from_bundle, start_from_timm
from tokfilter.train.token_sets import Grouping
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle
from tokfilter.vit.macs import macs

__all__ = ["DRAWS", "Rows", "SeedRun", "has_rows", "rows_from_method", "rows_from_recipe"]

DRAWS: Final = "rival-"
"""Prefix of a baseline's name in its random seeds. The published rows were drawn with it: it must not change."""

Rows = list[dict[str, Any]]

_HOLD_BYTES: Final = 3 << 30
"""Of decoded training images: as many as the largest task has."""

_VERSION: Final = 5
"""Of the contents of a seed's folder."""


@dataclass(frozen=True)
class SeedRun:
    """One seed of a task. data: folder of its images; folder: of everything that is computed from them."""

    task: Task
    config: StudyConfig
    seed: int
    data: Path
    folder: Path
    progress: Progress

    @property
    def train_config(self) -> TrainConfig:
        """The token filter's training settings, on a trained backbone."""
        return replace(self.config.train_config(self.seed), stages=("label", "filter", "finetune"))

    @cached_property
    def splits(self) -> Splits:
        """The images; writes them first if they are missing. Raises DataError."""
        write_data(self.task, self.config, self.seed, self.data, self.progress)
        return splits_from_folder(self.data)

    @cached_property
    def datasets(self) -> tuple[ImageDataset, ImageDataset]:
        """Training and test images, preprocessed for the model."""
        train, test = (
            ImageDataset(part, self._new().preprocessing, self.progress, _HOLD_BYTES)
            for part in (self.splits.train, self.splits.test)
        )
        return train, test

    @property
    def backbone(self) -> Path:
        """Bundle of the backbone that every method starts from; trains it first if it is missing."""
        path = self.folder / "backbone.pt"
        if not path.is_file():
            config = replace(self.config.train_config(self.seed), stages=("backbone",))
            run_dir = self.run_dir("backbone")
            bundle = bundle_from_start(self._new(), self.splits, config, run_dir, keeps=[1.0], datasets=self.datasets)
            save_bundle(bundle, path)
        return path

    def run_dir(self, name: str) -> RunDir:
        """Where a method keeps its checkpoints."""
        return RunDir(self.folder / "work" / _slug(name), resume=True, progress=self.progress)

    def _new(self) -> Start:
        classes, checkpoint = len(self.splits.train.class_names), None
        if self.task.start is not None:
            checkpoint = start_weights(self.data)
        return start_from_timm(
            self.task.architecture, classes, checkpoint, new_head=True, seed=self.seed, preprocessing={"crop_pct": 1.0}
        )


def rows_from_method(run: SeedRun, method: str) -> Rows:
    """Method, tokens, macs, correct, images and top1 of one method at each budget that is possible for it.

    Rows of a reducer inside blocks also have its own ``budget``, and the rows of its curve have no ``tokens``.
    Rows of an interrupted study are read from the folder. Raises DataError for a folder of another study.
    """
    return _kept(run, method, lambda: _measure(run, method))


def rows_from_recipe(run: SeedRun, name: str, changes: Sequence[str]) -> Rows:
    """The token filter's rows by the default recipe with some settings changed; kept by name as those of a method."""
    config = config_of_task(run.task, len(run.splits.train), run.seed, changes)
    return _kept(run, name, lambda: _filter_rows(_filter_bundle(run, name, config)))


def _kept(run: SeedRun, name: str, measure: Callable[[], Rows]) -> Rows:
    _check_folder(run)
    path = _rows_file(run.folder, name)
    if not path.is_file():
        write_json(path, {"rows": [{"method": name, **row} for row in measure()]})
    rows: Rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def has_rows(folder: Path, method: str) -> bool:
    """Whether a seed's folder has the rows of a method."""
    return _rows_file(folder, method).is_file()


def _rows_file(folder: Path, method: str) -> Path:
    return folder / "rows" / f"{_slug(method)}.json"


def _check_folder(run: SeedRun) -> None:
    task = run.task
    facts = [_VERSION, task.name, asdict(task.architecture), task.budgets, asdict(run.config), run.seed]
    if task.recipe != SMALL_MODELS:  # that of the tasks that earlier versions had
        facts.append(task.recipe)
    check_work_folder(run.folder, facts)


def _measure(run: SeedRun, method: str) -> Rows:
    if method == BEFORE:
        return _before(run)
    if method in (*RECIPE, *RECIPE_BASELINES):
        return _recipe(run, method, {**RECIPE, **RECIPE_BASELINES}[method])
    if method in RECIPE_VARIANTS:
        return _recipe(run, method, FILTER, RECIPE_VARIANTS[method])
    name, config = LONGER_BASELINES.get(method), run.train_config
    name, config = (method, config) if name is None else (name, longer(config))
    if name in TOKEN_BASELINES:
        return _baseline(run, name, config, name if method == name else f"longer: {name}")
    if name in OTHER_REDUCERS:
        return _reducer(run, method, name, config)
    if method in (SPECIALISTS, LONG_SPECIALISTS):
        config = run.train_config if method == SPECIALISTS else with_global_context(longer(run.train_config))
        return [_specialist(run, method, config, keep) for keep in run.task.budgets if keep != 1.0]
    bundle = _filter_bundle(run, method, FILTER_CONFIGS[method](run.train_config))
    rows = _filter_rows(bundle)
    if method == FILTER:
        save_bundle(bundle, run.folder / "model.pt")
        return [{**row, "method": "full"} if row["tokens"] == rows[0]["tokens"] else row for row in rows]
    return rows


def _recipe(run: SeedRun, method: str, reducer: str, changes: Sequence[str] = ()) -> Rows:
    """The default recipe with the filter, or its fine-tuning with another reducer or a baseline."""
    config = config_of_task(run.task, len(run.splits.train), run.seed, changes, reducer)
    if reducer in TOKEN_BASELINES:
        return _baseline(run, reducer, config, method, every=True)
    if reducer != FILTER:
        return _reducer(run, method, reducer, config, compared_only=True)
    return _filter_rows(_filter_bundle(run, method, config))


def _before(run: SeedRun) -> Rows:
    bundle = load_bundle(run.backbone)
    return [{**row, "macs": macs(model_from_bundle(bundle), 1.0)} for row in bundle.training["accuracy"]]


def _filter_bundle(run: SeedRun, name: str, config: TrainConfig, keeps: tuple[Keep, ...] | None = None) -> Bundle:
    """Label, train the filter and fine-tune on the trained backbone; methods with the same labels share them."""
    start = start_from_bundle(run.backbone, run.splits.train.class_names)
    labels = _shared_labels(run, config)
    keeps = keeps or run.task.budgets
    return bundle_from_start(start, run.splits, config, run.run_dir(name), labels, keeps, run.datasets)


def _shared_labels(run: SeedRun, config: TrainConfig) -> Path:
    labels = config.labels
    loss = "" if labels.loss == CROSS_ENTROPY else f"-{labels.loss}"
    limit = "" if config.label_limit == run.config.labelled else f"-{config.label_limit}"
    groups = "" if labels.groups == Grouping() and labels.precision == "fp32" else f"-{_label_digest(labels)}"
    folder = run.folder / "labels" / f"{labels.method}-{labels.mask.value}-{labels.mask.point}{loss}{limit}{groups}"
    dataset = labelled_dataset(run.datasets[0], config)
    run_dir = RunDir(progress=run.progress)
    model = model_from_bundle(load_bundle(run.backbone)).to(run_dir.processes.device).eval()
    label_images(model, dataset, labels, LabelStore(folder), run_dir, config.label_chunk)
    return folder


def _label_digest(labels: LabelConfig) -> str:
    return hashlib.sha256(repr((labels.groups, labels.precision)).encode()).hexdigest()[:8]


def _filter_rows(bundle: Bundle) -> Rows:
    model = model_from_bundle(bundle)
    return [{**row, "macs": macs(model, row["tokens"])} for row in bundle.training["accuracy"]]


def _specialist(run: SeedRun, name: str, config: TrainConfig, keep: Keep) -> dict[str, Any]:
    """A checkpoint that was fine-tuned at one budget only, for as many steps as the elastic one."""
    config = replace(config, keep=keep, finetune=replace(config.finetune, fixed=keep))
    (row,) = _filter_rows(_filter_bundle(run, f"{name} {keep}", config, (keep,)))
    return row


def _baseline(run: SeedRun, name: str, config: TrainConfig, run_name: str, every: bool = False) -> Rows:
    """run_name: of its checkpoints; every: also measured with every token."""
    bundle, finetune, run_dir = load_bundle(run.backbone), config.finetune, run.run_dir(run_name)
    weights = copy.deepcopy(dict(bundle.backbone))
    baseline: Any = baseline_from_weights(name, bundle.architecture, weights, run.seed)
    baseline.to(run_dir.processes.device)
    train, test = run.datasets
    teacher = copy.deepcopy(baseline).eval().requires_grad_(False) if finetune.distill else None
    train_elastic(baseline, train, finetune, config.seed, run_dir, name=f"{DRAWS}{name}", teacher=teacher)
    budgets = {tokens_from_keep(keep, baseline.num_patches) for keep in run.task.budgets}
    budgets -= set() if every else {baseline.num_patches}
    results = evaluate(baseline, test, sorted(budgets), run.progress, seed=config.seed, precision=config.test_precision)
    baseline.cpu()
    return [{**asdict(a), "macs": macs_of_row(Row(name, a.tokens), baseline, bundle)} for a in results]


def _reducer(run: SeedRun, method: str, name: str, config: TrainConfig, compared_only: bool = False) -> Rows:
    """Fine-tuned as the filter's model is, images of each step included; what it learns is trained too.

    compared_only: budgets are drawn from the smallest that is compared with the filter up to every token; otherwise
        from the filter's smallest, or the reducer's own where that is larger
    """
    start = start_from_bundle(run.backbone, run.splits.train.class_names)
    model = reduced_model(start.architecture, name)
    shape = config.filter_config
    shape = replace(shape, summary=shape.summary or config.new_context)  # the default recipe's context costs, too
    patches, filtered = model.num_patches, filtered_model(start.architecture, shape)
    wanted = [tokens_from_keep(keep, patches) for keep in run.task.budgets if keep != 1.0]
    own, _ = equal_budgets(model, filtered, wanted)
    config = replace(config, stages=("finetune",), reducer=ReducerConfig(name), keep=1.0)
    if compared_only and own:
        config = replace(config, finetune=replace(config.finetune, low=min(own.values()) / patches))
    keeps = [patches, *own.values(), *(curve_budgets(model) if run.task.curve else ())]
    bundle = bundle_from_start(start, run.splits, config, run.run_dir(method), None, keeps, run.datasets)
    found = {
        row["tokens"]: {name: row[name] for name in ("correct", "images", "top1")}
        for row in bundle.training["accuracy"]
    }
    curve = {k: {"budget": k, "macs": count(model, k), **result} for k, result in found.items()}
    return [{"tokens": k, **curve[budget]} for k, budget in own.items()] + list(curve.values())


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
