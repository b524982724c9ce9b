"""Image files: the formats that are read, and that strips of rows give the pixels of the whole image."""

import io
import struct
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


def test_pixels_on_their_side_are_not_held_twice(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB").save(tmp_path / "a.png", exif=exif)
    upright = noise("RGB").transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(upright))


@pytest.mark.parametrize(
    ("form", "options", "per_pixel"),
    [
        ("PNG", {}, 9),
        ("JPEG", {"subsampling": 0}, 9),
        ("JPEG", {"progressive": True}, 13),
        ("WEBP", {"lossless": True}, 21),
        ("TIFF", {"compression": "tiff_lzw"}, 17),
    ],
)
def test_what_decoding_takes_is_bounded_by_the_format(
    form: str, options: dict[str, object], per_pixel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    noise("RGB", (100, 80)).save(file, format=form, **options)
    needed = per_pixel * 8000 + len(file.getvalue())
    monkeypatch.setattr(images, "MAX_DECODING", needed)
    assert image_from_bytes(file.getvalue(), "photo").size == (100, 80)
    monkeypatch.setattr(images, "MAX_DECODING", needed - 1)
    with pytest.raises(DataError, match=f"photo: decoding it would take up to .*got 100 x 80 pixels of {form}"):
        image_from_bytes(file.getvalue(), "photo")


def test_a_jpeg_file_with_a_scan_for_each_component_counts_as_one_with_several() -> None:
    jpeg = content(noise("RGB"), "JPEG")
    start = jpeg.index(b"\xff\xda")
    assert images._has_one_scan(Image.open(io.BytesIO(jpeg)))
    several = jpeg[:start] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + jpeg[start:]
    assert not images._has_one_scan(Image.open(io.BytesIO(several)))


def test_a_tile_larger_than_the_image_is_refused() -> None:
    tags = [
        (256, 64),
        (257, 64),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 1 << 15),
        (323, 1 << 15),
        (324, 8),
        (325, 8),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    with pytest.raises(DataError, match="decoding it would take up to .* got 64 x 64 pixels of TIFF"):
        image_from_bytes(tiff, "photo")


def test_pixels_written_as_text_are_few() -> None:
    with pytest.raises(DataError, match="its pixels are text, expected at most 1000000 of them, got 1001 x 1000"):
        image_from_bytes(b"P3\n1001 1000\n255\n" + b"1 " * 99, "photo")
    assert image_from_bytes(b"P3\n2 1\n255\n1 2 3 4 5 6\n", "photo").getpixel((1, 0)) == (4, 5, 6)
