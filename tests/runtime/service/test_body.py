"""Bodies and their images: bytes in all, pixels by the header, JPEG files decoded at a reduced size."""

import asyncio
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from service_client import photo

from tokfilter.artifacts.limits import MAX_JPEG_SCANS
from tokfilter.runtime.preprocess import Preprocess
from tokfilter.runtime.service.body import BodyReader, check_type, image_from_body, input_from_body
from tokfilter.runtime.service.refusal import Refusal

PLAIN = Preprocess(64, 64, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), crop_pct=0.9)
"""Its inputs are grey levels."""


def smooth(width, height):
    """A JPEG file of coloured clouds with some noise, as in a photo."""
    generator = np.random.default_rng(0)
    clouds = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    pixels = np.clip(pixels + generator.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=92)
    return file.getvalue()


async def parts(*bodies):
    for body in bodies:
        yield body


def read(reader, *bodies):
    return asyncio.run(reader.read(parts(*bodies), None))


def test_all_bodies_together_are_bounded_and_released():
    reader = BodyReader(60, 5, 100)
    first = read(reader, bytes(50), bytes(10))
    with pytest.raises(Refusal, match="fill the memory") as caught:
        read(reader, bytes(30), bytes(11))
    assert caught.value.status == 503 and reader.held == 60
    second = read(reader, bytes(40))
    assert reader.held == 100
    for body in (first, second, second):
        reader.release(body)
    assert reader.held == 0


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 40), max_size=5), max_size=8))
def test_what_is_held_is_counted_whatever_was_refused(bodies):
    async def run():
        reader, held = BodyReader(60, 5, 100), []
        for sizes in bodies:
            try:
                held.append(await reader.read(parts(*(bytes(size) for size in sizes)), None))
            except Refusal as refusal:
                assert refusal.status == 400 if sum(sizes) == 0 else refusal.status in (413, 503)
            assert reader.held == sum(len(body.getvalue()) for body in held) <= 100
        for body in held:
            reader.release(body)
        assert reader.held == 0

    asyncio.run(run())


def test_curls_own_type_is_refused_with_what_to_add():
    with pytest.raises(Refusal, match="add -H 'Content-Type: image/jpeg'"):
        check_type("application/x-www-form-urlencoded")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "BMP"])
def test_formats_that_are_not_named_are_refused(form):
    with pytest.raises(Refusal) as caught:
        image_from_body(io.BytesIO(photo(form=form)), 10**6)
    assert caught.value.status == 415


def test_too_many_pixels_are_refused_by_the_header_alone(monkeypatch):
    png = photo(form="PNG")
    header = b"IHDR" + struct.pack(">2I", 4898, 4898) + png[24:29]
    grown = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(Refusal, match="at most 23 million pixels") as caught:
        image_from_body(io.BytesIO(grown), 23_000_000)
    assert caught.value.status == 413
    assert image_from_body(io.BytesIO(grown), 24_000_000).size == (4898, 4898)


def test_scans_without_end_are_refused():
    jpeg = io.BytesIO()
    Image.new("RGB", (32, 32)).save(jpeg, format="JPEG", progressive=True)
    content = jpeg.getvalue()
    assert image_from_body(io.BytesIO(content), 10**6).size == (32, 32)
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(Refusal, match=f"at most {MAX_JPEG_SCANS} scans"):
        image_from_body(io.BytesIO(content[:-2] + scan * MAX_JPEG_SCANS + content[-2:]), 10**6)


@pytest.mark.parametrize(
    ("size", "scale"),
    [((142, 142), 1), ((283, 283), 1), ((284, 284), 2), ((568, 1000), 4), ((570, 1000), 2), ((1136, 1136), 8),
     ((1136, 1137), 1), ((2000, 284), 2), ((8000, 6000), 8)],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_the_resize_target_decides_the_scale(size, scale, turned):
    assert PLAIN.reduction(*(size[::-1] if turned else size)) == scale


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from(["center", "squash", "border"]))
def test_a_reduced_image_is_whole_and_at_least_twice_the_target(width, height, mode):
    preprocess = Preprocess(48, 64, (0.5,) * 3, (0.5,) * 3, crop_pct=0.9, crop_mode=mode)
    scale = preprocess.reduction(width, height)
    assert scale in (1, 2, 4, 8)
    if scale > 1:
        assert width % scale == height % scale == 0
        for high, wide in ((height, width), (width, height)):
            target = preprocess._resized(high, wide)
            assert target == preprocess._resized(high // scale, wide // scale)  # nothing shifts
            assert high // scale >= 2 * target[0] and wide // scale >= 2 * target[1]


@pytest.mark.parametrize("size", [(640, 480), (1280, 960), (1704, 1136)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_a_reduced_jpeg_differs_by_few_grey_levels(size, interpolation):
    preprocess = Preprocess(64, 64, PLAIN.mean, PLAIN.std, interpolation, 0.9)
    assert preprocess.reduction(*size) > 1
    content = smooth(*size)
    whole, reduced = (input_from_body(content, preprocess, 10**7, draft) for draft in (False, True))
    difference = np.abs(whole - reduced)
    assert 0 < difference.mean() < 0.5 and np.quantile(difference, 0.99) <= 2 and difference.max() <= 8


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_small_images_and_png_files_are_decoded_whole(form):
    content = photo(0, (280, 284) if form == "JPEG" else (640, 480), form)
    whole, reduced = (input_from_body(content, PLAIN, 10**7, draft) for draft in (False, True))
    np.testing.assert_array_equal(whole, reduced)


async def never():
    yield b"x"
    await asyncio.Event().wait()


def test_the_oldest_slow_body_makes_room_after_its_grace():
    async def run():
        reader, freed = BodyReader(60, 60, 100, grace=0), []
        reading = [
            asyncio.create_task(reader.read(never(), None, lambda number=number: freed.append(number)))
            for number in range(2)
        ]
        while reader.held < 2:
            await asyncio.sleep(0)
        reader.displace()
        with pytest.raises(Refusal, match="the service is full") as caught:
            await reading[0]
        assert caught.value.status == 408 and freed == [0] and reader.held == 1 and not reading[1].done()
        reading[1].cancel()  # by its own connection: no refusal
        with pytest.raises(asyncio.CancelledError):
            await reading[1]
        reader.displace()
        assert freed == [0] and reader.held == 0

    asyncio.run(run())


def test_a_body_keeps_its_place_within_its_grace_and_when_it_is_whole():
    async def run():
        reader = BodyReader(60, 60, 100, grace=1e9)
        reading = asyncio.create_task(reader.read(never(), None, lambda: pytest.fail("it was displaced")))
        while not reader.held:
            await asyncio.sleep(0)
        reader.displace()
        await asyncio.sleep(0)
        assert not reading.done()
        reading.cancel()
        reader.grace = 0
        assert (await reader.read(parts(b"x"), None, lambda: pytest.fail("it was displaced"))).getvalue() == b"x"
        reader.displace()

    asyncio.run(run())
