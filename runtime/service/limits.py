"""Limits of one service process."""

from dataclasses import dataclass

__all__ = ["Limits"]


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
