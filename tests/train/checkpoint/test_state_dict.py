"""State dicts as training scripts write them: nests, averages (EMA), prefixes; which was taken is said."""

import argparse

import pytest
import torch
from torch import nn

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import DataError
from tokfilter.train.checkpoint.state_dict import state_dict_from_content, state_dict_from_file
from tokfilter.train.start import start_from_timm
from tokfilter.vit.backbone import create_backbone

SMALL = Architecture(
    "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
)


@pytest.fixture(scope="module")
def raw():
    return create_backbone(Architecture(SMALL.name, {**SMALL.kwargs, "num_classes": 10})).state_dict()


@pytest.fixture(scope="module")
def average(raw):
    return {name: value + 1 for name, value in raw.items()}


def below(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


FORMS = {
    "Lightning": (lambda r, e: {"state_dict": below("model.", r), "epoch": 3}, "raw", "state_dict, the .* 'model.'"),
    "Lightning net": (lambda r, e: {"state_dict": below("net.", r) | {"loss.weight": torch.ones(2)}}, "raw", "'net.'"),
    "compiled, distributed": (lambda r, e: {"model": below("module._orig_mod.", r)}, "raw", "model"),
    "Lightning, distributed": (lambda r, e: {"state_dict": below("module.model.", r)}, "raw", "'model.'"),
    "timm's average": (lambda r, e: {"state_dict": r, "state_dict_ema": e}, "average", "state_dict_ema"),
    "deit's average": (lambda r, e: {"model": r, "model_ema": below("module.", e)}, "average", "model_ema"),
    "average with its counters": (
        lambda r, e: {"model": r, "ema": {"decay": 0.9, "updates": 7, "state_dict": e}},
        "average",
        "ema.state_dict",
    ),
    "torch's AveragedModel": (lambda r, e: below("module.", e) | {"n_averaged": torch.tensor(3)}, "average", ""),
    "Lightning with an average": (
        lambda r, e: {"state_dict": below("model.", r) | below("model_ema.module.", e)},
        "average",
        "'model_ema.module.'",
    ),
    "average beside the model": (lambda r, e: below("model.", r) | below("ema.", e), "average", "'ema.'"),
    "nested twice": (lambda r, e: {"checkpoint": {"state_dict": below("module.", r)}}, "raw", "checkpoint.state_dict"),
    "parameters": (lambda r, e: {"params": r, "step": 3}, "raw", "params"),
    "none of these": (lambda r, e: r, "raw", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_found_and_named(tmp_path, raw, average, form):
    make, which, part = FORMS[form]
    content = make(raw, average)
    content = content | {"args": argparse.Namespace(lr=0.1)} if "model" in content else content
    torch.save(content, tmp_path / "w.pth")
    start = start_from_timm(SMALL, 10, tmp_path / "w.pth")
    expected = {"raw": raw, "average": average}[which]
    for name, value in start.backbone.state_dict().items():
        assert torch.equal(value, expected[name]), name
    if part:
        import re

        assert re.search(part, start.notes[0]) and re.search(part, start.origin)
    else:
        assert start.notes == () and start.origin == "checkpoint w.pth"


def test_several_models_in_one_file_are_refused(raw):
    content = {"state_dict": below("student.", raw) | below("teacher.", raw)}
    with pytest.raises(DataError, match="holds 2 models, below 'student.', 'teacher.'. Save the state_dict"):
        state_dict_from_content(content, "w.pth")


@pytest.mark.parametrize("content", [{}, [], 3, {"state_dict": {}}, {"a": {"b": torch.ones(1)}}, {3: torch.ones(1)}])
def test_a_file_without_named_tensors_is_refused(content):
    with pytest.raises(DataError, match="w.pth has no named tensors"):
        state_dict_from_content(content, "w.pth")


def test_a_nest_without_end_ends(raw):
    content: dict = {}
    content["model"] = content
    with pytest.raises(DataError, match="no named tensors"):
        state_dict_from_content(content, "w.pth")
    assert state_dict_from_content({"model": {"state_dict": raw}}, "w.pth").part == "model.state_dict"


def test_openclip_prefixes_are_left_to_timm(raw):
    weights = below("visual.trunk.", raw)
    assert state_dict_from_content(weights, "w.pth").tensors.keys() == weights.keys()


def test_an_object_that_needs_unpickling_is_refused(tmp_path):
    torch.save({"state_dict": nn.Linear(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="tokfilter never unpickles") as refused:
        state_dict_from_file(tmp_path / "w.pth")
    assert "(it has a pickled object of torch.nn.modules.linear.Linear)" in str(refused.value)
    assert "can still be loaded" not in str(refused.value), "torch's advice is to unpickle"
