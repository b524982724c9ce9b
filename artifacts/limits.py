"""Limits on what is read from files and requests, each with its reason."""

from typing import Final

__all__ = ["IMAGE_FORMATS", "MAX_IMAGE_PIXELS", "MAX_JPEG_SCANS"]

IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Pillow's decoders that are used. Its others include EPS, which starts Ghostscript, and formats that nobody tests."""

MAX_IMAGE_PIXELS: Final = 100_000_000
"""Of an image, by its header, before it is decoded: medium-format cameras have 100 million.

On the way to 8-bit RGB an image takes at most 9 bytes for each pixel (measured for every mode of PNG): below 1 GB.
"""

MAX_JPEG_SCANS: Final = 100
"""Of a progressive JPEG file: encoders write about 10; each further one costs a pass over all coefficients."""
