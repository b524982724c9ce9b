"""vit/transform.py: the same pixels as runtime/preprocess.py, which needs no torch, in every crop mode."""

from dataclasses import asdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.runtime.preprocess import preprocess_from_fields
from tokfilter.vit.transform import transform_from_preprocessing


@settings(max_examples=80, deadline=None)
@given(
    image=st.tuples(st.integers(6, 90), st.integers(6, 90)),
    size=st.sampled_from([(32, 32), (28, 45), (17, 17)]),
    crop_pct=st.sampled_from([1.0, 0.875, 0.9, 0.5]),
    crop_mode=st.sampled_from(["center", "squash", "border", "center-floor", "squash-floor"]),
)
def test_the_pixels_are_those_of_the_runtime(
    image: tuple[int, int], size: tuple[int, int], crop_pct: float, crop_mode: str
) -> None:
    pixels = np.random.default_rng(sum(image)).integers(0, 256, (*image, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    preprocessing = Preprocessing((3, *size), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic", crop_pct, crop_mode)
    expected = preprocess_from_fields(asdict(preprocessing))(picture)
    np.testing.assert_array_equal(transform_from_preprocessing(preprocessing)(picture).numpy(), expected)
    view = preprocess_from_fields(asdict(preprocessing)).view(picture)
    raw = transform_from_preprocessing(preprocessing, normalize=False)(picture).numpy()
    np.testing.assert_array_equal(raw, np.asarray(view).transpose(2, 0, 1))
