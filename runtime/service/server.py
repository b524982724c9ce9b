"""Runs the service under Uvicorn until it is told to stop."""

import logging
import math
import signal
from collections.abc import Callable
from time import monotonic
from typing import Final

import uvicorn

from tokfilter.errors import EngineError
from tokfilter.runtime.service.app import Service
from tokfilter.runtime.service.connections import Connections
from tokfilter.runtime.service.descriptors import connections_from_descriptors
from tokfilter.runtime.service.http_protocol import protocol_with_limits
from tokfilter.runtime.service.metrics import Metrics

__all__ = ["SECURITY_HEADERS", "serve"]

_BACKLOG: Final = 256
"""Connections that the system accepts before the service does; the event loop takes them at once."""

SECURITY_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)
"""Of every answer. The page at /docs has a style sheet in itself and nothing else."""

_LOG_S: Final = 10.0
"""Seconds between two warnings with the same reason."""

_REASONS: Final = {
    "per_address": "the limit of connections from one address is reached",
    "connections": "the limit of connections is reached, and all are being answered",
    "descriptors": "no more files can be opened (ulimit -n), and all connections are being answered",
    "displaced": "the limit of connections is reached; the oldest ones without a request are closed",
    "header_size": "a request's head was too large",
    "header_time": "a connection sent no whole request in time",
}

_log = logging.getLogger("uvicorn.error")


def serve(service: Service, host: str, port: int) -> None:
    """Run until SIGTERM or SIGINT; requests in flight are answered before it returns.

    Raises EngineError when the limit of open files leaves no room for connections.
    """
    limits = service.limits
    most = connections_from_descriptors(limits.connections, _BACKLOG)
    if most < 1:
        raise EngineError("the limit of open files leaves no room for connections: raise it (ulimit -n 4096).")
    connections = Connections(most, limits.per_address, _reporter(service.metrics))
    service.metrics.watch_connections(connections)
    config = uvicorn.Config(
        service.app,
        host,
        port,
        http=protocol_with_limits(limits, connections),
        ws="none",
        access_log=False,
        backlog=_BACKLOG,
        server_header=False,
        headers=list(SECURITY_HEADERS),
        proxy_headers=False,
        timeout_keep_alive=math.ceil(limits.keep_alive_s),  # the protocol counts fractions
    )
    server = uvicorn.Server(config)
    if most < limits.connections:
        _log.warning(
            "The limit of open files leaves room for %d connections, not %d: raise it (ulimit -n).",
            most,
            limits.connections,
        )
    # Uvicorn re-raises the signal that stopped it; these handlers make a stop exit with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run()


def _reporter(metrics: Metrics) -> Callable[[str], None]:
    """Counts the connections that are closed at a limit, and says so in the log."""
    said: dict[str, float] = {}

    def report(reason: str) -> None:
        metrics.closed_connections.labels(reason).inc()
        if reason in _REASONS and monotonic() - said.get(reason, -math.inf) > _LOG_S:
            said[reason] = monotonic()
            _log.warning("Connections are closed: %s.", _REASONS[reason])

    return report
