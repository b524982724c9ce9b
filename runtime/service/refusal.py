"""Exception for a request that is not served: HTTP status and message."""

__all__ = ["Refusal"]


class Refusal(Exception):  # noqa: N818  (the client's error, not ours)
    """A request that gets a message instead of an answer.

    status: 400 damaged image, 408 too slow, 413 too large, 415 unsupported type, 422 invalid value, 503 no room now
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
