"""runtime/cpp: native tests over fake TensorRT under sanitizers; preprocessing compared with Pillow and timm."""

import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tokfilter
from tokfilter.artifacts.images import open_image
from tokfilter.artifacts.pixels import INPUT_FORMS, InputForm
from tokfilter.runtime.preprocess import preprocess_from_fields

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Run = Callable[..., subprocess.CompletedProcess[str]]


def test_native_tests(fake: Path, run: Run) -> None:
    result = run(fake / "tokfilter_tests")
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    assert re.search(r"test cases: +(\d+) \| +\1 passed \| 0 failed", result.stdout), result.stdout


def test_a_c_program_opens_an_export_written_by_python(fake: Path, run: Run, directory: Callable[[], Path]) -> None:
    result = run(fake / "c_client", directory())
    assert result.returncode == 0, result.stderr
    assert "budgets from 2 to 12 of 12 tokens, got 13" in result.stdout
    assert result.stdout.endswith(f"tokfilter {tokfilter.__version__} ok\n")


def random_cases(count: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    rng = np.random.default_rng(5)
    for number in range(count):
        height, width = rng.integers(1, 150, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if number % 3 == 0:  # black and white only: bicubic and lanczos overshoot at edges
            image = np.where(image < 128, 0, 255).astype(np.uint8)
        size = [(32, 32), (28, 70), (47, 33), (1, 1), (17, 17)][number % 5]
        yield (
            image,
            {
                "input_size": (3, *size),
                "interpolation": rng.choice(["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
                "crop_pct": float(rng.choice([1.0, 0.875, 0.95, 0.9, 0.5])),
                "crop_mode": rng.choice(["center", "squash", "border", "center-floor", "squash-floor"]),
            },
        )


@pytest.mark.parametrize("form", INPUT_FORMS)
def test_inputs_equal_pythons_to_the_bit(fake: Path, tmp_path: Path, form: InputForm) -> None:
    content, expected = b"", []
    for image, fields in random_cases(240):
        numbers = (*image.shape[:2], *fields["input_size"][1:], fields["interpolation"])
        content += " ".join(map(str, (*numbers, fields["crop_pct"], fields["crop_mode"]))).encode() + b"\n"
        content += image.tobytes()
        transform = replace(preprocess_from_fields({**fields, "mean": MEAN, "std": STD}), form=form)
        expected.append(transform(Image.fromarray(image)).ravel())
    (tmp_path / "cases").write_bytes(content)
    result = subprocess.run([fake / "pixels", "inputs", tmp_path / "cases", form], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    joined = np.concatenate(expected)
    np.testing.assert_array_equal(np.frombuffer(result.stdout, joined.dtype), joined)


def decoded(fake: Path, path: Path, limit: int = 10**8) -> np.ndarray:
    result = subprocess.run([fake / "pixels", "decode", path, str(limit)], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    header, _, pixels = result.stdout.partition(b"\n")
    return np.frombuffer(pixels, np.uint8).reshape(*map(int, header.split()), 3).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_png_pixels_equal_pillows(fake: Path, tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (19, 23, 4), dtype=np.uint8)
    image = (
        Image.fromarray(noise).convert(mode)
        if mode != "I;16"
        else Image.fromarray(noise[..., 0].astype(np.uint16) * 251)
    )
    image.save(tmp_path / "a.png")
    far = np.abs(decoded(fake, tmp_path / "a.png") - np.asarray(open_image(tmp_path / "a.png")).astype(int)).max()
    assert far <= (1 if mode in ("RGBA", "LA") else 0)  # blending over white rounds differently


def photo(size: tuple[int, int] = (120, 90)) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    waves = [128 + 100 * np.sin(x / 9 + c) * np.cos(y / 13 - c) for c in range(3)]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_pixels_are_close_to_pillows_and_upright(fake: Path, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo().save(tmp_path / "a.jpg", quality=90, exif=exif)
    ours, theirs = decoded(fake, tmp_path / "a.jpg"), np.asarray(open_image(tmp_path / "a.jpg")).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 1.0 and np.abs(ours - theirs).max() <= 16


def test_a_png_without_pixels_is_an_error(fake: Path, run: Run, tmp_path: Path) -> None:
    """Its IDAT chunk has no bytes."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 50, 70, 8, 2, 0, 0, 0), b"IDAT", b"IEND")
    data = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    result = run(fake / "pixels", "decode", tmp_path / "a.png", "1000000")
    assert result.returncode == 1 and "could not be decoded" in result.stderr, result.stderr


@pytest.mark.parametrize("table", [0, 1, 2, 3])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_huffman_table_of_more_than_256_codes_is_refused(
    fake: Path, run: Run, tmp_path: Path, table: int, progressive: bool
) -> None:
    """stb_image before 2.29 writes the codes beyond its array. Tables before the first scan and behind it."""
    buffer = BytesIO()
    photo((40, 30)).save(buffer, "jpeg", progressive=progressive)
    data = bytearray(buffer.getvalue())
    places = [place for place in range(len(data) - 1) if data[place : place + 2] == b"\xff\xc4"]
    place = places[min(table, len(places) - 1)]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert decoded(fake, path).shape == (30, 40, 3)
    data[place + 5 : place + 21] = bytes([0] * 14 + [200, 57])
    path.write_bytes(data)
    result = run(fake / "pixels", "decode", path, "1000000")
    assert result.returncode == 1 and "could not be decoded" in result.stderr, result.stderr


def test_damaged_images_are_errors_without_memory_faults(fake: Path, run: Run, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(3), tmp_path / "a"
    for format in ("png", "jpeg"):
        buffer = BytesIO()
        photo((40, 30)).save(buffer, format)
        for attempt in range(12):
            data = bytearray(buffer.getvalue())
            for _ in range(8 if attempt else 0):
                data[rng.integers(len(data))] = rng.integers(256)
            path.write_bytes(data[: rng.integers(1, len(data))])
            result = run(fake / "pixels", "decode", path, "1000000")
            assert result.returncode in (0, 1) and "Sanitizer" not in result.stderr, result.stderr
    buffer = BytesIO()
    photo((40, 30)).save(buffer, "png")
    path.write_bytes(buffer.getvalue())
    assert "40 x 30 pixels are more than" in run(fake / "pixels", "decode", path, "1199").stderr
