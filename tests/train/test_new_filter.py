"""What a new filter has that no setting asked for, and the models and trainings that get none of it."""

import pytest
import timm
from small_models import small_embedding_model, small_mask_model, small_model

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.train.built_in import FROZEN
from tokfilter.train.config import TrainConfig
from tokfilter.train.new_filter import with_defaults, with_parts_of
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


@pytest.mark.parametrize(
    ("model", "stages", "width", "neighbours"),
    [
        (small_model, STAGES, 16, True),
        (small_embedding_model, STAGES, 16, True),
        (small_model, ("label", "filter"), 0, True),
        (small_mask_model, STAGES, 0, False),
        (without_class_token, STAGES, 0, True),
        (with_registers_alone, STAGES, 0, True),
    ],
)
def test_a_new_filter_gets_a_context_where_it_is_trained_and_read(model, stages, width, neighbours):
    config = TrainConfig(stages=stages, new_context=16, new_neighbours=True)
    found = with_defaults(FilterConfig(width=8), model(), config)
    assert found == FilterConfig(width=8, summary=width, neighbours=neighbours)


def test_registers_are_no_class_token():
    with pytest.raises(UnsupportedModelError, match="added to the class token"):
        with_registers_alone().new_filter(FilterConfig(summary=4))


def test_a_width_that_was_asked_for_stays_and_none_is_none():
    shape = FilterConfig(summary=3)
    assert with_defaults(shape, small_model(), TrainConfig(stages=STAGES, new_context=16)) == shape
    assert with_defaults(FilterConfig(), small_model(), TrainConfig(stages=STAGES)) == FilterConfig()


def test_a_filter_that_is_trained_again_keeps_what_no_setting_asks_for():
    old, unset = FilterConfig(width=8, summary=3, neighbours=True), TrainConfig(new_context=16, new_neighbours=True)
    assert with_parts_of(old, FilterConfig(), unset) == FilterConfig(summary=3, neighbours=True)
    assert with_parts_of(FilterConfig(), FilterConfig(width=8), unset) == FilterConfig(width=8)
    assert with_parts_of(old, FilterConfig(summary=5), TrainConfig()) == FilterConfig(summary=5)


def test_the_recipe_adds_neighbours_unless_it_says_or_the_backbone_is_frozen():
    asked = {name: changed_recipe(Recipe(), {"filter.neighbours": name}) for name in (True, False)}
    for recipe, shape, new in (
        (Recipe(), False, True),
        (asked[True], True, False),
        (asked[False], False, False),
        (FROZEN, False, False),
    ):
        found = config_from_recipe(recipe, images=100)
        assert (found.filter_config.neighbours, found.new_neighbours) == (shape, new)
