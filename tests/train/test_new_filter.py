"""What a new filter has that no setting asked for, and the models and trainings that get none of it."""

from dataclasses import replace

import pytest
import timm
from small_models import small_embedding_model, small_mask_model, small_model

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.train.built_in import FROZEN
from tokfilter.train.config import TrainConfig
from tokfilter.train.new_filter import shape_of_new_filter
from tokfilter.train.recipe import Recipe, config_from_recipe
from tokfilter.train.recipe_file import changed_recipe
from tokfilter.vit.model import FilteredViT


def without_class_token():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **sizes)
    return FilteredViT(model)


def with_registers_alone():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", class_token=False, reg_tokens=2, global_pool="avg", **sizes)
    return FilteredViT(model)


STAGES = ("label", "filter", "finetune")
DEFAULTS = TrainConfig(stages=STAGES, new_context=16, neighbours=None)


def shape_of(config, old=None, trained=False, model=small_model, shape=FilterConfig(width=8)):  # noqa: B008
    return shape_of_new_filter(shape, old, trained, model(), config)


@pytest.mark.parametrize(
    ("model", "stages", "width"),
    [
        (small_model, STAGES, 16),
        (small_embedding_model, STAGES, 16),
        (small_model, ("label", "filter"), 0),
        (small_mask_model, STAGES, 0),
        (without_class_token, STAGES, 0),
        (with_registers_alone, STAGES, 0),
    ],
)
def test_a_new_filter_gets_a_context_where_it_is_trained_and_read(model, stages, width):
    found = shape_of(replace(DEFAULTS, stages=stages), model=model)
    assert found == FilterConfig(width=8, summary=width)


def test_registers_are_no_class_token():
    with pytest.raises(UnsupportedModelError, match="added to the class token"):
        with_registers_alone().new_filter(FilterConfig(summary=4))


def test_what_was_asked_for_stays_and_none_is_none():
    asked = FilterConfig(summary=3, neighbours=True)
    assert shape_of(replace(DEFAULTS, filter_config=asked), shape=asked) == asked
    assert shape_of(TrainConfig(stages=STAGES)) == FilterConfig(width=8)
    old = FilterConfig(neighbours=True)
    for trained in (True, False):
        assert not shape_of(replace(DEFAULTS, neighbours=False), old, trained, shape=old).neighbours


def test_a_trained_filter_that_is_trained_again_keeps_what_no_setting_asks_for():
    old = FilterConfig(summary=3, neighbours=True)
    for config in (DEFAULTS, replace(DEFAULTS, frozen=True)):
        assert shape_of(config, old, trained=True) == FilterConfig(width=8, summary=3, neighbours=True)
        assert shape_of(config, FilterConfig(), trained=True) == FilterConfig(width=8)


def test_the_recipe_asks_for_neighbours_or_leaves_them_unset():
    old = FilterConfig(neighbours=True)
    for recipe, first, again in ((Recipe(), False, True), (FROZEN, False, True)):
        assert shape_of(config_from_recipe(recipe, 100)).neighbours is first
        assert shape_of(config_from_recipe(recipe, 100), old, trained=True).neighbours is again
        for asked in (True, False):
            config = config_from_recipe(changed_recipe(recipe, {"filter.neighbours": asked}), 100)
            assert shape_of(config).neighbours is shape_of(config, old, trained=True).neighbours is asked
