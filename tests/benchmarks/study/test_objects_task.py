"""The task on photographs with a tiny random ViT in place of the trained one: start, precision, methods, rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tokfilter.artifacts.bundle import Architecture
from tokfilter.benchmarks.study.accuracy import _methods_of
from tokfilter.benchmarks.study.command import main
from tokfilter.benchmarks.study.methods import BEFORE, FILTER, RECIPE, REDUCERS
from tokfilter.benchmarks.study.seed_run import SeedRun, rows_from_method
from tokfilter.benchmarks.study.tasks import DIGITS, OBJECTS, OBJECTS_BY_RECIPE, PhotoConfig
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_bundle

FILTER_ROW, MERGED, _ = RECIPE
TINY = Architecture(
    "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
)
SMALL = PhotoConfig(train=12, test=6, backbone_steps=2, labelled=2, filter_steps=2, finetune_steps=2, batch=4, group=4)


def weights_of(folder, config, progress, wheels):
    torch.manual_seed(5)
    backbone = create_backbone(replace(TINY, kwargs={**TINY.kwargs, "num_classes": 0}))
    return {name: value.clone() for name, value in backbone.state_dict().items()}


def write_images(folder, seed, config, progress, wheels):
    rng = np.random.default_rng(0)
    for split, count in (("train", config.train), ("test", config.test)):
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count // 2):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


@pytest.fixture(scope="module")
def task():
    methods = (BEFORE, FILTER, "resolution", "tome")
    return replace(
        OBJECTS,
        architecture=TINY,
        config=SMALL,
        write=write_images,
        start=weights_of,
        budgets=(1.0, 0.5),
        methods=methods,
    )


def silent(stage, fraction):
    pass


def test_the_backbone_starts_from_the_trained_weights_with_a_new_head(task, tmp_path):
    start = SeedRun(task, SMALL, 0, tmp_path / "data", tmp_path / "seed", silent)._new()
    weights, expected = start.backbone.state_dict(), weights_of(None, SMALL, silent, None)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert weights["head.weight"].shape == (2, 24) and not start.trained


def test_rows_are_trained_and_measured_in_bf16_from_grouped_labels(task, tmp_path):
    seed_run = SeedRun(task, SMALL, 0, tmp_path / "data", tmp_path / "seed", silent)
    rows = [row for method in task.methods for row in rows_from_method(seed_run, method)]
    cells = {(row["method"], row.get("tokens")) for row in rows}
    assert cells == {(BEFORE, 16), ("full", 16), ("filter", 8), ("resolution", 8), ("tome", 8), ("tome", None)}
    assert all(row["images"] == 6 for row in rows)
    record = load_bundle(tmp_path / "seed" / "model.pt").training
    assert record["label"]["method"] == "grouped" and record["label"]["precision"] == "bf16"
    assert record["finetune"]["plan"]["precision"] == record["filter"]["plan"]["precision"] == "bf16"


def test_the_recipe_gives_baselines_its_fine_tuning_and_the_filter_its_labels(task, tmp_path):
    settings = ("labels.limit=2", "labels.group_rounds=2", "filter.batch=2", "filter.epochs=1", "finetune.batch=4")
    recipe = (*OBJECTS_BY_RECIPE.recipe, *settings, "finetune.epochs=0.4")
    config = replace(OBJECTS_BY_RECIPE.config, train=12, test=6, backbone_steps=8, batch=4, backbone_lr=1e-2)
    run = SeedRun(replace(task, recipe=recipe), config, 0, tmp_path / "data", tmp_path / "seed", silent)
    rows = {name: rows_from_method(run, name) for name in (FILTER_ROW, "default recipe: norm", MERGED)}
    norm, ours = rows["default recipe: norm"], rows[FILTER_ROW]
    assert [(row["tokens"], row["macs"]) for row in norm] == [(16, ours[0]["macs"]), (8, norm[1]["macs"])]
    assert norm[1]["macs"] < ours[1]["macs"]  # by the filter and its context
    kept = {path.parent.name: torch.load(path, weights_only=True) for path in run.folder.rglob("*.checkpoint.pt")}
    assert all(len(kept[name]["losses"]) == 1 for name in ("default-recipe--norm", "default-recipe--ToMe"))


def test_a_task_runs_its_own_methods_only(task):
    assert _methods_of(task, REDUCERS) == [BEFORE, FILTER, "resolution", "tome"]
    assert _methods_of(DIGITS, REDUCERS) == list(REDUCERS)


def test_the_settings_of_the_task_are_those_of_the_trained_model():
    config = OBJECTS.config.train_config(3)
    assert config.backbone.plan.lr == config.finetune.plan.lr == OBJECTS.config.small_plan.lr == 2e-5
    assert config.backbone.plan.head_lr == 10 and config.finetune.plan.head_lr == 1
    assert config.backbone.plan.batch == config.finetune.plan.batch == 16
    assert config.labels.groups.rounds == 2 and config.labels.groups.size == 16
    assert config.test_precision == "bf16" and config.seed == 3 and not OBJECTS.seeded


def test_missing_wheels_are_named_with_the_command(tmp_path):
    arguments = [str(tmp_path / "work"), "--data", OBJECTS.name, "--seeds", "0", "--wheels", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0 and "pip download --no-deps" in str(result.exception)
    assert not list((tmp_path / "work").rglob("*.jpg"))
