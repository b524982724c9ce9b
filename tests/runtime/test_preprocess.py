"""runtime/preprocess.py: the pixels of timm's evaluation transform without torch, and unusual images."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from tokfilter.artifacts import images
from tokfilter.artifacts.images import open_image, rgb_from_image
from tokfilter.errors import DataError
from tokfilter.runtime.preprocess import Preprocess, preprocess_from_fields

# Beyond an aspect of about 1 : 28 timm's border mode rounds the short edge to nought and fails; ours keeps one pixel.
SIZES = st.tuples(st.integers(8, 200), st.integers(8, 200)) | st.tuples(st.integers(1, 7), st.integers(1, 7))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def prep(**fields: object) -> Preprocess:
    return preprocess_from_fields({"input_size": (3, 32, 32), "mean": MEAN, "std": STD, **fields})


@settings(max_examples=150, deadline=None)
@given(
    image=SIZES,
    size=st.sampled_from([(32, 32), (28, 70), (47, 33)]),
    interpolation=st.sampled_from(["bicubic", "bilinear", "nearest", "lanczos"]),
    crop_pct=st.sampled_from([1.0, 0.875, 0.95, 0.9, 0.5, 1.1]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
)
def test_every_value_is_the_one_of_timm(
    image: tuple[int, int], size: tuple[int, int], interpolation: str, crop_pct: float, crop_mode: str
) -> None:
    fields = {"interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": crop_mode, "mean": MEAN, "std": STD}
    picture = noise(*image)
    expected = create_transform((3, *size), is_training=False, **fields)(picture).numpy()
    np.testing.assert_array_equal(preprocess_from_fields({"input_size": (3, *size), **fields})(picture), expected)


@given(crop_mode=st.sampled_from(["center", "squash", "border"]), height=st.integers(1, 90), width=st.integers(1, 90))
@settings(max_examples=40, deadline=None)
def test_a_view_comes_back_from_its_input(crop_mode: str, height: int, width: int) -> None:
    transform = prep(crop_mode=crop_mode)
    view = transform.view(noise(height, width))
    assert view.size == (32, 32)
    np.testing.assert_array_equal(np.asarray(transform.view_from_input(transform.input_from_view(view))), view)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_thin_image_becomes_a_view(crop_mode):
    assert prep(crop_mode=crop_mode).view(noise(1, 300)).size == (32, 32)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 20)])
def test_any_mode_and_size_becomes_an_input(mode: str, size: tuple[int, int]) -> None:
    value = prep()(rgb_from_image(Image.new(mode, size)))
    assert value.shape == (3, 32, 32) and value.dtype == np.float32 and np.isfinite(value).all()


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_sixteen_bits_keep_their_shades(tmp_path: Path, suffix: str) -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(eight.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(np.asarray(open_image(path))[..., 0], eight)


def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "half.png")
    found = np.asarray(open_image(tmp_path / "half.png"))
    assert (found[:2] == (10, 20, 30)).all() and (found[2:] == 255).all()


def test_a_palette_may_be_transparent_too(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.save(tmp_path / "palette.png", transparency=0)
    assert (np.asarray(open_image(tmp_path / "palette.png")) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = noise(30, 20)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "turned.png")), upright)


def saved(image: Image.Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "tiff", "gif", "bmp"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, fraction: float) -> None:
    whole = saved(noise(64, 64), suffix)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(DataError, match=r"damaged or cut short|not an image"):
        open_image(path)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_changed_bytes_give_an_image_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(saved(noise(16, 16), data.draw(st.sampled_from(["png", "jpeg", "gif", "tiff"]))))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(content)
    try:
        assert open_image(path).mode == "RGB"
    except DataError as error:
        assert str(path) in str(error)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none at"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(DataError, match="expected a file, got the folder"):
        open_image(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="not an image of a known format"):
        open_image(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="not an image"):
        open_image(tmp_path / "empty.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (3000, 3000)).save(path)
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 8_999_999)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=r"expected at most 8 million pixels, got 3000 x 3000 pixels. Scale"):
        open_image(path)


def test_a_long_strip_is_refused_before_it_is_resized() -> None:
    with pytest.raises(DataError, match=r"too elongated: .* Crop it to the part"):
        prep()(Image.new("RGB", (200_000, 1)))


@pytest.mark.parametrize("image", [Image.new("F", (4, 4)), Image.new("I", (4, 4), 70_000), Image.new("I", (4, 4), -1)])
def test_pixels_without_an_agreed_range_are_refused(image: Image.Image) -> None:
    with pytest.raises(DataError, match="no agreed range"):
        rgb_from_image(image)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interpolation": "random"}, "interpolation must be one of"),
        ({"crop_mode": "corner"}, "crop_mode must be one of"),
        ({"crop_pct": 0.0}, "crop_pct above 0"),
        ({"crop_pct": float("nan")}, "crop_pct above 0"),
        ({"std": (1.0, 0.0, 1.0)}, "three channels"),
        ({"mean": (0.5,)}, "three channels"),
        ({"input_size": (1, 32, 32)}, "three channels"),
        ({"input_size": (3, 0, 32)}, "a size"),
        ({"input_size": 32}, "must have input_size, mean and std"),
        ({"mean": None}, "must have input_size, mean and std"),
    ],
)
def test_unusable_preprocessing_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        prep(**change)
