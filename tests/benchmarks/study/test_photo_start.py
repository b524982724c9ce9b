"""The training before the whole images, with a tiny ViT and small sources."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tokfilter.artifacts.bundle import Architecture
from tokfilter.benchmarks.study import photo_start
from tokfilter.benchmarks.study.photo_sources import Shape, Sources
from tokfilter.benchmarks.study.photo_start import LOOK, _Windows, for_settings, trained_on_small_scenes
from tokfilter.train.loop import TrainingPlan
from tokfilter.vit.backbone import create_backbone

TINY = Architecture("vit_tiny_patch16_224", {"img_size": 224, "patch_size": 14, "embed_dim": 12, "depth": 1})
PLAN = TrainingPlan(3, 4, lr=1e-3, head_lr=5.0)


def sources(split="train", wheels=None):
    rng = np.random.default_rng(0)
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 8:20] = 200
    shapes = {n: tuple(Shape(f"{n} {i}", n, pixels) for i in range(17)) for n in ("Bag", "digit 0")}
    return Sources({"one": rng.integers(0, 256, (120, 150, 3), dtype=np.uint8)}, shapes)


def backbone_of(size, classes=2):
    return create_backbone(replace(TINY, kwargs={**TINY.kwargs, "img_size": size, "num_classes": classes}))


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return {name: value.clone() for name, value in backbone_of(224, 0).state_dict().items()}


def test_settings_are_chosen_on_shapes_that_train_nothing():
    chosen, others = for_settings(sources(), True).shapes, for_settings(sources(), False).shapes
    for name, shapes in sources().shapes.items():
        found = [[shape.source for shape in part[name]] for part in (chosen, others)]
        assert len(found[0]) == 3 and sorted(found[0] + found[1]) == sorted(shape.source for shape in shapes)


def test_small_scenes_train_everything_but_the_positions_and_again_trains_nothing(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_start, "sources_from_wheels", sources)
    seen = []

    def trained():
        return trained_on_small_scenes(weights, TINY, tmp_path, tmp_path, PLAN, 8, lambda *step: seen.append(step))

    found = trained()
    backbone_of(224).load_state_dict(found)
    assert torch.equal(found["pos_embed"], weights["pos_embed"])
    assert not torch.equal(found["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])
    assert len(list((tmp_path / "scenes/train").glob("*/*.jpg"))) == 8
    seen.clear()
    again = trained()
    assert all(torch.equal(value, found[name]) for name, value in again.items())
    assert {stage for stage, _ in seen} == {"reading images"}


def test_the_positions_are_those_of_a_window(weights, monkeypatch):
    backbone, small = backbone_of(224), backbone_of(LOOK.size)
    backbone.load_state_dict(weights, strict=False)
    grid, seen = weights["pos_embed"][0, 1:].reshape(16, 16, -1), set()

    def forward(images):
        prefix, window = small.pos_embed[0, 0], small.pos_embed[0, 1:].reshape(7, 7, -1)
        assert torch.equal(prefix, weights["pos_embed"][0, 0])
        places = [(r, c) for r in range(10) for c in range(10) if torch.equal(grid[r : r + 7, c : c + 7], window)]
        seen.update(places)
        return images.flatten(1)[:, : len(places)]

    monkeypatch.setattr(small, "forward", forward)
    windows = _Windows(backbone, small)
    torch.manual_seed(1)
    for _ in range(20):
        assert windows(torch.zeros(1, 3, LOOK.size, LOOK.size), 49).shape == (1, 1)
    assert len(seen) > 10
