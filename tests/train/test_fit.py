"""fit: a model in memory is trained in place, on a folder, on a DataLoader, on a Dataset."""

import warnings
from dataclasses import replace

import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.errors import DataError, RecipeError, UnsupportedModelError
from tokfilter.train.fit import fit
from tokfilter.train.recipe import Recipe
from tokfilter.vit.bundle import load_bundle, save_bundle
from tokfilter.vit.info import ModelInfo, preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.patch import patch
from tokfilter.vit.scorers import NormScorer

QUICK = {"backbone.epochs": 1, "filter.epochs": 1, "finetune.epochs": 1, "filter.batch": 8, "finetune.batch": 8}


ARCHITECTURE = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10},
)


def small(classes=10, **options):
    torch.manual_seed(0)
    return FilteredViT(
        timm.create_model(ARCHITECTURE.name, **{**ARCHITECTURE.kwargs, "num_classes": classes}), **options
    )


def images(count=24, classes=10):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % classes)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return write_scenes(root, 0, train=30, test=20, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))


def test_a_loader_trains_filter_and_backbone_in_place():
    model = small()
    before, random_state = copied(model), torch.get_rng_state()
    steps = []
    record = fit(model, DataLoader(images(), 10), overrides=QUICK, progress=lambda step, fraction: steps.append(step))
    after = copied(model)
    assert not torch.equal(before["backbone.head.weight"], after["backbone.head.weight"])
    assert not any(same({n: v}, after) for n, v in before.items() if "scorer" in n and n.endswith("mlp.1.weight"))
    assert record["data"]["train"]["images"] == 24 and {"label", "filter", "finetune"} < record.keys()
    assert record["label"]["images"] == 24 and "backbone" not in record and "accuracy" not in record
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(random_state, torch.get_rng_state())
    assert steps[0] == "reading images" and steps[-1].startswith("finetune")


def test_a_part_of_the_images_is_labelled():
    record = fit(small(), images(), overrides={**QUICK, "labels.limit": 7, "stages": ["label", "filter"]})
    assert record["label"]["images"] == 7 and record["data"]["train"]["images"] == 24


def test_a_dataset_and_a_loader_of_it_give_the_same_model():
    one, other = small(), small()
    fit(one, images(), overrides=QUICK)
    fit(other, DataLoader(images(), 5), overrides=QUICK)
    assert same(copied(one), copied(other))


def test_a_folder_is_measured_on_its_test_images(folder):
    model = small(keep=4)
    record = fit(model, folder, overrides=QUICK)
    assert [row["tokens"] for row in record["accuracy"]] == [16, 4]
    assert record["data"]["test"]["images"] == 20 and record["data"]["class_names"] == list("0123456789")


def test_new_weights_are_trained_by_the_stage_backbone(folder, tmp_path):
    stages = ["backbone", "label", "filter", "finetune"]
    record = fit(small(), str(folder), overrides={**QUICK, "stages": stages}, folder=tmp_path / "run")
    assert record["backbone"]["steps"] == 1
    assert (tmp_path / "run/labels/labels.json").is_file() and (tmp_path / "run/finetune.checkpoint.pt").is_file()


def test_an_interrupted_fit_resumes(tmp_path):
    class Stop(Exception):  # noqa: N818
        pass

    def stop(step, fraction):
        if step.startswith("finetune") and fraction > 0.5:
            raise Stop

    whole, halved = small(), small()
    overrides = {**QUICK, "finetune.epochs": 4, "save_seconds": 0}
    fit(whole, images(), overrides=overrides)
    with pytest.raises(Stop):
        fit(halved, images(), overrides=overrides, folder=tmp_path, progress=stop)
    again = small()
    fit(again, images(), overrides=overrides, folder=tmp_path, resume=True)
    assert same(copied(whole), copied(again))


def test_the_recipe_shapes_the_filter_or_leaves_the_models_shape():
    model = small()
    fit(model, images(), recipe=Recipe(), overrides={**QUICK, "stages": ["label", "filter"], "filter.width": 8})
    assert model.scorer.config.width == 8
    fit(model, images(), overrides={**QUICK, "stages": ["label", "filter"]})
    assert model.scorer.config.width == 8


def test_a_filter_that_reads_neighbours_is_trained():
    model = small()
    fit(model, images(), overrides={**QUICK, "filter.neighbours": True})
    assert model.scorer.config.neighbours and model.scorer.trained
    assert model.scorer.neighbours.convolution.weight.abs().max() > 0, "zero at initialisation"


def test_fit_takes_neighbours_away_and_leaves_the_models_own_shape_where_it_is_asked_for_them():
    model = small()
    model.drop.scorer = model.new_filter(FilterConfig(width=12, neighbours=True))
    fit(model, images(), overrides={**QUICK, "filter.neighbours": False})
    assert (model.scorer.config.width, model.scorer.config.neighbours) == (12, False)
    fit(model, images(), overrides={**QUICK, "filter.neighbours": True})
    assert (model.scorer.config.width, model.scorer.config.neighbours) == (12, True)


def test_a_trained_context_stays_when_the_filter_is_trained_again():
    model = small()
    fit(model, images(), overrides={**QUICK, "filter.global_context": 4})
    fit(model, images(), overrides={**QUICK, "filter.width": 8})
    assert (model.scorer.config.width, model.scorer.config.summary) == (8, 4)


def test_settings_that_exclude_each_other_are_refused_before_the_data_are_read(tmp_path):
    with pytest.raises(DataError, match="must be even, got 33"):
        fit(small(), tmp_path / "nowhere", overrides={"finetune.batch": 33, "data.mixup": 0.2})


def test_frozen_backbone_parameters_stay_marked_as_frozen():
    model = small()
    model.backbone.patch_embed.requires_grad_(False)
    fit(model, images(), overrides={**QUICK, "stages": ["label", "filter"]})
    assert not any(parameter.requires_grad for parameter in model.backbone.patch_embed.parameters())
    assert model.backbone.head.weight.requires_grad


class Photos(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, position):
        return Image.new("RGB", (32, 32)), position


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TensorDataset(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4)), "torch.uint8: scale to 0..1"),
        (TensorDataset(torch.zeros(4, 3, 28, 28), torch.arange(4)), "takes images of [3, 32, 32], got [4, 3, 28, 28]"),
        (TensorDataset(torch.zeros(4, 3, 32, 32), torch.arange(4) + 7), "10 classes, so labels are 0..9, got 7 to 10"),
        (TensorDataset(torch.zeros(4, 3, 32, 32), torch.rand(4)), "labels [4] of torch.float32"),
        (TensorDataset(torch.zeros(4, 3, 32, 32)), "data must yield (images, labels)"),
        (TensorDataset(torch.zeros(0, 3, 32, 32), torch.arange(0)), "got no batch"),
        (Photos(), "Give the Dataset a transform"),
        (7, "a folder of class folders, a torch Dataset or a DataLoader, got int"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(data, words):
    with pytest.raises(DataError) as caught:
        fit(small(), data, overrides=QUICK)
    assert words in str(caught.value)


def test_a_folder_of_other_classes_is_refused(folder):
    with pytest.raises(DataError, match="has 10 classes, the model's head has 5"):
        fit(small(classes=5), folder, overrides=QUICK)


def test_a_recipe_is_checked_before_the_data_is_read(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean finetune.epochs"):
        fit(small(), tmp_path / "nowhere", overrides={"finetune.epoch": 1})


def test_a_scorer_without_parameters_cannot_be_trained():
    model = small(scorer=NormScorer())
    with pytest.raises(UnsupportedModelError, match="NormScorer has no parameters to train"):
        fit(model, images(), overrides=QUICK)


def test_undecodable_images_give_a_warning(folder):
    broken = folder / "train/3/broken.png"
    broken.write_bytes(b"no image")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(small(), folder, overrides={**QUICK, "stages": ["label", "filter"]})
    finally:
        broken.unlink()
    assert any("broken.png" in str(warning.message) for warning in caught)


def test_a_bundle_of_the_model_has_the_record_and_the_class_names(folder, tmp_path):
    model = small()
    model.info = ModelInfo(ARCHITECTURE, preprocessing_from_backbone(model.backbone))
    record = fit(model, folder, overrides={**QUICK, "data.crop_pct": 1})
    save_bundle(model, tmp_path / "model.pt")
    found = load_bundle(tmp_path / "model.pt")
    assert found.class_names == list("0123456789") and found.preprocessing.crop_pct == 1.0
    assert found.training["finetune"] == record["finetune"] and len(found.golden.images) == 4
    fit(model, images(), overrides=QUICK)
    assert model.info.class_names == tuple("0123456789") and model.info.examples.shape == (4, 3, 32, 32)


def test_the_filter_is_marked_as_trained():
    model = small()
    with pytest.warns(UserWarning, match="untrained"):
        model(torch.zeros(1, 3, 32, 32), keep=0.5)
    fit(model, images(), overrides=QUICK)
    assert model.scorer.trained


def test_preprocessing_and_class_order_of_the_model_are_kept(tmp_path):
    data = write_scenes(tmp_path, 0, train=40, test=20, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    model = small()
    plain = preprocessing_from_backbone(model.backbone)
    own = replace(plain, mean=(0.3, 0.3, 0.3), crop_mode="squash-floor")
    model.info = ModelInfo(ARCHITECTURE, own, class_names=tuple("9876543210"))
    overrides = {"stages": ["label"], "labels.limit": 8}
    record = fit(model, data, overrides=overrides, preprocessing={"std": (0.7, 0.7, 0.7)})
    assert record["data"]["class_names"] == list("9876543210") == list(model.info.class_names)
    assert model.info.preprocessing == replace(own, std=(0.7, 0.7, 0.7))
    for wrong, problem in (({"input_size": (3, 8, 8)}, "leave input_size out"), ({"means": 1}, "has no means")):
        with pytest.raises(DataError, match=problem):
            fit(model, data, overrides=overrides, preprocessing=wrong)


@pytest.mark.parametrize("reducer", ["evit", ("dynamic", {"stages": (2,)})])
def test_another_reducer_is_fine_tuned_with_the_backbone(reducer):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 10}
    model = patch(timm.create_model("vit_tiny_patch16_224", **sizes), reducer=reducer)
    before = copied(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = fit(model, images(), overrides=QUICK)
    assert {"finetune"} == record.keys() & {"label", "filter", "finetune"} and model.drop.trained
    learned = [name for name in before if "predictors" in name]
    assert bool(learned) == (reducer != "evit")
    assert not any(torch.equal(before[name], model.state_dict()[name]) for name in learned if name.endswith("weight"))
    with pytest.raises(DataError, match="the stage label trains a token filter, and the reducer is"):
        fit(model, images(), overrides={**QUICK, "stages": ["label", "filter"]})
