"""The door of the service: what comes when the house is full is refused before anything of it is read.

It stands before FastAPI because a refusal has to be far cheaper than an answer, or refusing is what overloads.
"""

import json
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from .batcher import Batcher, Full
from .metrics import Metrics

__all__ = ["Admission"]

_RETRY_S: Final = 1


class Admission:
    """An ASGI application that lets images in to another one, as many at a time as a batcher has places."""

    def __init__(self, app: ASGIApp, path: str, batcher: Batcher[Any, Any], metrics: Metrics) -> None:
        self.app, self.path, self.batcher, self.metrics = app, path, batcher, metrics
        sentence = f"{batcher.limit} requests are being served, and no more at a time. Try again later."
        self._body = json.dumps({"detail": sentence}).encode()
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self._body)).encode()),
            (b"retry-after", str(_RETRY_S).encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's only method."""
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            with self.batcher.place():
                await self.app(scope, receive, send)
        except Full:
            self.metrics.refused.inc()
            self.metrics.requests.labels(503).inc()
            await send({"type": "http.response.start", "status": 503, "headers": self._headers})
            await send({"type": "http.response.body", "body": self._body})
