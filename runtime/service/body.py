"""Request body to model input, with limits on bytes, pixels and time."""

import asyncio
import io
import math
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from PIL import Image, UnidentifiedImageError

from tokfilter.artifacts.images import rgb_from_image
from tokfilter.artifacts.limits import MAX_JPEG_SCANS
from tokfilter.errors import DataError
from tokfilter.runtime.preprocess import Array, Preprocess
from tokfilter.runtime.service.refusal import NO_MEMORY, Refusal

__all__ = ["BodyReader", "check_type", "image_from_body", "input_from_body", "input_from_image"]

_FORMATS: Final = ("JPEG", "PNG")
_TYPES: Final = ("image/jpeg", "image/png", "application/octet-stream")
_FORM: Final = "application/x-www-form-urlencoded"
_SCAN: Final = b"\xff\xda"
"""Marker at the start of a JPEG scan."""


def check_type(content_type: str | None) -> None:
    """Raise Refusal (415) for a content type other than JPEG, PNG or plain bytes."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind and kind not in _TYPES:
        remedy = " curl sends that type by itself: add -H 'Content-Type: image/jpeg'." if kind == _FORM else ""
        raise Refusal(415, f"expected a JPEG or PNG file as {' or '.join(_TYPES[:2])}, got {kind}.{remedy}")


@dataclass(eq=False)
class _Reading:
    task: "asyncio.Task[None]"
    since: float
    on_displaced: Callable[[], None]


class BodyReader:
    """Reads request bodies; the bytes of all of them are bounded.

    A client that sends its body byte by byte would hold one of the places for requests for nothing, and a few dozen of
    them all places. ``displace`` ends the slowest.

    most, seconds: of one body
    most_in_all: bytes of the bodies that are held
    grace: seconds before which no body is displaced
    """

    def __init__(self, most: int, seconds: float, most_in_all: int, grace: float = math.inf) -> None:
        self.most, self.seconds, self.most_in_all, self.grace = most, seconds, most_in_all, grace
        self._sizes: dict[io.BytesIO, int] = {}  # of the bodies that are held; Pillow may close one
        self._readings: dict[_Reading, None] = {}  # used as an ordered set, the oldest first

    @property
    def held(self) -> int:
        """Bytes of all bodies that are held."""
        return sum(self._sizes.values())

    def displace(self) -> None:
        """End the oldest reading, where it has lasted longer than the grace; its request gets 408."""
        oldest = next((one for one in self._readings if not one.task.done()), None)
        if oldest is not None and monotonic() - oldest.since > self.grace:
            del self._readings[oldest]
            oldest.on_displaced()
            oldest.task.cancel()

    async def read(
        self,
        parts: AsyncIterator[bytes],
        content_length: str | None,
        on_displaced: Callable[[], None] = lambda: None,
    ) -> io.BytesIO:
        """Read a body; ``release`` it afterwards. Raises Refusal (400, 408, 413, 503).

        content_length: the request's header, if any
        on_displaced: called when another request gets the place of this one
        """
        if content_length is not None and content_length.isdecimal() and int(content_length) > self.most:
            raise self._too_large()
        body = io.BytesIO()
        self._sizes[body] = 0
        reading = _Reading(asyncio.ensure_future(self._collect(parts, body)), monotonic(), on_displaced)
        self._readings[reading] = None
        try:
            await asyncio.wait_for(reading.task, self.seconds)
            if not body.tell():
                raise Refusal(400, "expected an image as the body, got an empty body.")
        except asyncio.TimeoutError as error:  # the built-in TimeoutError from Python 3.11 on
            self.release(body)
            raise Refusal(408, f"expected the whole image within {self.seconds:g} seconds.") from error
        except asyncio.CancelledError as error:
            self.release(body)
            if reading in self._readings:
                raise
            raise Refusal(
                408,
                f"the service is full, and this image was not sent within {self.grace:g} seconds: another one has its "
                "place. Try again later.",
            ) from error
        except BaseException:
            self.release(body)
            raise
        finally:
            self._readings.pop(reading, None)
        return body

    async def _collect(self, parts: AsyncIterator[bytes], body: io.BytesIO) -> None:
        async for part in parts:
            if body.tell() + len(part) > self.most:
                raise self._too_large()
            if self.held + len(part) > self.most_in_all:
                self.release(body)  # now: the others take what it held, in place of being refused with it
                raise Refusal(503, "the images that are being sent now fill the memory set aside. Try again later.")
            body.write(part)
            self._sizes[body] += len(part)

    def release(self, body: io.BytesIO) -> None:
        """Count a body no more, and free it."""
        self._sizes.pop(body, None)
        body.close()

    def _too_large(self) -> Refusal:
        return Refusal(413, f"expected at most {self.most / 1e6:g} MB, got more. Send a smaller file.")


def image_from_body(body: io.BytesIO, most_pixels: int) -> Image.Image:
    """Open an image by its header; its pixels are not decoded yet. Raises Refusal (400, 413, 415)."""
    body.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a stricter limit follows
            image = Image.open(body, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise Refusal(415, "expected a JPEG or PNG file, got other bytes.") from error
    except Image.DecompressionBombError as error:
        raise _too_many(most_pixels) from error
    except MemoryError as error:
        raise Refusal(503, NO_MEMORY) from error
    except Exception as error:  # decoders raise many kinds of exceptions for damaged files
        raise _damaged(error) from error
    if image.width * image.height > most_pixels:
        raise _too_many(most_pixels)
    if image.format != "PNG" and body.getvalue().count(_SCAN) > MAX_JPEG_SCANS:
        raise Refusal(413, f"expected at most {MAX_JPEG_SCANS} scans in a progressive JPEG file, got more.")
    return image


def input_from_image(image: Image.Image, preprocess: Preprocess, draft: bool = True) -> Array:
    """Decode and preprocess an opened image: one row of the model's input. Raises Refusal (400, 422).

    draft: decode a JPEG file at the reduced size that the preprocessing allows
    """
    scale = preprocess.reduction(image.width, image.height) if draft else 1
    try:
        if scale > 1 and image.format != "PNG":
            image.draft(None, (image.width // scale, image.height // scale))
        return preprocess(rgb_from_image(image))
    except DataError as error:
        raise Refusal(422, str(error)) from error
    except MemoryError as error:
        raise Refusal(503, NO_MEMORY) from error
    except Exception as error:  # as above
        raise _damaged(error) from error


def input_from_body(body: bytes, preprocess: Preprocess, most_pixels: int, draft: bool = True) -> Array:
    """One row of the model's input from an image file. Raises Refusal (400, 413, 415, 422)."""
    return input_from_image(image_from_body(io.BytesIO(body), most_pixels), preprocess, draft)


def _too_many(most_pixels: int) -> Refusal:
    return Refusal(413, f"expected at most {most_pixels / 1e6:g} million pixels, got more. Scale the image down.")


def _damaged(error: Exception) -> Refusal:
    return Refusal(400, f"the image is damaged or cut short: {error}.")
