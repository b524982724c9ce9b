"""The HTTP service: POST an image, get its class or embedding; errors are a status and a message."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from tokfilter import __version__
from tokfilter.artifacts.budget import keep_from_text
from tokfilter.errors import BudgetError, TokfilterError
from tokfilter.runtime.predict import finite
from tokfilter.runtime.preprocess import Array
from tokfilter.runtime.service.admission import SLOT, Admission
from tokfilter.runtime.service.batcher import Batcher, Slot
from tokfilter.runtime.service.bearer_token import BearerToken
from tokfilter.runtime.service.body import BodyReader, check_type
from tokfilter.runtime.service.decoding import Decoders
from tokfilter.runtime.service.engine import Engine
from tokfilter.runtime.service.limits import Limits
from tokfilter.runtime.service.memory import give_back_memory
from tokfilter.runtime.service.metrics import Metrics
from tokfilter.runtime.service.page import page
from tokfilter.runtime.service.refusal import NO_MEMORY, Refusal

__all__ = ["Service"]

_CLASSIFY: Final = "/classify"
_EMBED: Final = "/embed"
"""The route of a model without a classifier."""
_UNREAD: Final = (408, 413, 415, 503)
"""Errors that may leave a body unread: the connection is closed after them."""
_TIDY_S: Final = 5.0
"""Seconds between two looks at whether memory can be given back."""
_IMAGE: Final = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/jpeg", "image/png")},
    }
}


class Service:
    """The engine, its batcher and the routes.

    token: bearer token that requests need, without health checks; None: none
    """

    def __init__(self, engine: Engine, limits: Limits, token: bytes | None = None) -> None:
        self.engine, self.limits, self.metrics = engine, limits, Metrics()
        self.needs_token = token is not None
        self.batcher = Batcher[Array, Array](
            engine.outputs,
            engine.largest,
            limits.wait_ms / 1e3,
            limits.admitted,
            self.metrics.batches.observe,
        )
        self.metrics.watch(self.batcher)
        self.bodies = BodyReader(limits.body_bytes, limits.body_s, limits.bodies_bytes, limits.grace_s)
        self.decoders = Decoders(engine.preprocess, limits)
        self.ready = False
        self.route, self.other = (_EMBED, _CLASSIFY) if engine.embeds else (_CLASSIFY, _EMBED)
        self.app: ASGIApp = Admission(self._routes(), self.route, self.batcher, self.metrics, self.bodies.displace)
        if token is not None:
            self.app = BearerToken(self.app, token, self.metrics)

    def _routes(self) -> FastAPI:
        app = FastAPI(title="tokfilter", version=__version__, lifespan=self._life, docs_url=None, redoc_url=None)
        answer = self.embed if self.engine.embeds else self.classify
        app.add_api_route(self.route, answer, methods=["POST"], openapi_extra=_IMAGE)
        app.add_api_route(self.other, self.wrong_route, methods=["POST"], include_in_schema=False)
        app.add_api_route("/health/live", self.live)
        app.add_api_route("/health/ready", self.is_ready)
        app.add_api_route("/metrics", self.show_metrics)
        app.add_api_route("/docs", self.show_page, include_in_schema=False)
        app.add_exception_handler(RequestValidationError, _refused_query)
        return app

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        """Run the batcher. Uvicorn leaves this block when it no longer listens and every request is answered."""
        with self.decoders:
            worker, tidier = asyncio.create_task(self.batcher.work()), asyncio.create_task(self._tidy())
            self.ready = True
            try:
                yield
            finally:
                self.ready = False
                self.batcher.close()
                await worker
                tidier.cancel()
                with suppress(asyncio.CancelledError):
                    await tidier

    async def _tidy(self) -> None:
        """Give memory back after each load: the next two times that no request is in flight.

        The second time for what a connection held beyond its request: the rest of a refused body, until it was closed.
        """
        seen, again = 0, False
        while True:
            await asyncio.sleep(_TIDY_S)
            new = self.batcher.taken != seen
            if (new or again) and not self.batcher.admitted:
                seen, again = self.batcher.taken, new
                await asyncio.to_thread(give_back_memory)

    async def classify(
        self, request: Request, keep: str | None = None, top: Annotated[int, Query(ge=1, le=1000)] = 5
    ) -> JSONResponse:
        """The most probable classes of the JPEG or PNG file in the body. keep: a ratio or a count of tokens."""

        def content(probabilities: Array, tokens: int) -> dict[str, Any]:
            best = self.engine.best(probabilities, top)
            return {"class": best[0]["class"], "tokens": tokens, "top": best}

        return await self._answered(request, keep, content)

    async def embed(self, request: Request, keep: str | None = None) -> JSONResponse:
        """The embedding of the JPEG or PNG file in the body. keep: a ratio or a count of tokens."""
        return await self._answered(
            request, keep, lambda embedding, tokens: {"embedding": embedding.tolist(), "tokens": tokens}
        )

    async def wrong_route(self) -> JSONResponse:
        """404: the model has another kind of output than this route gives."""
        what = "gives embeddings" if self.engine.embeds else "classifies"
        return _refused(404, f"this model {what}: POST the image to {self.route}.")

    async def _answered(
        self, request: Request, keep: str | None, content: Callable[[Array, int], dict[str, Any]]
    ) -> JSONResponse:
        """The answer to an image, or a refusal. content: of the answer, from the model's output and the tokens kept."""
        start = perf_counter()
        try:
            answer = JSONResponse(await self._answer(request, keep, content))
            self.metrics.seconds.observe(perf_counter() - start)
        except Refusal as refusal:
            answer = _refused(refusal.status, refusal.message)
            self.metrics.refused.inc(refusal.status == 503)
        except ClientDisconnect:
            answer = _refused(400, "the connection was closed before the image was complete.")
        except MemoryError:
            answer = _refused(503, NO_MEMORY)
            self.metrics.refused.inc()
        except TokfilterError as error:
            answer = _refused(500, str(error))
        self.metrics.requests.labels(answer.status_code).inc()
        return answer

    async def _answer(
        self, request: Request, keep: str | None, content: Callable[[Array, int], dict[str, Any]]
    ) -> dict[str, Any]:
        tokens = self._tokens(keep)
        check_type(request.headers.get("content-type"))
        slot: Slot = request.scope[SLOT]
        body = await self.bodies.read(request.stream(), request.headers.get("content-length"), slot.release)
        try:
            image = await self.decoders.input_from_body(body)
        finally:
            self.bodies.release(body)
        return content(finite(await self.batcher.submit(image, tokens)), tokens)

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

    async def show_page(self, request: Request) -> HTMLResponse:
        """How to use the service, with its limits."""
        model = self.engine.model_file.manifest.model.architecture
        return HTMLResponse(page(model, str(request.base_url).rstrip("/"), self.limits, self.needs_token, self.route))


def _refused(status: int, message: str) -> JSONResponse:
    headers = {"Connection": "close"} if status in _UNREAD else {}
    return JSONResponse({"detail": message}, status, headers | ({"Retry-After": "1"} if status == 503 else {}))


async def _refused_query(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    messages = [f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()]
    return _refused(422, "; ".join(messages))
