"""timm's changes of images: from each image's own seed alone, however a step is divided."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import small_model

from tokfilter.errors import DataError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.data import ImageList
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.finetune import FineTuning, train_backbone
from tokfilter.train.fit import fit
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.train.pixel_changes import PixelChange, erased, image_seed, seeded
from tokfilter.train.share import shares_of_step
from tokfilter.vit.info import preprocessing_from_backbone

ALL = Augmentation(
    zoom=0.9, flip=0.5, crop_scale=0.3, auto_augment="rand-m9-mstd0.5-inc1", jitter=0.4, erasing=0.5, mixup=0.8
)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images of 40 x 48 pixels in five classes."""
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (12, 40, 48, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    names = tuple(f"{i}.png" for i in range(12))
    return ImageList(folder, names, tuple(i % 5 for i in range(12)), tuple("abcde"))


def dataset_of(images, **options):
    return ImageDataset(images, preprocessing_from_backbone(small_model().backbone), **options)


@pytest.mark.parametrize(
    "change",
    [
        Augmentation(crop_scale=0.2),
        Augmentation(jitter=0.5),
        Augmentation(auto_augment="rand-m9-p1"),
        Augmentation(auto_augment="augmix"),
        Augmentation(auto_augment="original", jitter=0.3, crop_scale=0.5),
    ],
)
def test_an_images_change_depends_on_its_seed_alone(images, change):
    changed = PixelChange(change, dataset_of(images).preprocessing)
    image, before = images.image(0).resize((32, 32)), states()
    once = [changed(image, seed) for seed in range(6)]
    assert states() == before
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    again = [changed(image, seed) for seed in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(once, reversed(again), strict=True))
    assert len({a.numpy().tobytes() for a in once}) > 1


def test_generators_are_restored_after_an_error():
    before = states()
    with pytest.raises(KeyError), seeded(1):
        random.random()
        raise KeyError
    assert states() == before
    assert len({image_seed(step, i) for step in range(20) for i in range(20)}) == 400


@pytest.mark.parametrize("change", [Augmentation(auto_augment="rand-m9-p1"), Augmentation(crop_scale=0.2)])
def test_images_in_memory_and_in_files_are_changed_alike(images, change):
    held, read = (dataset_of(images, **options).changing(change) for options in ({}, {"hold_bytes": 0}))
    order = [torch.tensor([3, 0, 7]), torch.tensor([0, 5])]
    one, other, third = (
        list(part.batches(order, seeds)) for part, seeds in ((held, [1, 2]), (read, [1, 2]), (read, [2, 1]))
    )
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert not torch.equal(one[0].images[1], one[1].images[0])  # image 0 in two steps
    assert not torch.equal(one[0].images, third[0].images)
    plain = dataset_of(images)
    assert plain.changing(Augmentation(zoom=0.5, erasing=1.0)) is plain
    with pytest.raises(ValueError, match="need the seeds"):
        next(held.batches(order))


@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_erased_as_the_whole_step(seed):
    images, before = torch.zeros(10, 3, 16, 16), states()

    def result(share):
        return erased(share.of(images), 0.6, torch.Generator().manual_seed(seed), share)

    (whole,) = shares_of_step(torch.arange(10), 1, [0])
    changed = (result(whole) != 0).flatten(1).any(1)
    assert 0 < changed.sum() < 10 and torch.equal(images, torch.zeros(10, 3, 16, 16))
    assert torch.equal(result(whole), erased(images, 0.6, torch.Generator().manual_seed(seed)))
    for share in shares_of_step(torch.arange(10), 3, range(3)):
        assert torch.equal(result(share), share.of(result(whole)))
    assert states() == before


def test_training_sees_the_same_images_in_one_pass_and_in_several(images):
    def trained(accumulate):
        config = FineTuning(TrainingPlan(2, batch=8, accumulate=accumulate), augmentation=ALL)
        return train_backbone(small_model(), dataset_of(images), config, 0, RunDir())

    whole, parts = trained(1), trained(3)
    assert whole == pytest.approx(parts, abs=1e-5) and whole["first_loss"] > 1


def test_a_run_that_was_killed_goes_on_bit_by_bit(images, tmp_path):
    config = FineTuning(TrainingPlan(4, batch=6), augmentation=ALL)

    def killed(step, fraction):
        if fraction > 0.4:
            raise KeyboardInterrupt

    whole, parts = small_model(), small_model()
    train_backbone(whole, dataset_of(images), config, 0, RunDir())
    with pytest.raises(KeyboardInterrupt):
        train_backbone(small_model(), dataset_of(images), config, 0, RunDir(tmp_path, save_seconds=0, progress=killed))
    random.seed(5)
    train_backbone(parts, dataset_of(images), config, 0, RunDir(tmp_path, resume=True))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_settings_enter_the_identity_only_where_they_are_set():
    assert Augmentation().identity() == {"zoom": 1.0, "flip": 0.0}
    assert replace(ALL, mixup=0.0).identity().keys() == {
        "zoom", "flip", "crop_scale", "auto_augment", "jitter", "erasing",
    }  # fmt: skip


def test_a_loaders_tensors_are_erased_and_not_changed_as_files():
    data = [(torch.zeros(3, 32, 32), i % 5) for i in range(8)]
    for setting in ({"data.jitter": 0.4}, {"data.crop_scale": 0.5}, {"data.auto_augment": "rand"}):
        with pytest.raises(DataError, match="give a folder or a .tar archive of images"):
            fit(small_model(), data, overrides=setting)
    settings = {"data.erasing": 1.0, "stages": ["backbone"], "backbone.epochs": 1, "backbone.batch": 4}
    record = fit(small_model(), data, overrides=settings)
    assert record["backbone"]["augmentation"]["erasing"] == 1.0 and record["backbone"]["steps"] == 2
