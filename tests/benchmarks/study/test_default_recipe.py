"""The default recipe on the study's models: its settings, rows of several seeds, and the tables."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.records.recipe_tables import recipe_table, search_table
from tokfilter.benchmarks.study import default_recipe, recipe_search
from tokfilter.benchmarks.study.default_recipe import main, rows_of_set
from tokfilter.benchmarks.study.equal_cost import filtered_model
from tokfilter.benchmarks.study.methods import BEFORE, RECIPE
from tokfilter.benchmarks.study.recipe_config import config_of_task
from tokfilter.benchmarks.study.recipe_search import CANDIDATES, SETS
from tokfilter.benchmarks.study.scenes import _digits, _photos, scene_images
from tokfilter.benchmarks.study.seed_run import SeedRun, rows_from_method
from tokfilter.benchmarks.study.task_data import write_data
from tokfilter.benchmarks.study.tasks import DIGITS, FASHION, OBJECTS_BY_RECIPE, StudyConfig
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import write_json
from tokfilter.train.data import quiet, splits_from_folder
from tokfilter.train.recipe import CONTEXT, config_from_recipe
from tokfilter.train.recipe_file import recipe_from_source
from tokfilter.vit.macs import macs

NAME, MERGED, _ = RECIPE
MACHINE = {
    "created": "2026-11-27T00:00:00Z", "command": "recipe WORK", "versions": {"torch": "2"},
    "machine": {"cpu": "CPU", "cores": 2, "gpus": []},
}  # fmt: skip


@pytest.mark.parametrize("task", [DIGITS, FASHION])
def test_the_study_has_the_recipes_settings_but_for_the_few_of_its_small_models(task):
    recipe = config_from_recipe(recipe_from_source("default"), images=640, stages=("label", "filter", "finetune"))
    found = config_of_task(task, 640, seed=3)
    assert found.filter == recipe.filter and found.labels == recipe.labels and found.stages == recipe.stages
    assert found.finetune.plan == replace(recipe.finetune.plan, lr=task.config.train_config(0).backbone.plan.lr)
    assert found.finetune.distill == recipe.finetune.distill == 1 and found.new_context == recipe.new_context == 16
    assert (found.seed, found.keep, found.filter_config.width) == (3, 0.25, 32)
    assert found.finetune.augmentation.flip == task.config.flip
    merged = config_of_task(task, 640, seed=3, reducer="tome")
    assert merged.stages == ("finetune",) and merged.keep == 1.0 and merged.finetune == found.finetune


def seed_rows(every, half, merged):
    return [
        {"method": BEFORE, "tokens": 64, "macs": 9, "top1": 0.8, "images": 100},
        {"method": NAME, "tokens": 64, "macs": 9, "top1": every, "images": 100},
        {"method": NAME, "tokens": 32, "macs": 5, "top1": half, "images": 100},
        {"method": MERGED, "tokens": 32, "budget": 41, "macs": 5, "top1": merged, "images": 100},
        {"method": MERGED, "budget": 64, "macs": 9, "top1": 0.95, "images": 100},
        {"method": MERGED, "budget": 41, "macs": 5, "top1": merged, "images": 100},
    ]  # fmt: skip


def test_points_are_of_the_same_seed_and_checkpoint():
    rows = {
        (row["method"], row["tokens"]): row
        for row in rows_of_set([seed_rows(0.9, 0.88, 0.85), seed_rows(0.7, 0.71, 0.75)])
    }
    assert rows.keys() == {(BEFORE, 64), (NAME, 64), (NAME, 32), (MERGED, 32)}
    assert rows[NAME, 32]["lost"] == pytest.approx([2, -1]) and rows[NAME, 32]["top1"] == [0.88, 0.71]
    assert rows[MERGED, 32]["lost"] == pytest.approx([10, 20]) and rows[MERGED, 32]["ahead"] == pytest.approx([3, -4])
    assert rows[NAME, 64]["lost"] == [0, 0] and rows[NAME, 64]["ahead"] == []


def test_the_tables_have_a_line_for_each_method_and_candidate():
    rows = rows_of_set([seed_rows(0.9, 0.88, 0.85), seed_rows(0.7, 0.71, 0.75)])
    settings = {"seeds": [0, 1], "interval": "Student's t over 2 seeds", "held_out": 50}
    document = {**MACHINE, "settings": settings, "sets": [{"name": "digits", "images": 100, "rows": rows}]}
    lines = recipe_table(document).splitlines()
    assert lines[2] == "| digits | tokens kept | 64 | 32 |"
    assert "| backbone, every token | 80.0 (80.0 to 80.0) |  |" in lines[3]
    assert lines[5].startswith("|  | points lost against every token |  | 0.50 (") and lines[6].startswith(
        "|  | ToMe |  |"
    )
    assert lines[7].startswith("|  | filter minus ToMe, points |  | -0.50 (") and "100 of digits" in lines[-1]
    rows = [{"candidate": "one", "seed": seed, "tokens": k, "top1": 0.5} for seed in (0, 1) for k in (64, 32)]
    lines = search_table({**document, "sets": [{"name": "digits", "rows": rows}]}).splitlines()
    assert lines[3] == "|  | one, seed 0 | 50.00 | 50.00 |" and "Top-1 in % on 50 images" in lines[-1]


def test_a_set_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    result = CliRunner().invoke(main, [str(tmp_path / "work"), "--data", "fashion"])
    assert result.exit_code == 2 and "digits-in-scenes, fashion-mnist, objects-in-photographs" in result.output
    assert not (tmp_path / "work").exists()


def test_the_search_takes_the_rows_that_are_there_and_says_where_there_are_none(tmp_path):
    folder = tmp_path / "recipe-search" / "fashion-mnist" / "seed-1"
    arguments = [
        str(tmp_path),
        "--present",
        "--seeds",
        "0,1",
        "--data",
        "fashion-mnist",
        "-o",
        str(tmp_path / "a.json"),
    ]
    result = CliRunner().invoke(recipe_search.main, arguments)
    assert isinstance(result.exception, DataError) and "no rows of fashion-mnist" in str(result.exception)
    (folder / "rows").mkdir(parents=True)
    (folder / "rows" / "default.json").write_text("{}")
    names = ("default", "neighbours")
    assert recipe_search._chosen(tmp_path, "fashion-mnist", 1, names, True) == ("default",)
    assert recipe_search._chosen(tmp_path, "fashion-mnist", 0, names, True) == ()
    assert recipe_search._chosen(tmp_path, "fashion-mnist", 0, names, False) == names


def test_other_reducers_can_have_rows_before_the_filter_has():
    rows = rows_of_set([[row for row in seed_rows(0.9, 0.88, 0.85) if row["method"] != NAME]])
    assert {(row["method"], row["tokens"]): row["ahead"] for row in rows} == {(BEFORE, 64): [], (MERGED, 32): []}


def test_other_data_sets_than_the_small_ones_have_a_document_of_their_own():
    assert default_recipe._output(["digits-in-scenes", "fashion-mnist"]).name == "recipe.json"
    assert default_recipe._output(["objects-in-photographs"]).name == "recipe-objects-in-photographs.json"


def test_a_work_folder_is_refused_where_the_settings_of_its_images_or_recipe_are_others(tmp_path):
    def run(task):
        return SeedRun(task, task.config, 0, tmp_path / "data", tmp_path / "seed-0", quiet)

    task = replace(OBJECTS_BY_RECIPE, write=lambda *_: None, start=lambda *_: {})
    write_json(tmp_path / "seed-0" / "rows" / "default-recipe.json", {"rows": []})
    assert rows_from_method(run(task), NAME) == []
    with pytest.raises(DataError, match="holds results of other settings"):
        rows_from_method(run(replace(task, recipe=(*task.recipe, "labels.limit=9"))), NAME)
    data = tmp_path / "images" / "data"
    data.mkdir(parents=True)
    write_data(task, task.config, 0, data, quiet)
    with pytest.raises(DataError, match="holds results of other settings"):
        write_data(task, replace(task.config, small_steps=9), 1, data, quiet)


def test_a_row_of_fewer_seeds_says_how_many():
    first, second = seed_rows(0.9, 0.88, 0.85), seed_rows(0.7, 0.71, 0.75)
    rows = rows_of_set([first, [row for row in second if row["method"] != MERGED]])
    settings = {"seeds": [0, 1], "interval": "Student's t over 2 seeds"}
    document = {**MACHINE, "settings": settings, "sets": [{"name": "digits", "images": 100, "rows": rows}]}
    lines = recipe_table(document).splitlines()
    assert lines[6] == "|  | ToMe, 1 seed |  | 85.0 |"
    assert lines[7] == "|  | filter minus ToMe, 1 seed, points |  | +3.00 |"


def test_no_held_out_scene_shares_a_digit_or_a_photograph_with_what_is_trained():
    fit, held_out, train = (_digits(split)[0] for split in ("fit", "held-out", "train"))
    assert len(fit) + len(held_out) == len(train) and (np.concatenate([fit, held_out]) == train).all()
    for photo, left, right in zip(*(_photos(split) for split in ("train", "fit", "held-out")), strict=True):
        assert (np.concatenate([left, right], axis=1) == photo).all()


def test_the_search_holds_images_out_of_the_backbone_too(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_search, "HELD_OUT", 15)
    SETS["digits-in-scenes"].write(tmp_path, 3, StudyConfig(train=60), quiet, tmp_path)
    found = splits_from_folder(tmp_path)
    assert (len(found.train), len(found.test)) == (60, 15)
    images, _ = scene_images("held-out", 15, 3)
    written = {np.asarray(found.test.image(i)).tobytes() for i in range(15)}
    assert written == {image.tobytes() for image in images}


def test_every_candidate_is_a_recipe():
    for changes in CANDIDATES.values():
        assert config_of_task(DIGITS, 640, 0, changes).stages == ("label", "filter", "finetune")


def test_the_published_models_have_the_recipes_context_and_others_never_cost_less():
    document = json.loads((RESULTS / "recipe.json").read_text())
    for one in document["sets"]:
        task = {DIGITS.name: DIGITS, FASHION.name: FASHION}[one["name"]]
        classes = Architecture(task.architecture.name, {**task.architecture.kwargs, "num_classes": 10})
        model = filtered_model(classes, FilterConfig(width=32, summary=CONTEXT))
        for row in one["rows"]:
            if row["method"] == NAME:
                assert row["macs"] == macs(model, row["tokens"])
            elif row["ahead"]:
                assert row["macs"] >= macs(model, row["tokens"])
