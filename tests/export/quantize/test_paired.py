"""The interval of a paired difference."""

import numpy as np
import pytest

from tokfilter.export.quantize.paired import PairedDifference


def test_the_drop_is_in_points_and_signed():
    assert PairedDifference(200, lost=5, gained=1).drop == pytest.approx(2.0)
    assert PairedDifference(200, lost=0, gained=3).drop == pytest.approx(-1.5)


def test_known_values_of_the_adjusted_interval():
    """By hand: (6 - 2) / 202 ± 1.95996 * sqrt((8 / 202 - (4 / 202)²) / 202)."""
    low, high = PairedDifference(200, lost=5, gained=1).interval
    centre, half = 100 * 4 / 202, 195.9964 * np.sqrt((8 / 202 - (4 / 202) ** 2) / 202)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-3)


def test_few_images_without_a_difference_prove_little():
    few, many = PairedDifference(40, 0, 0), PairedDifference(4000, 0, 0)
    assert few.resolution > 5 > 0.1 > many.resolution
    assert few.interval[0] < 0 < few.interval[1]


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (12, 4), (1, 15)])
def test_the_interval_holds_the_true_drop_in_95_of_100_samples(lost, gained):
    """Of 600 images, with these numbers of discordant images on average."""
    rng = np.random.default_rng(0)
    share = np.array([lost, gained, 600 - lost - gained]) / 600
    samples = [PairedDifference(600, int(a), int(b)) for a, b, _ in rng.multinomial(600, share, 2000)]
    truth = 100 * (lost - gained) / 600
    inside = [low <= truth <= high for low, high in (sample.interval for sample in samples)]
    assert np.mean(inside) > 0.94


def test_no_interval_exceeds_all_images():
    low, high = PairedDifference(1, lost=1, gained=0).interval
    assert -100 <= low < high <= 100
