"""A run is continued by the same model only, also where no tensor tells two models apart."""

from dataclasses import replace

import pytest
import torch

from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import DataError
from tokfilter.train.filter_training import FilterTraining, train_filter
from tokfilter.train.finetune import FineTuning, train_elastic
from tokfilter.train.labels import LabelConfig
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.train.structure import structure_text
from tokfilter.train.tensor_dataset import TensorDataset, TensorImages
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
SAME_TENSORS = {
    "heads": ({"num_heads": 4}, "filter"),
    "dropped paths": ({"drop_path_rate": 0.5}, "filter"),
    "dropout": ({"proj_drop_rate": 0.1}, "filter"),
    "evit": ({}, "evit"),
    "idle": ({}, "idle"),
}


def model(name="plain"):
    arguments, reducer = SAME_TENSORS.get(name, ({}, "filter"))
    torch.manual_seed(0)
    backbone = create_backbone(Architecture("vit_tiny_patch16_224", {**SMALL, **arguments}))
    made = FilteredViT(backbone, reducer=ReducerConfig(reducer))
    made.drop.state.warned = True
    return made


def dataset(made):
    pixels = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = TensorImages(tuple(map(str, range(12))), "0" * 64)
    preprocessing = preprocessing_from_backbone(made.backbone)
    return TensorDataset(images, preprocessing, pixels, torch.arange(12) % 5, torch.arange(12))


def tuned(made, folder, resume=False):
    return train_elastic(made, dataset(made), FineTuning(TrainingPlan(2, batch=8)), 0, RunDir(folder, resume))


def test_every_model_has_a_text_of_its_own_and_the_same_one_each_time():
    texts = [structure_text(model(name)) for name in ("plain", *SAME_TENSORS)]
    assert len(set(texts)) == len(texts)
    assert texts == [structure_text(model(name)) for name in ("plain", *SAME_TENSORS)]


@pytest.mark.parametrize(("name", "other"), [("plain", "heads"), ("plain", "dropped paths"), ("evit", "idle")])
def test_fine_tuning_is_not_continued_with_another_model(tmp_path, name, other):
    first = tuned(model(name), tmp_path)
    with pytest.raises(DataError, match="of another model"):
        tuned(model(other), tmp_path, resume=True)
    assert tuned(model(name), tmp_path, resume=True) == first


def test_a_filter_is_not_continued_with_another_activation(tmp_path):
    config = FilterTraining(TrainingPlan(2, batch=8))

    def run(activation, resume):
        made = model()
        torch.manual_seed(1)
        made.drop.scorer = made.new_filter(replace(FilterConfig(), activation=activation))
        delta = torch.rand(12, 16, generator=torch.Generator().manual_seed(2))
        return train_filter(made, dataset(made), delta, LabelConfig(), config, 0, RunDir(tmp_path, resume))

    first = run("gelu", resume=False)
    with pytest.raises(DataError, match="of another model"):
        run("relu", resume=True)
    assert run("gelu", resume=True) == first
