"""Training of models that give masks: labels, fit on a loader of masks, mIoU."""

import numpy as np
import pytest
import torch
from small_models import SMALL, small_mask_model, small_model
from torch.utils.data import TensorDataset

from tokfilter.errors import DataError, UnsupportedModelError
from tokfilter.train.evaluation import evaluate
from tokfilter.train.fit import fit
from tokfilter.train.image_loss import image_loss
from tokfilter.train.labels import LabelConfig, delta_loss, identity_from
from tokfilter.train.mask_evaluation import evaluate_masks, iou_from_counts, pixel_counts
from tokfilter.train.masking import MaskConfig
from tokfilter.train.tensor_dataset import IGNORED, dataset_from_loader
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.mask_models import add_mask_head
from tokfilter.vit.patch import patch


def data(count=16, size=16):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    masks = (torch.nn.functional.interpolate(images, size=size)[:, 0] > 0).long()
    return TensorDataset(images, masks)


def dataset_of(model, tmp_path, given=None):
    size = model.mask_head.config.size
    return dataset_from_loader(given or data(), model.info.preprocessing, 3, tmp_path / "x", lambda *_: None, size)


@pytest.mark.parametrize("value", ["zero", "removed"])
def test_delta_loss_of_masks_is_the_change_of_the_mean_loss_of_pixels(value):
    model, (images, masks) = small_mask_model(), data(2).tensors
    delta, base = delta_loss(model, images, masks, LabelConfig(MaskConfig(value)), chunk=5)
    with torch.no_grad():
        full = model(images, 16)
        torch.testing.assert_close(base, image_loss(full, masks))
        changed, token = model.embed(images), 6
        if value == "zero":
            changed[:, 1 + token] = 0
            found = model.classify_tokens(changed, images)
        else:
            kept = torch.tensor([[i for i in range(16) if i != token]] * 2).int()
            rows = [0, *(1 + kept[0]).tolist()]
            found = model.classify_tokens(changed[:, rows], images, kept, changed)
    torch.testing.assert_close(delta[:, token], image_loss(found, masks) - base)


def test_first_order_labels_take_masks_and_all_labels_depend_on_the_head(tmp_path):
    model = small_mask_model()
    dataset = dataset_of(model, tmp_path)
    images, masks = data(2).tensors
    delta, _ = delta_loss(model, images, masks, LabelConfig(method="first-order"))
    assert delta.shape == (2, 16) and delta.isfinite().all()
    before = identity_from(model, dataset, LabelConfig())
    with torch.no_grad():
        model.mask_head.queries += 1
    assert identity_from(model, dataset, LabelConfig()) != before


def test_a_loader_of_masks_trains_head_filter_and_fill(tmp_path):
    model = small_mask_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    overrides = {"filter.epochs": 1, "finetune.epochs": 1, "filter.batch": 8, "finetune.batch": 8, "labels.limit": 4}
    record = fit(model, data(), overrides={**overrides, "finetune.distill": 0.5})
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"mask_head.queries", "mask_head.fill.project.weight", "backbone.blocks.0.attn.qkv.weight"} <= changed
    assert record["data"]["classes"] == 3 and model.scorer.trained
    assert record["label"]["mask"] == {"value": "mean", "point": "after"}  # the default of mask heads
    save_bundle(model, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size > 10_000


def test_a_mask_head_takes_the_mask_of_the_recipe_too():
    overrides = {"stages": ["label", "filter"], "filter.epochs": 1, "filter.batch": 8, "labels.limit": 4}
    record = fit(small_mask_model(), data(), overrides={**overrides, "labels.mask": "zero"})
    assert record["label"]["mask"] == {"value": "zero", "point": "after"}


@pytest.mark.parametrize("fuse", [True, False])
def test_class_attention_is_fine_tuned_for_masks_where_tokens_keep_their_places(fuse):
    """EViT without its fused token has no filter to train; the head and the backbone are."""
    model = patch(create_backbone(SMALL), reducer=("evit", {"stages": [1, 2], "fuse": fuse}))
    if fuse:
        with pytest.raises(UnsupportedModelError, match="position"):
            add_mask_head(model, 3, size=16, width=8)
        return
    add_mask_head(model, 3, size=16, width=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record = fit(model, data(8), overrides={"finetune.epochs": 1, "finetune.batch": 8, "finetune.distill_features": 1})
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"mask_head.queries", "mask_head.fill.project.weight"} <= changed and record["finetune"]["steps"] == 1


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.zeros(8, dtype=torch.long), r"a class for each pixel of its masks, \[B, 16, 16\] whole numbers, got"),
        (torch.zeros(8, 32, 32, dtype=torch.long), r"\[8, 32, 32\].*'nearest'"),
        (torch.zeros(8, 16, 16), "of torch.float32"),
        (torch.full((8, 16, 16), 3), "labels are 0..2, got 3 to 3"),
    ],
)
def test_labels_that_are_no_masks_of_the_head_are_refused(masks, words):
    with pytest.raises(DataError, match=words):
        fit(small_mask_model(), TensorDataset(torch.zeros(8, 3, 32, 32), masks))


def test_pixels_without_a_class_are_taken_and_do_not_count(tmp_path):
    images, masks = data().tensors
    masks[:, :8] = IGNORED
    model = small_mask_model()
    dataset = dataset_of(model, tmp_path, TensorDataset(images, masks))
    assert int(dataset.labels.min()) == IGNORED
    counts = pixel_counts(torch.zeros_like(masks), masks, 3)
    assert counts[:, 0, 1].tolist() == [128] * len(masks)


def test_a_folder_of_classes_does_not_train_masks(tmp_path):
    with pytest.raises(DataError, match="a folder has classes only: give a torch Dataset"):
        fit(small_mask_model(), tmp_path)


def test_iou_is_intersection_over_union_of_each_class():
    labels = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    found = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 0]]])
    counts = pixel_counts(found, labels, 3)
    np.testing.assert_allclose(iou_from_counts(counts[0])[:2], [1 / 2, 2 / 3])
    whole = iou_from_counts(counts.sum(0))
    np.testing.assert_allclose(whole[:2], [5 / 6, 2 / 3])
    assert np.isnan(whole[2])


def test_miou_at_budgets_lies_in_its_interval_and_a_perfect_model_has_one(tmp_path):
    model = small_mask_model()
    rows = evaluate_masks(model, dataset_of(model, tmp_path), (0.5, 1.0))
    assert [row.tokens for row in rows] == [16, 8]
    assert all(0 <= row.low <= row.high <= 1 and row.images == 16 for row in rows)
    images, _ = data().tensors
    with torch.no_grad():
        labels = model(images, 8).argmax(1)
    (perfect,) = evaluate_masks(model, dataset_of(model, tmp_path, TensorDataset(images, labels)), (8,))
    assert perfect.miou == perfect.low == 1.0


def test_classifiers_have_no_miou_and_masks_no_top1(tmp_path):
    model = small_mask_model()
    with pytest.raises(DataError, match="gives masks and has no top-1"):
        evaluate(model, None, (1.0,), lambda *_: None)
    with pytest.raises(DataError, match="gives no masks: tokfilter.add_mask_head"):
        evaluate_masks(small_model(), dataset_of(model, tmp_path), (1.0,))
    assert add_mask_head(small_model(), 2).mask_head is not None
