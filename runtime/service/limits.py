"""Limits of one service process."""

from dataclasses import dataclass
from typing import Final

from tokfilter.artifacts.limits import DECODING_BYTES

__all__ = ["SMALL_PIXELS", "Limits"]

SMALL_PIXELS: Final = 4_000_000
"""Of an image that takes well below 0.1 s to decode; larger ones have threads of their own."""

_CONNECTION: Final = 128 << 10
"""Bytes of a connection beside its head: buffers of the socket's reader and writer, and the objects of a request."""


@dataclass(frozen=True)
class Limits:
    """What a client can take of the service.

    admitted: requests in flight; above it a request gets 503
    wait_ms: longest wait of an image for a fuller batch
    body_bytes, pixels: of an image, as sent and as decoded
    body_s: seconds for the body to arrive, and for the client to take an answer that does not fit the socket's buffer
    grace_s: seconds after which a body that still arrives gives its place to a new request, where all are taken
    bodies_bytes: of all bodies that are being read or wait to be decoded
    decoders: threads that decode images
    draft: decode large JPEG files at a reduced size (``Preprocess.reduction``)
    connections, per_address: open connections, in all and from one address
    header_bytes, header_s: size of a request's head, and seconds for it to arrive
    keep_alive_s: seconds without a request after which a connection is closed
    """

    admitted: int = 64
    wait_ms: float = 2.0
    body_bytes: int = 20_000_000
    pixels: int = 24_000_000
    body_s: float = 10.0
    grace_s: float = 2.0
    bodies_bytes: int = 256_000_000
    decoders: int = 2
    draft: bool = True
    connections: int = 4096
    per_address: int = 128
    header_bytes: int = 16_384
    header_s: float = 10.0
    keep_alive_s: float = 5.0

    @property
    def large_decoders(self) -> int:
        """Threads for images of more than SMALL_PIXELS."""
        return max(1, self.decoders // 2)

    @property
    def memory_bytes(self) -> int:
        """Bytes that all requests together may take, beside the model's.

        Bodies count twice, because a decoder may hold a copy; each decoder has the largest image that it takes.
        """
        decoded = self.decoders * min(self.pixels, SMALL_PIXELS) + self.large_decoders * self.pixels
        held = self.connections * (self.header_bytes + _CONNECTION)
        return 2 * self.bodies_bytes + decoded * DECODING_BYTES["JPEG"] + held
