"""Labelling needs no more memory than the plain backbone on as many images as a chunk has variants."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokfilter.artifacts.bundle import Architecture
from tokfilter.train.labels import LabelConfig, delta_loss
from tokfilter.train.masking import MaskConfig
from tokfilter.train.token_sets import Grouping
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT


class Meter(TorchDispatchMode):
    """Counts the bytes of every tensor that lives at the same time, and remembers the most; what is given is free."""

    def __init__(self, *given):
        super().__init__()
        self.living, self.now, self.peak = {tensor.untyped_storage()._cdata: 0 for tensor in given}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for tensor in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return results

    def _see(self, storage):
        key = storage._cdata
        if key in self.living or not storage.nbytes():
            return
        self.living[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key):
        self.now -= self.living.pop(key, 0)


def test_the_meter_sees_what_lives_and_what_has_gone():
    given = torch.zeros(1000)
    with Meter(given) as meter:
        kept = [torch.zeros(100) + 1 for _ in range(3)]
        for _ in range(10):
            torch.zeros(50)
        given.view(10, 100)[2:].reshape(-1)
    assert len(kept) * 400 <= meter.peak <= len(kept) * 400 + 400


def model_of(side):
    torch.manual_seed(0)
    arguments = {"img_size": 8 * side, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
    return FilteredViT(create_backbone(Architecture("vit_tiny_patch16_224", arguments))).eval()


def labelling_peak(model, images, config, chunk):
    height, width = model.backbone.patch_embed.img_size
    pixels, labels = torch.randn(images, 3, height, width), torch.zeros(images, dtype=torch.long)
    with Meter(pixels, labels, *model.state_dict().values()) as meter:
        delta_loss(model, pixels, labels, config, chunk)
    return meter.peak


def plain_peak(model, batch):
    height, width = model.backbone.patch_embed.img_size
    pixels = torch.randn(batch, 3, height, width)
    with torch.inference_mode(), Meter(pixels, *model.state_dict().values()) as meter:
        model(pixels, 1.0)
    return meter.peak


CONFIGS = {
    "zero": LabelConfig(),
    "mean before": LabelConfig(MaskConfig("mean", "before")),
    "removed": LabelConfig(MaskConfig("removed")),
    "grouped": LabelConfig(method="grouped", groups=Grouping("random", 4, 2)),
    "first-order": LabelConfig(method="first-order"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("side", [4, 7, 10])
def test_the_peak_is_bounded_by_the_plain_backbones(name, side):
    model, chunk = model_of(side), 12
    peak, plain = labelling_peak(model, 16, CONFIGS[name], chunk), plain_peak(model, chunk)
    assert peak < 1.75 * plain, (peak / plain, name)


@pytest.mark.parametrize("name", CONFIGS)
def test_more_images_need_more_memory_only_for_their_labels(name):
    model, chunk = model_of(5), 8
    few, many = (labelling_peak(model, images, CONFIGS[name], chunk) for images in (8, 80))
    labels = 72 * 25 * 8 * (4 if name == "grouped" else 1)  # 72 more images of 25 tokens; sets are counted in int64
    assert many - few < 4 * labels
