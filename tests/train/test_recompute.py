"""Activation checkpointing: the same losses and weights, from fewer activations."""

import pytest
import torch
from small_models import SMALL, small_model

from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import DataError
from tokfilter.train.finetune import FineTuning, train_elastic
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.train.recipe_file import recipe_from_source, values_from_texts
from tokfilter.train.recompute import recomputed_blocks
from tokfilter.train.tensor_dataset import TensorDataset, TensorImages
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT


def test_blocks_that_run_again_give_the_same_weights_at_every_budget():
    found = []
    for checkpointing in ("off", "on"):
        model, calls = small_model(), []
        model.drop.state.warned = True
        model.backbone.blocks[1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        pixels = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        images = TensorImages(tuple(map(str, range(12))), "0" * 64)
        preprocessing = preprocessing_from_backbone(model.backbone)
        dataset = TensorDataset(images, preprocessing, pixels, torch.arange(12) % 5, torch.arange(12))
        config = FineTuning(TrainingPlan(2, batch=8), checkpointing=checkpointing)
        metrics = train_elastic(model, dataset, config, 0, RunDir())
        found.append((metrics, model.state_dict(), len(calls)))
        assert not model.backbone.grad_checkpointing
    (metrics, weights, calls), (again, other, more) = found
    assert (calls, more) == (8, 16) and metrics == pytest.approx(again, abs=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-6)


def test_reducers_inside_blocks_are_refused():
    model = FilteredViT(create_backbone(SMALL), reducer=ReducerConfig("evit"))
    for refused, name in ((model, "evit"), (torch.nn.Linear(1, 1), "Linear")):
        problem = f"dropped before its blocks, by the filter, got {name}"
        with pytest.raises(DataError, match=problem), recomputed_blocks(refused, "on"):
            pass
    with recomputed_blocks(model, "off"):
        assert not model.backbone.grad_checkpointing


def test_recipes_and_identities_have_the_setting():
    recipe = recipe_from_source("default", values_from_texts(["finetune.checkpointing=on"]))
    assert (recipe.finetune.checkpointing, recipe.backbone.checkpointing) == ("on", "off")
    assert "checkpointing" not in FineTuning().identity()
    assert FineTuning(checkpointing="on").identity()["checkpointing"] == "on"
