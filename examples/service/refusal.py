"""A request that is not served, as a status of HTTP and a sentence for whoever sent it."""

__all__ = ["Refusal"]


class Refusal(Exception):  # noqa: N818  (what was asked for is refused; nothing failed)
    """What the answer says instead of a class.

    status: 400 damaged, 408 too slow, 413 too large, 415 of another kind, 422 not to be served, 503 too much at once
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
