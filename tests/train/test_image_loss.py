"""Losses without class labels: their values by other formulas, small distances, and where they are not defined."""

import pytest
import torch
import torch.nn.functional as F

from tokfilter.errors import DataError
from tokfilter.train.image_loss import check_loss, image_loss, output_distance


def outputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (3, 2, 5, 3)])
def test_feature_is_one_minus_the_cosine_of_an_images_outputs(shape):
    found, full = outputs(*shape), outputs(*shape, seed=1)
    expected = 1 - F.cosine_similarity(found.flatten(1).double(), full.flatten(1).double())
    torch.testing.assert_close(output_distance(found, full, "feature").double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(output_distance(3 * full, full, "feature"), torch.zeros(shape[0]), atol=1e-12, rtol=0)


def test_kl_is_the_divergence_of_class_distributions_and_a_mean_over_pixels_of_masks():
    found, full = outputs(4, 6), outputs(4, 6, seed=1)
    p, q = full.double().softmax(1), found.double().softmax(1)
    expected = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(output_distance(found, full, "kl").double(), expected, atol=1e-6, rtol=1e-5)
    masks, wanted = outputs(2, 3, 4, 5), outputs(2, 3, 4, 5, seed=1)
    pixels = [output_distance(masks[:, :, y, x], wanted[:, :, y, x], "kl") for y in range(4) for x in range(5)]
    torch.testing.assert_close(output_distance(masks, wanted, "kl"), torch.stack(pixels).mean(0))


@pytest.mark.parametrize("loss", ["feature", "kl"])
def test_the_full_models_own_output_has_no_distance(loss):
    full = outputs(5, 8)
    assert image_loss(full, torch.zeros(5, dtype=torch.long), loss, full).tolist() == [0.0] * 5


def test_small_distances_are_not_lost_to_rounding():
    full = outputs(1, 384)
    near = full + 1e-4 * outputs(1, 384, seed=1)
    expected = 1 - F.cosine_similarity(near.double(), full.double())
    torch.testing.assert_close(output_distance(near, full, "feature").double(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1])
def test_the_cosine_of_an_output_without_a_direction_is_refused(value, which):
    pair = [outputs(3, 4), outputs(3, 4, seed=1)]
    pair[which][1] = value
    with pytest.raises(DataError, match="cosine distance, and the model's output for an image is zero or not finite"):
        output_distance(*pair, "feature")


def test_a_loss_that_needs_classes_is_refused_for_embeddings():
    for loss in ("cross-entropy", "kl"):
        check_loss(loss, 5)
        with pytest.raises(DataError, match=f"the loss {loss} compares .* gives an embedding .*--loss feature"):
            check_loss(loss, 0)
    check_loss("feature", 0)
