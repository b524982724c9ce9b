"""The global context that a new filter gets by default, and the models and trainings that get none."""

import pytest
import timm
from small_models import small_embedding_model, small_mask_model, small_model

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.train.config import TrainConfig
from tokfilter.train.context import with_new_context
from tokfilter.vit.model import FilteredViT


def without_class_token():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **sizes)
    return FilteredViT(model)


def with_registers_alone():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", class_token=False, reg_tokens=2, global_pool="avg", **sizes)
    return FilteredViT(model)


@pytest.mark.parametrize(
    ("model", "stages", "width"),
    [
        (small_model, ("label", "filter", "finetune"), 16),
        (small_embedding_model, ("label", "filter", "finetune"), 16),
        (small_model, ("label", "filter"), 0),
        (small_mask_model, ("label", "filter", "finetune"), 0),
        (without_class_token, ("label", "filter", "finetune"), 0),
        (with_registers_alone, ("label", "filter", "finetune"), 0),
    ],
)
def test_a_new_filter_gets_a_context_where_it_is_trained_and_read(model, stages, width):
    found = with_new_context(FilterConfig(width=8), model(), TrainConfig(stages=stages, new_context=16))
    assert found == FilterConfig(width=8, summary=width)


def test_registers_are_no_class_token():
    with pytest.raises(UnsupportedModelError, match="added to the class token"):
        with_registers_alone().new_filter(FilterConfig(summary=4))


def test_a_width_that_was_asked_for_stays_and_none_is_none():
    stages = ("label", "filter", "finetune")
    shape = FilterConfig(summary=3)
    assert with_new_context(shape, small_model(), TrainConfig(stages=stages, new_context=16)) == shape
    assert with_new_context(FilterConfig(), small_model(), TrainConfig(stages=stages)) == FilterConfig()
