"""ASGI middleware: 503 above the in-flight limit, before the body of a request is read.

It wraps FastAPI because a 503 has to cost far less than an answer: under overload most requests get one.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from tokfilter.runtime.service.batcher import Batcher, Full
from tokfilter.runtime.service.metrics import Metrics

__all__ = ["SLOT", "Admission"]

SLOT: Final = "tokfilter.slot"
"""Key of the request's slot in the scope of the application."""

_RETRY_S: Final = 1


class Admission:
    """Passes POST requests for ``path`` to ``app`` while the batcher has a free slot; answers 503 otherwise.

    make_room: called at the limit; may release the slot of a request that holds it for nothing
    """

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        batcher: Batcher[Any, Any],
        metrics: Metrics,
        make_room: Callable[[], object] = lambda: None,
    ) -> None:
        self.app, self.path, self.batcher, self.metrics = app, path, batcher, metrics
        self.make_room = make_room
        message = f"{batcher.limit} requests are in flight, which is the limit. Try again later."
        self._body = json.dumps({"detail": message}).encode()
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self._body)).encode()),
            (b"retry-after", str(_RETRY_S).encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection (ASGI)."""
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.batcher.admitted >= self.batcher.limit:
            self.make_room()
        try:
            with self.batcher.slot() as scope[SLOT]:
                await self.app(scope, receive, send)
        except Full:
            self.metrics.refused.inc()
            self.metrics.requests.labels(503).inc()
            await send({"type": "http.response.start", "status": 503, "headers": self._headers})
            await send({"type": "http.response.body", "body": self._body})
