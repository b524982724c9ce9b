"""Recipes: the defaults by number, round trip through TOML, and refusals by name, type and range."""

import numpy as np
import pytest

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.errors import BudgetError, DataError, RecipeError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.config import TrainConfig
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning
from tokfilter.train.labels import LabelConfig
from tokfilter.train.loop import TrainingPlan
from tokfilter.train.masking import MaskConfig
from tokfilter.train.recipe import Recipe, config_from_recipe
from tokfilter.train.recipe_file import changed_recipe, recipe_from_source, text_from_recipe, values_from_texts
from tokfilter.train.recipe_settings import kind_of
from tokfilter.train.token_sets import Grouping


def changed(*texts):
    return recipe_from_source("default", values_from_texts(texts))


def test_the_default_recipe_is_the_one_that_the_study_measures():
    found = config_from_recipe(recipe_from_source("default"), images=6400)
    plan = {"batch": 64, "warmup": 0.05, "clip": 1.0}
    assert found == TrainConfig(
        stages=("backbone", "label", "filter", "finetune"),
        keep=0.5,
        label_limit=6000,
        label_chunk=256,
        seed=0,
        filter_config=FilterConfig(width=64, depth=2, activation="gelu", global_feature="mean", summary=0),
        labels=LabelConfig(MaskConfig("zero", "after"), None, 0.15, "exact", Grouping("block", 4, 2), "fp32"),
        backbone=FineTuning(
            TrainingPlan(1000, lr=1e-3, weight_decay=0.05, **plan), 0.1, 0.125, 4, None, 0.0, Augmentation(1.0, 0.0)
        ),
        filter=FilterTraining(TrainingPlan(17 * 93, lr=2e-3, weight_decay=0.01, **plan), "combined"),
        finetune=FineTuning(
            TrainingPlan(500, lr=3e-4, weight_decay=0.05, **plan), 0.1, 0.125, 4, None, 1.0, Augmentation(1.0, 0.0)
        ),
        new_context=16,
        neighbours=None,
    )
    assert isinstance(found.keep, float)
    assert (Recipe().data.holdout, Recipe().data.crop_pct, Recipe().save_seconds) == (0.1, None, 20.0)


def test_steps_follow_epochs_images_and_the_limit_of_labels():
    recipe = changed("backbone.epochs=1.5", "filter.batch=10", "labels.limit=50", "finetune.batch=512")
    found = config_from_recipe(recipe, images=640)
    assert (found.backbone.plan.steps, found.filter.plan.steps, found.finetune.plan.steps) == (15, 17 * 5, 5)
    assert found.label_limit == 50
    found = config_from_recipe(changed("labels.limit=0"), images=640)
    assert found.label_limit is None and found.filter.plan.steps == 17 * 10


CHANGES = [
    "stages=label,filter",
    "keep=98",
    "seed=7",
    "data.crop_pct=0.9",
    "data.flip=0.5",
    "labels.method=grouped",
    "labels.mask_point=before",
    "labels.group_shape=random",
    "labels.group_size=24",
    "labels.precision=bf16",
    "labels.limit=1000",
    "labels.rho=-0.01",
    "filter.objective=ranking",
    "filter.global_context=16",
    "filter.lr=1e-4",
    "finetune.fixed_keep=25%",
    "finetune.distill=1",
    "finetune.distill_features=2.5",
]

REDUCER = ["reducer.name=frequency", "reducer.stages=3, 6,9", "reducer.windows=[4,2,1]", "finetune.token_cut=0"]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        changed(*CHANGES),
        changed("keep=1t", "finetune.fixed_keep=1.0"),
        changed(*REDUCER),
        changed("reducer.name=evit", "reducer.fuse=false"),
        changed("reducer.name=tome", "reducer.schedule=constant"),
    ],
)
def test_a_printed_recipe_reads_back_as_the_same_recipe(tmp_path, recipe):
    path = tmp_path / "recipe.toml"
    path.write_text(text_from_recipe(recipe), encoding="utf-8")
    again = recipe_from_source(path)
    assert again == recipe and text_from_recipe(again) == text_from_recipe(recipe)
    assert config_from_recipe(again, images=300) == config_from_recipe(recipe, images=300)


def test_without_class_labels_nothing_is_distilled_beside_the_loss():
    for loss in ("kl", "feature"):
        assert config_from_recipe(changed(f"loss={loss}"), images=100).finetune.distill == 0
    assert config_from_recipe(changed("finetune.distill=0.5"), images=100).finetune.distill == 0.5
    assert config_from_recipe(changed("filter.global_context=0"), images=100).new_context == 0


def test_every_change_arrives():
    found = config_from_recipe(changed(*CHANGES), images=100)
    assert found.stages == ("label", "filter") and found.keep == 98 and found.seed == 7
    assert found.labels.mask == MaskConfig("zero", "before") and found.labels.groups == Grouping("random", 24, 2)
    assert (found.labels.method, found.labels.precision, found.labels.rho) == ("grouped", "bf16", -0.01)
    assert found.filter.objective == "ranking" and found.filter.plan.lr == 1e-4 and found.filter_config.summary == 16
    assert found.finetune.fixed == 0.25 and found.finetune.distill == 1.0 and found.finetune.distill_features == 2.5
    assert found.finetune.augmentation == found.backbone.augmentation == Augmentation(1.0, 0.5)


def test_a_reducer_is_named_with_its_settings_and_has_its_own_stages_of_training():
    found = config_from_recipe(changed(*REDUCER), images=100)
    assert found.reducer == ReducerConfig("frequency", {"stages": [3, 6, 9], "windows": [4, 2, 1]})
    assert found.stages == ("backbone", "finetune")
    assert config_from_recipe(Recipe(), images=100).reducer == ReducerConfig()
    settings = Recipe().reducer
    assert {name for known in REDUCERS.values() for name in known} <= set(settings.__dataclass_fields__)
    assert kind_of("reducer.name").choices == tuple(REDUCERS)
    start = ReducerConfig("evit", {"stages": [2], "fuse": False})
    assert settings.config(start) == start and changed("reducer.name=tome").reducer.config(start).name == "tome"
    changed_settings = changed("reducer.name=evit", "reducer.fuse=true").reducer.config(start)
    assert changed_settings == ReducerConfig("evit", {"stages": [2], "fuse": True})
    unnamed = changed("reducer.fuse=true").reducer  # of the start model's reducer, which is known later
    assert unnamed.config(start) == changed_settings
    for other in (None, ReducerConfig("tome")):
        with pytest.raises(RecipeError, match=r"settings of (filter|tome) are .*, got 'fuse': reducer.name"):
            unnamed.config(other)


def test_a_file_may_name_a_few_settings_and_overrides_come_last(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("keep = 49\n[labels]\nmask = 'mean'\nlimit = 100\n[finetune]\nepochs = 2\n", encoding="utf-8")
    recipe = recipe_from_source(path, {"labels.limit": 6000, "finetune.lr": 1})
    expected = changed_recipe(Recipe(), {"keep": 49, "labels.mask": "mean", "finetune.epochs": 2, "finetune.lr": 1.0})
    assert recipe == expected
    assert isinstance(recipe.finetune.lr, float)
    assert changed("labels.rho=0.1", "labels.rho=none") == changed("labels.mask=none") == Recipe()


def test_numbers_of_numpy_are_numbers():
    values = {"labels.limit": np.int64(3), "finetune.lr": np.float32(0.5), "keep": np.int64(4)}
    found = changed_recipe(Recipe(), values)
    assert (found.labels.limit, found.finetune.lr, found.keep) == (3, 0.5, 4)
    assert [type(value) for value in (found.labels.limit, found.finetune.lr, found.keep)] == [int, float, int]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("labels.maskpoint=before", "no setting 'labels.maskpoint'. Did you mean labels.mask_point"),
        ("mask_point=before", "no setting 'mask_point'. Did you mean labels.mask_point?"),
        ("zzz=1", "no setting 'zzz'. `tokfilter train --print-recipe` lists all names"),
        ("labels=1", "labels is a table of a recipe, expected one of its settings: labels.method"),
        ("labels.mask_point=during", "labels.mask_point expects one of before, after, got 'during'"),
        ("finetune.epochs=0", "finetune.epochs expects a number in (0, inf), got 0"),
        ("finetune.epochs=many", "finetune.epochs expects a number in (0, inf), got 'many'"),
        ("finetune.lr=nan", "finetune.lr expects a number in (0, inf), got nan"),
        ("seed=" + "9" * 400, "seed expects a whole number"),
        ("finetune.lr=" + "9" * 400, "finetune.lr expects a number in (0, inf)"),
        ("finetune.budgets=1", "finetune.budgets expects a whole number in [2, inf), got 1"),
        ("finetune.min_keep=1.5", "finetune.min_keep expects a number in (0, 1], got 1.5"),
        ("filter.width=2.5", "filter.width expects a whole number in [1, inf), got 2.5"),
        ("filter.global_context=-1", "filter.global_context expects a whole number in [0, inf), got -1"),
        ("labels.method=none", "labels.method expects one of exact, first-order, grouped, got 'none'"),
        ("stages=", "stages are some of backbone, label, filter, finetune"),
        ("stages=filter,export", "stages are some of backbone, label, filter, finetune, got filter, export"),
        ("reducer.name=topk", "reducer.name expects one of filter, evit, tome, dynamic, idle, frequency, got 'topk'"),
        ("reducer.fuse=1", "reducer.fuse expects true or false, got '1'"),
        ("reducer.stages=", "reducer.stages expects a list of whole numbers, got ['']"),
        ("reducer.stages=4,b", "reducer.stages expects a list of whole numbers, got [4, 'b']"),
        ("labels.limit", "expected NAME=VALUE, such as labels.mask_point=before, got 'labels.limit'"),
    ],
)
def test_what_no_recipe_has_is_refused(text, words):
    with pytest.raises(RecipeError) as caught:
        changed(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "texts",
    [
        ["labels.method=grouped", "labels.group_size=5"],
        ["labels.method=first-order", "labels.mask=removed"],
        ["reducer.name=tome", "reducer.fuse=false"],
        ["reducer.fuse=false", "reducer.windows=2,1"],
        ["reducer.stages=4,7", "stages=label,filter"],
        ["reducer.name=evit", "reducer.stages=7,4"],
        ["reducer.name=frequency", "reducer.windows=3,2"],
        ["reducer.name=idle", "stages=label,filter"],
        ["reducer.name=evit", "reducer.schedule=constant"],
    ],
)
def test_settings_that_exclude_each_other_are_refused(texts):
    with pytest.raises(RecipeError, match="exclude each other"):
        changed(*texts)


@pytest.mark.parametrize(("value", "words"), [("1", "ambiguous: write 1.0 or 100%"), ("2.5", "keep must be a ratio")])
def test_a_budget_that_could_mean_two_things_is_refused(value, words):
    with pytest.raises(BudgetError, match=words):
        changed(f"keep={value}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("keep = true", "keep expects a ratio"),
        ("keep = 0", "keep expects a ratio"),
        ("seed = 1.5", "seed expects a whole number, got 1.5"),
        ("seed = true", "seed expects a whole number, got True"),
        ("stages = 'label'", "stages expects a list of stages, got 'label'"),
        ("[labels]\nlimit = '100'", "labels.limit expects a whole number in [0, inf), got '100'"),
        ("[labels]\nmask = ['zero']", "labels.mask expects one of zero, mean, removed, got ['zero']"),
        ("[label]\nmask = 'zero'", "no setting 'label.mask'. Did you mean labels.mask"),
        ("[label]\n", "no setting 'label'"),
        ("labels = 3", "labels is a table"),
        ("[labels.mask]\npoint = 'after'", "no setting 'labels.mask.point'"),
        ("keep = ", "is not TOML"),
        ("[filter]\ndepth = 1000000", "a filter's depth is a whole number from 1 to 100, got 1000000"),
        ("seed = " + "9" * 5000, "is not TOML"),
        ("keep = 0.5\nkeep = 0.5", "is not TOML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, words):
    path = tmp_path / "recipe.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        recipe_from_source(path)
    assert words in str(caught.value)


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is none at"):
        recipe_from_source(tmp_path / "recipe.toml")
    with pytest.raises(RecipeError, match="or one of the built-in recipes default, frozen, got 'fast'"):
        recipe_from_source("fast")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="is not TOML"):
        recipe_from_source(tmp_path / "binary.toml")
