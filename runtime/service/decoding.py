"""Threads that decode images. Large images have threads of their own, so that small ones never wait for them."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from PIL import Image

from tokfilter.runtime.preprocess import Array, Preprocess
from tokfilter.runtime.service.body import image_from_body, input_from_image
from tokfilter.runtime.service.limits import SMALL_PIXELS, Limits
from tokfilter.runtime.service.refusal import Refusal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Decoders"]

_WAITING: Final = 8
"""Images of the largest size that may wait for a thread; a further one gets 503 at once."""


class Decoders:
    """Decodes and preprocesses images in threads. Use in a ``with`` block."""

    def __init__(self, preprocess: Preprocess, limits: Limits) -> None:
        self.preprocess, self.limits = preprocess, limits
        self._waiting = 0  # pixels of large images
        self._opened = ExitStack()

    def __enter__(self) -> "Self":
        self._small = self._opened.enter_context(ThreadPoolExecutor(self.limits.decoders, "decode"))
        self._large = self._opened.enter_context(ThreadPoolExecutor(self.limits.large_decoders, "decode-large"))
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    async def input_from_body(self, body: io.BytesIO) -> Array:
        """One row of the model's input from an image file. Raises Refusal (400, 413, 415, 422, 503)."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._small, self._begin, body)
        if not isinstance(found, Image.Image):
            return found
        pixels = found.width * found.height
        if self._waiting + pixels > _WAITING * self.limits.pixels:
            raise Refusal(
                503, "too many large images are waiting to be decoded. Try again later, or send smaller ones."
            )
        self._waiting += pixels
        try:
            return await loop.run_in_executor(self._large, self._decode, found)
        finally:
            self._waiting -= pixels

    def _begin(self, body: io.BytesIO) -> Array | Image.Image:
        """The input of a small image; a large one opened."""
        image = image_from_body(body, self.limits.pixels)
        return image if image.width * image.height > SMALL_PIXELS else self._decode(image)

    def _decode(self, image: Image.Image) -> Array:
        return input_from_image(image, self.preprocess, self.limits.draft)
