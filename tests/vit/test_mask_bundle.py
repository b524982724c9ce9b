import pytest
import torch

from tokfilter.errors import BundleError
from tokfilter.vit.bundle import load_bundle, load_model


@pytest.fixture
def content(mask_bundle_file):
    return torch.load(mask_bundle_file, weights_only=True)


def refused(content, tmp_path, words):
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(BundleError, match=words):
        load_bundle(tmp_path / "bad.pt")


def test_a_model_with_a_mask_head_is_read_as_it_was_written(mask_bundle_file):
    bundle, model = load_bundle(mask_bundle_file), load_model(mask_bundle_file)
    assert bundle.golden.full.shape == (2, 3, 16, 16)
    with torch.no_grad():
        for k, masks in bundle.golden.logits.items():
            torch.testing.assert_close(model(bundle.golden.images, k), masks)


def test_a_classifier_has_no_key_of_a_mask_head(bundle_file):
    assert "mask_head" not in torch.load(bundle_file, weights_only=True)


def test_another_number_of_masks_than_of_classes_is_refused(content, tmp_path):
    refused(content | {"class_names": ["sky", "sea"]}, tmp_path, "names 2 classes and its model has 3 masks")


def test_masks_of_another_size_in_the_golden_tensors_are_refused(content, tmp_path):
    golden = content["golden"] | {"full": content["golden"]["full"][:, :, 1:].clone()}
    refused(content | {"golden": golden}, tmp_path, r"golden full must be .*\[2, 3, 16, 16\], got .*\[2, 3, 15, 16\]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "maskformer"}, "one of token-mask, got 'maskformer'"),
        ({"fill": "magic"}, "one of embedding.* got 'magic'"),
        ({"masks": 4}, "queries must be .*\\[4, 8\\], got .*\\[3, 8\\]"),
        ({"masks": 1 << 40}, "1 to 1048576 masks"),
        ({"size": [64, 64]}, "at most as large as the image"),
        ({"size": "hw"}, "counts from 1"),
        ({"size": 3}, "not a sound bundle"),
        ({"width": True}, "counts from 1"),
        ({"align_corners": 1}, "true or false"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_foreign_head_that_is_not_sound_is_refused(content, tmp_path, change, words):
    head = {**content["mask_head"], "config": {**content["mask_head"]["config"], **change}}
    refused(content | {"mask_head": head}, tmp_path, words)


@pytest.mark.parametrize("head", [[], {"config": {}}, {"weights": {}}, 3, "masks"])
def test_a_head_without_its_parts_is_refused(content, tmp_path, head):
    refused(content | {"mask_head": head}, tmp_path, "not a sound bundle")


def test_a_head_that_lacks_a_weight_or_holds_nan_is_refused(content, tmp_path):
    weights = content["mask_head"]["weights"]
    less = {name: value for name, value in weights.items() if name != "queries"}
    refused(content | {"mask_head": content["mask_head"] | {"weights": less}}, tmp_path, "lacks 1 tensors")
    bad = weights | {"queries": weights["queries"] * float("nan")}
    refused(content | {"mask_head": content["mask_head"] | {"weights": bad}}, tmp_path, "NaN")
