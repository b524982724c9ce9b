"""Exception for a request that is not served: HTTP status and message."""

from typing import Final

__all__ = ["NO_MEMORY", "Refusal"]

NO_MEMORY: Final = "there is no memory left for this image now. Try again later, or send a smaller one."
"""With status 503: the system, or the limit under which the service runs, gave no more."""


class Refusal(Exception):  # noqa: N818  (the client's error, not ours)
    """A request that gets a message instead of an answer.

    status: 400 damaged image, 408 too slow, 413 too large, 415 unsupported type, 422 invalid value, 503 no room now
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
