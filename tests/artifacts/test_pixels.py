"""Pixels and normalised images: inverse of each other, in every form."""

import numpy as np
import pytest

from tokfilter.artifacts.pixels import (
    INPUT_FORMS,
    in_form,
    input_shape,
    normalise,
    pixels_from_input,
    pixels_from_normalised,
)

STATISTICS = [
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ((-3.0, 0.9, 7.5), (0.001, 40.0, 1e-3)),
]


def every_pixel():
    """[1, 3, 16, 16]: all 256 values in each channel."""
    return np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (1, 3, 16, 16))


@pytest.mark.parametrize(("mean", "std"), STATISTICS)
def test_every_pixel_comes_back(mean, std):
    pixels = every_pixel()
    images = normalise(pixels, mean, std)
    assert images.dtype == np.float32 and images.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(pixels_from_normalised(images, mean, std), pixels)
    for form in INPUT_FORMS:
        given = in_form(images, form, mean, std)
        assert given.shape[1:] == input_shape(form, (3, 16, 16)) and given.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(pixels_from_input(given, form, mean, std), pixels)


def test_normalise_in_fp32_and_in_timms_order():
    mean, std = STATISTICS[0]
    expected = (every_pixel().astype(np.float32) / np.float32(255) - np.float32(mean[1])) / np.float32(std[1])
    np.testing.assert_array_equal(normalise(every_pixel(), mean, std)[:, 1], expected[:, 1])


def test_values_between_and_beyond_pixels_take_the_nearest():
    images = np.array([-9.0, 0.4 / 255, 0.6 / 255, 9.0], np.float32).reshape(1, 1, 1, 4).repeat(3, axis=1)
    pixels = pixels_from_normalised(images, (0, 0, 0), (1, 1, 1))
    np.testing.assert_array_equal(pixels[0, 0, 0], [0, 0, 1, 255])


def test_the_last_axis_holds_the_channels_of_nhwc():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 5, 7), dtype=np.uint8)
    mean, std = STATISTICS[0]
    given = in_form(normalise(pixels, mean, std), "uint8-nhwc", mean, std)
    assert given.shape == (2, 5, 7, 3)
    np.testing.assert_array_equal(given[1, 4, 6], pixels[1, :, 4, 6])
