"""Hostile requests to a running service: bodies, heads, queries. One connection each."""

import socket
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from hostile.damage import damaged
from hostile.pictures import picture_changed
from hostile.server import CPU_S, WALL_S, Done
from hostile.values import NUMBERS, TEXTS
from hostile.verdict import Verdict, printable

NAME = "requests to serve"
_PATIENCE_S = 1.0
"""Without an answer for this long, a client says that it sends nothing more."""
_HEADERS = (
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 3\r\nTransfer-Encoding: chunked",
    "Content-Length: +5",
    "Content-Length : 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding:\r\n chunked",
    "Trailer: Content-Length",
    "Transfer-Encoding: x",
    "Expect: 100-continue",
    "Content-Encoding: gzip",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Range: bytes=0-",
    "Authorization: Bearer \x1b[31m",
    "Host: a\r\nHost: b",
    "X: " + "x" * 20_000,
    "X-Forwarded-For: [/]",
    ": y",
    "A" * 3000 + ": 1",
    "Connection: \x00",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: application/json",
    "Accept: \xff",
)
_PATHS = (
    "/classify",
    "/metrics",
    "/health/live",
    "/docs",
    "/openapi.json",
    "/../../etc/passwd",
    "//classify",
    "/classify/",
    "/%00",
    "/" + "a" * 9000,
    "/classify;x",
    "http://other/classify",
    "*",
    "/%ff%fe",
    "/classify#x",
)


def made_request(pictures: list[bytes], seed: int, number: int) -> tuple[bytes, str]:
    """Bytes for one connection, and what is odd in them."""
    rng = Random(f"{seed}/{NAME}/{number}")
    body = rng.choice(pictures)
    kinds = "body body body damage damage query path header header method bytes chunks several"
    kind = rng.choice(kinds.split())
    method, path, headers, what = "POST", "/classify", ["Content-Type: image/jpeg"], kind
    if kind == "body":
        body, what = picture_changed(body, rng)
    elif kind == "damage":
        body, what = damaged(body, rng)
    elif kind == "query":
        text = str(rng.choice((*TEXTS, *NUMBERS))).encode("utf-8", "surrogatepass")
        quoted = "".join(f"%{byte:02x}" for byte in text[:3000])
        path += f"?{rng.choice(('keep', 'top', 'x', 'keep=1&keep'))}={quoted}"
        what = f"query {text[:40]!r}"
    elif kind == "path":
        path = rng.choice(_PATHS)
        method = rng.choice(("GET", "POST", "DELETE"))
    elif kind == "header":
        headers.append(rng.choice(_HEADERS))
        what = f"header {headers[-1][:40]!r}"
    elif kind == "method":
        method = rng.choice(("PUT", "TRACE", "CONNECT", "FOO", "", "GET " * 50, "\x00", "PRI", "OPTIONS", "HEAD"))
    elif kind == "chunks":
        size = rng.choice(("-1", "ffffffffffffffff", "5;" + "x" * 9000, "0", "g", "3"))
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        head += f"{size}\r\n"
        return head.encode() + body + b"\r\n0\r\n\r\n", f"chunk of {size[:20]}"
    if not any(header.startswith(("Content-Length", "Transfer-Encoding")) for header in headers):
        headers.append(f"Content-Length: {rng.choice((len(body), len(body), len(body) + 1, max(0, len(body) - 1)))}")
    head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *headers, "Connection: close", "", ""))
    sent = head.encode("latin-1", "replace") + body
    if kind == "several":
        one = sent.replace(b"Connection: close\r\n", b"")
        sent, what = one * rng.choice((1, 5, 40)) + sent, "several requests at once"
    if kind == "bytes":
        sent, what = damaged(sent, rng)
    return sent, what


class Service:
    """A service under ``benchmarks.service.process.serving``, and what each request did to it."""

    def __init__(self, running):
        self.running = running
        self.status = Path(f"/proc/{running.process.pid}/status")
        self.first_peak = self._peak()
        self.logged = 0

    def ask(self, content: bytes) -> tuple[Done, Verdict]:
        """Send bytes on a connection of its own and wait for its end."""
        from tokfilter.benchmarks.service.process import cpu_seconds

        process = self.running.process
        before, begin = cpu_seconds(process.pid), time.monotonic()
        answer = self._answer(content)
        wall = time.monotonic() - begin
        if process.poll() is not None:
            return Done(process.returncode, 0, wall, 0, False), Verdict(
                True, ("crash",), printable(self.running.log_text()[-600:])
            )
        done = Done(0, cpu_seconds(process.pid) - before, wall, self._peak(), answer is None)
        log = self.running.log_text()
        new, self.logged = log[self.logged :], len(log)
        status = (answer or b"")[9:12]
        tests = {
            "hang": answer is None or done.cpu_s > CPU_S,
            "memory": done.peak - self.first_peak > 1 << 30,
            "traceback": "Traceback" in new,
            "unexpected": status == b"500",
            "escape": "\x1b" in new,
        }
        faults = tuple(name for name, found in tests.items() if found)
        return done, Verdict(status != b"200", faults, printable(new[-500:]) + f" [answer {(answer or b'')[:80]!r}]")

    def _answer(self, content):
        """What comes until the service closes, at most 64 kB; None after WALL_S."""
        where = urlsplit(self.running.url)
        received = b""
        with socket.create_connection((where.hostname, where.port), 10) as one:
            one.settimeout(WALL_S)
            with suppress(OSError):  # closed before all was sent
                one.sendall(content)
            one.settimeout(_PATIENCE_S)
            try:
                while len(received) < 65_536 and (part := one.recv(65_536)):
                    received += part
                return received
            except TimeoutError:
                pass  # the rest of a body that is announced larger than it is: say that nothing more comes
            except OSError:
                return received
            one.settimeout(WALL_S)
            try:
                one.shutdown(socket.SHUT_WR)
                while len(received) < 65_536 and (part := one.recv(65_536)):
                    received += part
            except TimeoutError:
                return None
            except OSError:
                pass
        return received

    def _peak(self):
        return int(self.status.read_text().split("VmHWM:")[1].split()[0]) << 10
