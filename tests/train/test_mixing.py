"""Mixup and cutmix: the same for a share as for the whole step, and numpy's generator stays as it was."""

import numpy as np
import pytest
import torch
from small_models import small_model

from tokfilter.errors import DataError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.finetune import FineTuning, check_training, train_backbone
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.train.mixing import mixed
from tokfilter.train.recipe import config_from_recipe
from tokfilter.train.recipe_file import recipe_from_source, values_from_texts
from tokfilter.train.share import shares_of_step
from tokfilter.train.tensor_dataset import TensorDataset, TensorImages
from tokfilter.vit.info import preprocessing_from_backbone


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_mixed_as_the_whole_step(mixup, cutmix, seed):
    images, labels = torch.randn(10, 3, 8, 8), torch.arange(10) % 4
    before = np.random.get_state()[1].copy()

    def result(share):
        generator = torch.Generator().manual_seed(seed)
        return mixed(share.of(images), share.of(labels), mixup, cutmix, 4, 0.1, generator)

    (whole,) = shares_of_step(torch.arange(10), 1, [0])
    assert not torch.equal(result(whole)[0], images) and result(whole)[1].shape == (10, 4)
    torch.testing.assert_close(result(whole)[1].sum(1), torch.ones(10))
    for share in shares_of_step(torch.arange(10), 3, range(3)):
        for found, expected in zip(result(share), result(whole), strict=True):
            torch.testing.assert_close(found, share.of(expected))
    assert (np.random.get_state()[1] == before).all()


def trained(batch, accumulate=1):
    model = small_model()
    pixels = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = TensorImages(tuple(map(str, range(12))), "0" * 64)
    preprocessing = preprocessing_from_backbone(model.backbone)
    dataset = TensorDataset(images, preprocessing, pixels, torch.arange(12) % 5, torch.arange(12))
    plan = TrainingPlan(2, batch=batch, accumulate=accumulate)
    config = FineTuning(plan, augmentation=Augmentation(mixup=0.8, cutmix=1.0))
    return train_backbone(model, dataset, config, 0, RunDir())


def test_training_mixes_the_same_images_in_one_pass_and_in_several():
    whole, parts = trained(8), trained(8, accumulate=3)
    assert whole == pytest.approx(parts, abs=1e-5) and whole["first_loss"] > 1
    with pytest.raises(DataError, match="their number must be even, got 7"):
        trained(7)


def test_classes_of_pixels_are_not_mixed():
    with pytest.raises(DataError, match="this model has a mask head"):
        check_training(FineTuning(augmentation=Augmentation(cutmix=1.0)), "filter", 8, 16, masks=True)
    check_training(FineTuning(), "filter", 7, 16, masks=True)


def test_mixing_is_for_class_labels_and_enters_the_identity():
    with pytest.raises(DataError, match="mix class labels, which the loss feature does not use"):
        FineTuning(augmentation=Augmentation(mixup=0.8), loss="feature")
    assert FineTuning().identity()["augmentation"] == {"zoom": 1.0, "flip": 0.0}
    config = config_from_recipe(recipe_from_source("default", values_from_texts(["data.cutmix=1"])), 640)
    assert config.backbone.identity()["augmentation"] == {"zoom": 1.0, "flip": 0.0, "cutmix": 1.0}
