"""Request body to model input, with limits on bytes, pixels and time."""

import asyncio
import io
import warnings
from collections.abc import AsyncIterator
from typing import Final

from PIL import Image, UnidentifiedImageError

from tokfilter.artifacts.images import rgb_from_image
from tokfilter.errors import DataError
from tokfilter.runtime.preprocess import Array, Preprocess

from .refusal import Refusal

__all__ = ["check_type", "input_from_body", "read_body"]

_FORMATS: Final = ("JPEG", "PNG")
_TYPES: Final = ("image/jpeg", "image/png", "application/octet-stream")


def check_type(content_type: str | None) -> None:
    """Raise Refusal (415) for a content type other than JPEG, PNG or plain bytes."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind and kind not in _TYPES:
        raise Refusal(415, f"expected a JPEG or PNG file as {' or '.join(_TYPES[:2])}, got {kind}.")


async def read_body(parts: AsyncIterator[bytes], content_length: str | None, most: int, seconds: float) -> bytes:
    """Read a body of at most ``most`` bytes within ``seconds``. Raises Refusal (400, 408, 413).

    content_length: the request's header, if any
    """
    if content_length is not None and content_length.isdecimal() and int(content_length) > most:
        raise _too_large(most)
    try:
        body = await asyncio.wait_for(_collect(parts, most), seconds)
    except asyncio.TimeoutError as error:  # the built-in TimeoutError from Python 3.11 on
        raise Refusal(408, f"expected the whole image within {seconds:g} seconds.") from error
    if not body:
        raise Refusal(400, "expected an image as the body, got an empty body.")
    return body


async def _collect(parts: AsyncIterator[bytes], most: int) -> bytes:
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def input_from_body(body: bytes, preprocess: Preprocess, most_pixels: int) -> Array:
    """Decode and preprocess an image: one row of the model's input.

    Raises Refusal (400, 413, 415, 422).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a stricter limit follows
            image = Image.open(io.BytesIO(body), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise Refusal(415, "expected a JPEG or PNG file, got other bytes.") from error
    except Image.DecompressionBombError as error:
        raise _too_many(most_pixels) from error
    except Exception as error:  # decoders raise many kinds of exceptions for damaged files
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
    return Refusal(413, f"expected at most {most / 1e6:g} MB, got more. Send a smaller file.")


def _too_many(most_pixels: int) -> Refusal:
    return Refusal(413, f"expected at most {most_pixels / 1e6:g} million pixels, got more. Scale the image down.")


def _damaged(error: Exception) -> Refusal:
    return Refusal(400, f"the image is damaged or cut short: {error}.")
