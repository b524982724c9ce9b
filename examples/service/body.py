"""The body of a request as the model's input, or a refusal: nothing of an unbounded size is ever held."""

import asyncio
import io
import warnings
from collections.abc import AsyncIterator
from typing import Final

from PIL import Image, UnidentifiedImageError

from tokfilter.artifacts.images import rgb_from_image
from tokfilter.errors import DataError
from tokfilter.runtime.preprocess import Floats, Preprocess

from .refusal import Refusal

__all__ = ["check_type", "input_from_body", "read_body"]

_FORMATS: Final = ("JPEG", "PNG")
_TYPES: Final = ("image/jpeg", "image/png", "application/octet-stream")


def check_type(content_type: str | None) -> None:
    """Raise Refusal (415) when a body says that it is something else than a JPEG or PNG file."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind and kind not in _TYPES:
        raise Refusal(415, f"wants the bytes of a JPEG or PNG file as {' or '.join(_TYPES[:2])}, got {kind}.")


async def read_body(parts: AsyncIterator[bytes], said: str | None, most: int, seconds: float) -> bytes:
    """A body of at most ``most`` bytes that arrives within ``seconds``. Raises Refusal (400, 408, 413).

    said: its Content-Length, if any
    """
    if said is not None and said.isdecimal() and int(said) > most:
        raise _too_large(most)
    try:
        body = await asyncio.wait_for(_joined(parts, most), seconds)
    except asyncio.TimeoutError as error:  # a TimeoutError from Python 3.11 on
        raise Refusal(408, f"wants the whole image within {seconds:g} seconds.") from error
    if not body:
        raise Refusal(400, "wants an image as the body, got an empty one.")
    return body


async def _joined(parts: AsyncIterator[bytes], most: int) -> bytes:
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def input_from_body(body: bytes, preprocess: Preprocess, most_pixels: int) -> Floats:
    """Decode and prepare an image: [3, H, W]. Raises Refusal (400, 413, 415, 422)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a stricter limit follows
            image = Image.open(io.BytesIO(body), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise Refusal(415, "wants a JPEG or PNG file, got bytes that are neither.") from error
    except Image.DecompressionBombError as error:
        raise _too_many(most_pixels) from error
    except Exception as error:  # decoders of damaged files raise what they like; the answer is the same
        raise _damaged(error) from error
    with image:
        if image.width * image.height > most_pixels:
            raise _too_many(most_pixels)
        try:
            upright = rgb_from_image(image)
        except DataError as error:
            raise Refusal(422, str(error)) from error
        except Exception as error:  # as above
            raise _damaged(error) from error
    try:
        return preprocess(upright)
    except DataError as error:
        raise Refusal(422, str(error)) from error


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"wants at most {most / 1e6:g} MB, got more. Send a smaller file.")


def _too_many(most_pixels: int) -> Refusal:
    return Refusal(413, f"wants at most {most_pixels / 1e6:g} million pixels, got more. Scale the image down.")


def _damaged(error: Exception) -> Refusal:
    return Refusal(400, f"the image is damaged or cut short: {error}.")
