"""Uvicorn's HTTP/1.1 protocol with limits on heads, time and connections, which Uvicorn itself does not have.

Uvicorn closes no connection that sends nothing, or half of a head, and its parser in C keeps a head of any size. These
were tried (docs/CONTRIBUTING.md, "Libraries tried"): its parser in Python bounds the size only; hypercorn and granian
bound size and time, but not the connections of an address, and at their limit a silent connection keeps its place.
"""

import asyncio
import json
from collections import deque
from http import HTTPStatus
from typing import Any, ClassVar, Final, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tokfilter.runtime.service.connections import Connections
from tokfilter.runtime.service.descriptors import descriptors_left
from tokfilter.runtime.service.limits import Limits

__all__ = ["LimitedProtocol", "protocol_with_limits"]

_PIPELINED: Final = 16
"""Requests that a connection may send before the first is answered."""

_LINGER_S: Final = 1.0
"""Seconds for a refused client to read why. Closing while its data arrives would reset the connection instead."""

State = Literal["new", "receiving", "answering", "idle", "refused", "closing"]
"""new: no byte of a request yet; receiving: a head, or the rest of an answered request's body; answering: the
application has the request, and its own limit of time; idle: between requests; refused: what still arrives is thrown
away, and the refusal follows the answers to the requests before it."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. ``limits`` and ``open`` are set by ``protocol_with_limits``."""

    limits: ClassVar[Limits]
    open: ClassVar[Connections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state: State = "new"
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._begun = False  # a request whose end has not arrived
        self._progress = False  # the parser has got past a head, or into a body
        self._held = 0  # bytes that the parser holds without progress
        self._active: RequestResponseCycle | None = None  # the request that the application has, or had last
        self._refusal = b""  # waits for the answers before it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection at a limit, or start its time."""
        super().connection_made(transport)
        self._start(self.limits.header_s)
        refusal = self.open.enter(self, self.client[0] if self.client else "", descriptors_left(transport))
        if refusal is not None:
            self._refuse(503, f"{refusal} Try again later.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self.open.leave(self)
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close at once, for another connection."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, in parts that keep what the parser holds below the limit.

        A head is held until it is whole, and so are a chunk's extensions and the trailers after the last chunk.
        """
        most, left = self.limits.header_bytes, memoryview(data)
        while left and self._state != "refused" and not self.transport.is_closing():
            part, left = left[: most - self._held], left[most - self._held :]
            self._progress = False
            super().data_received(bytes(part))
            self._held = 0 if self._progress else self._held + len(part)
            if self._held >= most:
                self.open.on_closed("header_size")
                self._refuse(431, f"expected a request head of at most {most} bytes, got more.")
            elif len(self.pipeline) >= _PIPELINED:
                self._refuse(400, f"expected fewer than {_PIPELINED} requests before an answer is read, got more.")
        self._watch()

    def on_message_begin(self) -> None:
        """A request begins (callback of the parser)."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole (callback of the parser)."""
        self._progress = True
        if sum(name == b"host" for name, _ in self.headers) > 1:  # RFC 9112, 3.2; a proxy may have taken the other one
            raise ValueError("more than one Host")
        self.open.works(self)
        super().on_headers_complete()
        if not self.pipeline:
            self._active = self.cycle

    def on_body(self, body: bytes) -> None:
        """A part of the body (callback of the parser)."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole (callback of the parser)."""
        self._progress, self._begun = True, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written (callback of Uvicorn)."""
        if self.pipeline:
            self._active = self.pipeline[-1][0]  # Uvicorn starts it now
        super().on_response_complete()
        self._write_refusal()
        self._watch()

    def pause_writing(self) -> None:
        """The client does not take its answers."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.body_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client takes its answers again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request."""
        self._refuse(400, msg)

    def _watch(self) -> None:
        """Bring the state up to date; a new one starts its time."""
        state: State
        if self.transport.is_closing():
            state = "closing"
        elif self._state == "refused":
            return
        elif self.cycle is not None and not self.cycle.response_complete:
            state = "answering"
        elif self._begun:
            state = "receiving"
        else:
            state = "new" if self.cycle is None else "idle"
        if state == self._state or (self._state, state) == ("new", "receiving"):  # one limit for both
            return
        self._state = state
        self._start({"answering": None, "idle": self.limits.keep_alive_s}.get(state, self.limits.header_s))
        if state == "idle":
            self.open.waits(self)

    def _start(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        if self._state in ("closing", "refused"):
            self.transport.abort()  # the client does not take the rest, or has had its time
            return
        self.open.on_closed("idle" if self._state == "idle" else "header_time")
        if self._begun and (self.cycle is None or self.cycle.response_complete):
            self._refuse(408, f"expected the whole request within {self.limits.header_s:g} seconds.")
        else:
            self.transport.close()
        self._watch()

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, after the whole requests before, and close soon.

        The connection counts as one without a request.
        """
        body = json.dumps({"detail": message}).encode()
        head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        head += [b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)]
        head += [b"retry-after: 1\r\n"] if status == 503 else []
        self._refusal = b"".join([*head, b"connection: close\r\n\r\n", body])
        self._state = "refused"
        self._start(None)
        self._end_half_request()
        self._write_refusal()

    def _end_half_request(self) -> None:
        """The application learns that the rest of the last request never comes, and what it answers is not sent."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body:
            return
        if cycle.response_started:
            self.transport.close()  # a second head would stand within the answer
        self.pipeline = deque(entry for entry in self.pipeline if entry[0] is not cycle)
        cycle.disconnected, cycle.waiting_for_100_continue = True, False
        cycle.message_event.set()

    def _write_refusal(self) -> None:
        """Write it where the application answers nothing any more: no byte may follow the end of the stream."""
        cycle = self._active
        answered = cycle is None or cycle.response_complete or cycle.disconnected
        if not self._refusal or not answered or self.pipeline or self.transport.is_closing():
            return
        self.transport.write(self._refusal)
        self.transport.write_eof()
        self._refusal = b""
        self._start(_LINGER_S)


def protocol_with_limits(limits: Limits, connections: Connections) -> type[LimitedProtocol]:
    """The protocol class of one service, for ``uvicorn.Config(http=...)``."""
    return type("ServiceProtocol", (LimitedProtocol,), {"limits": limits, "open": connections})
