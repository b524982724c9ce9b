"""Image files: the formats that are read, and that strips of rows give the pixels of the whole image."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tokfilter.artifacts import images
from tokfilter.artifacts.images import image_from_bytes, open_image, rgb_from_image
from tokfilter.artifacts.limits import IMAGE_FORMATS
from tokfilter.errors import DataError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


def noise(mode: str, size: tuple[int, int] = (37, 23)) -> Image.Image:
    generator = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 65536, (size[1], size[0]), dtype=np.uint16))
    image = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8))
    return image if mode == "RGBA" else image.convert(mode)


def content(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=form)
    return file.getvalue()


@pytest.mark.parametrize("form", IMAGE_FORMATS)
def test_each_named_format_is_read(form: str) -> None:
    assert image_from_bytes(content(noise("RGB"), form), "photo").size == (37, 23)


def test_a_photo_with_a_second_picture_in_it_is_read_as_jpeg() -> None:
    file = io.BytesIO()
    noise("RGB").save(file, format="MPO", save_all=True, append_images=[noise("RGB", (8, 8))])
    assert image_from_bytes(file.getvalue(), "phone.jpg").size == (37, 23)


@pytest.mark.parametrize("form", ["TGA", "PCX", "SGI", "ICO", "JPEG2000"])
def test_other_formats_of_pillow_are_refused(form: str) -> None:
    with pytest.raises(DataError, match="not an image of a known format. Give one of JPEG, PNG"):
        image_from_bytes(content(noise("RGB"), form), "photo")


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "photo.jpg").write_bytes(EPS)
    with pytest.raises(DataError, match="not an image of a known format"):
        open_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
@pytest.mark.parametrize("strip", [1, 37, 100, 850, 851, 10**6])
def test_strips_give_the_pixels_of_the_whole_image(mode: str, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(mode)
    if mode == "I;16":
        expected = np.rint(np.asarray(image) / 257).astype(np.uint8)[..., None].repeat(3, 2)
    else:
        layer = image.convert("RGBA")
        expected = np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))
    monkeypatch.setattr(images, "_STRIP_PIXELS", strip)
    np.testing.assert_array_equal(np.asarray(rgb_from_image(image)), expected)


def test_the_given_image_is_not_changed() -> None:
    image = noise("RGB")
    image.getexif()[0x0112] = 6
    before = image.tobytes()
    assert rgb_from_image(image).tobytes() == ImageOps.exif_transpose(image).tobytes()
    assert (image.size, image.tobytes()) == ((37, 23), before)
    assert rgb_from_image(noise("RGB")) is not image
