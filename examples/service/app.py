"""The HTTP service: POST an image, get its class; errors are a status and a message."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from tokfilter.artifacts.budget import keep_from_text
from tokfilter.errors import BudgetError, TokfilterError
from tokfilter.runtime.preprocess import Array

from .admission import Admission
from .batcher import Batcher
from .body import check_type, input_from_body, read_body
from .engine import Engine
from .metrics import Metrics
from .refusal import Refusal

__all__ = ["Limits", "Service"]

_CLASSIFY: Final = "/classify"
_UNREAD: Final = (408, 413, 415)
"""Errors that may leave a body unread: the connection is closed after them."""


@dataclass(frozen=True)
class Limits:
    """Limits of one process.

    admitted: requests in flight; above it a request gets 503
    wait_ms: longest wait of an image for a fuller batch
    body_bytes, pixels: of an image, as sent and as decoded
    body_s: seconds for the body to arrive
    decoders: threads that decode images
    """

    admitted: int = 64
    wait_ms: float = 2.0
    body_bytes: int = 20_000_000
    pixels: int = 24_000_000
    body_s: float = 10.0
    decoders: int = 2


class Service:
    """The engine, its batcher and the routes."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits, self.metrics = engine, limits, Metrics()
        self.batcher = Batcher[Array, Array](
            engine.probabilities,
            engine.largest,
            limits.wait_ms / 1e3,
            limits.admitted,
            self.metrics.batches.observe,
        )
        self.metrics.watch(self.batcher)
        self.ready = False
        self.app = Admission(self._routes(), _CLASSIFY, self.batcher, self.metrics)

    def _routes(self) -> FastAPI:
        app = FastAPI(title="tokfilter", lifespan=self._life, docs_url=None, redoc_url=None)
        app.add_api_route(_CLASSIFY, self.classify, methods=["POST"])
        app.add_api_route("/health/live", self.live)
        app.add_api_route("/health/ready", self.is_ready)
        app.add_api_route("/metrics", self.show_metrics)
        app.add_exception_handler(RequestValidationError, _refused_query)
        return app

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        """Run the batcher. Uvicorn leaves this block when it no longer listens and every request is answered."""
        with ThreadPoolExecutor(self.limits.decoders, "decode") as self.decoders:
            worker = asyncio.create_task(self.batcher.work())
            self.ready = True
            try:
                yield
            finally:
                self.ready = False
                self.batcher.close()
                await worker

    async def classify(
        self, request: Request, keep: str | None = None, top: Annotated[int, Query(ge=1, le=1000)] = 5
    ) -> JSONResponse:
        """The most probable classes of the JPEG or PNG file in the body. keep: a ratio or a count of tokens."""
        start = perf_counter()
        try:
            answer = JSONResponse(await self._answer(request, keep, top))
            self.metrics.seconds.observe(perf_counter() - start)
        except Refusal as refusal:
            answer = _refused(refusal.status, refusal.message)
        except ClientDisconnect:
            answer = _refused(400, "the connection was closed before the image was complete.")
        except TokfilterError as error:
            answer = _refused(500, str(error))
        self.metrics.requests.labels(answer.status_code).inc()
        return answer

    async def _answer(self, request: Request, keep: str | None, top: int) -> dict[str, Any]:
        tokens = self._tokens(keep)
        check_type(request.headers.get("content-type"))
        limits, content_length = self.limits, request.headers.get("content-length")
        body = await read_body(request.stream(), content_length, limits.body_bytes, limits.body_s)
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self.decoders, input_from_body, body, self.engine.preprocess, limits.pixels)
        probabilities = await self.batcher.submit(image, tokens)
        best = self.engine.best(probabilities, top)
        return {"class": best[0]["class"], "tokens": tokens, "top": best}

    def _tokens(self, keep: str | None) -> int:
        try:
            return self.engine.tokens(None if keep is None else keep_from_text(keep))
        except BudgetError as error:
            raise Refusal(422, str(error)) from error

    async def live(self) -> dict[str, str]:
        """Liveness: the process answers."""
        return {"status": "live"}

    async def is_ready(self) -> JSONResponse:
        """Readiness: 503 while starting, stopping or at the in-flight limit, for load balancers."""
        free = self.ready and self.batcher.admitted < self.limits.admitted
        return JSONResponse({"status": "ready" if free else "busy"}, 200 if free else 503)

    async def show_metrics(self) -> Response:
        """Metrics in the format of Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _refused(status: int, message: str) -> JSONResponse:
    return JSONResponse({"detail": message}, status, {"Connection": "close"} if status in _UNREAD else None)


async def _refused_query(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    messages = [f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()]
    return _refused(422, "; ".join(messages))
