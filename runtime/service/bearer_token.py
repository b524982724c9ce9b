"""Bearer token: read from a file, compared in constant time, never logged."""

import hmac
import json
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from tokfilter.artifacts.files import existing_file
from tokfilter.errors import DataError
from tokfilter.runtime.service.metrics import Metrics

__all__ = ["BearerToken", "token_from_file"]

_SHORTEST: Final = 16
_LONGEST: Final = 4096
_OPEN: Final = ("/health/live", "/health/ready")


def token_from_file(path: Path) -> bytes:
    """The token in a file, without the white space around it. Raises DataError, in which it is not shown."""
    with existing_file(path, "the token").open("rb") as file:
        token = file.read(_LONGEST + 1).strip()
    if not _SHORTEST <= len(token) <= _LONGEST or not all(0x21 <= byte <= 0x7E for byte in token):
        raise DataError(
            f"{path} must hold a token of {_SHORTEST} to {_LONGEST} ASCII characters without spaces, got "
            f"{len(token)} bytes. `openssl rand -hex 32 > {path.name}` writes one."
        )
    return token


class BearerToken:
    """ASGI middleware: 401 without ``Authorization: Bearer TOKEN``, before anything else is looked at.

    Health checks need no token: load balancers cannot send one.
    """

    def __init__(self, app: ASGIApp, token: bytes, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self._expected = b"Bearer " + token
        message = "expected the header `Authorization: Bearer TOKEN` with this service's token."
        self._body = json.dumps({"detail": message}).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or scope["path"] in _OPEN or self._has_token(scope):
            await self.app(scope, receive, send)
            return
        self.metrics.requests.labels(401).inc()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self._body)).encode()),
            (b"www-authenticate", b'Bearer realm="tokfilter"'),
            (b"connection", b"close"),  # its body is not read
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})

    def _has_token(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        return hmac.compare_digest(scheme.capitalize() + b" " + token.strip(), self._expected)
