"""Shares of a step: they divide its images, its random draws and its budgets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokfilter.errors import DataError
from tokfilter.train.augmentation import Augmentation, augmented
from tokfilter.train.filter_training import ranking_loss
from tokfilter.train.share import check_divisible, shares_of_step


@given(st.integers(1, 70), st.integers(1, 9))
def test_shares_divide_the_images_and_keep_mirrored_ones_together(images, shares):
    whole = torch.randperm(500)[:images]
    parts = shares_of_step(whole, shares, range(shares))
    assert torch.cat([part.places for part in parts]).sort().values.tolist() == list(range(images))
    assert sum(part.fraction for part in parts) == pytest.approx(1)
    for part in parts:
        assert sorted(images - 1 - place for place in part.places.tolist()) == part.places.tolist()
        assert torch.equal(part.positions, whole[part.places])


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 6))
def test_an_image_meets_the_same_budget_in_every_share(images, shares, budgets):
    whole = torch.arange(images)
    met = torch.full((images,), -1)
    for part in shares_of_step(whole, shares, range(shares)):
        for budget, places in enumerate(part.places.split(part.group_sizes(budgets))):
            met[places] = budget
    expected = torch.cat([torch.full((len(part),), i) for i, part in enumerate(whole.chunk(budgets))])
    assert torch.equal(met, expected)


def test_a_share_has_the_changes_of_the_whole_step():
    images, labels = torch.randn(9, 3, 8, 8), torch.arange(9)
    config = Augmentation(zoom=0.5, flip=0.5)

    def changed(share):
        return augmented(share.of(images), share.of(labels), config, torch.Generator().manual_seed(3), share)

    (whole,) = shares_of_step(torch.arange(9), 1, [0])
    for part in shares_of_step(torch.arange(9), 2, range(2)):
        for found, expected in zip(changed(part), changed(whole), strict=True):
            torch.testing.assert_close(found, part.of(expected))


def test_ranking_losses_of_shares_add_up():
    scores, delta = torch.randn(7, 6), torch.randn(7, 6)
    parts = shares_of_step(torch.arange(7), 3, range(3))
    found = sum(ranking_loss(part.of(scores), part.of(delta), delta) for part in parts)
    torch.testing.assert_close(found, ranking_loss(scores, delta))


@pytest.mark.parametrize(("images", "processes", "passes"), [(2, 2, 1), (14, 2, 4), (1, 2, 1)])
def test_steps_with_too_few_images_are_refused(images, processes, passes):
    with pytest.raises(DataError, match=f"a step of {images} images cannot be divided among {processes} processes"):
        check_divisible(images, processes, passes)
    check_divisible(2 * processes * passes, processes, passes)
    check_divisible(1, 1, 1)
