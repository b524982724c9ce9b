"""What a hostile client does to a service: connections that say nothing, or half of a head; heads without an end.

The service must listen on the loopback interface: attackers come from addresses 127.1.0.1, 127.1.0.2 ...
"""

import asyncio
import heapq
import multiprocessing
import selectors
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Final

__all__ = ["endless_head", "held_connections", "open_connections"]

_PER_ADDRESS: Final = 64
_AGAIN_S: Final = 2.0
"""Wait before a closed connection is opened again."""
_HALF: Final = b"POST /classify HTTP/1.1\r\nHost: service\r\nContent-Type: image/jpeg\r\nX-Slow: "


@contextmanager
def held_connections(port: int, silent: int, slow: int) -> Iterator[None]:
    """Keep connections open from a process of its own; each is opened again two seconds after it was closed.

    silent: connections that send nothing
    slow: connections that send half of a head
    """
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(port, silent, slow), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _hold(port: int, silent: int, slow: int) -> None:
    """A plain loop over sockets: it shares the cores with the service, so it has to cost little."""
    due = [(0.0, number) for number in range(silent + slow)]  # a heap of (time to open it, its number)
    with selectors.DefaultSelector() as selector:
        while True:
            while due and due[0][0] <= perf_counter():
                _, number = heapq.heappop(due)
                if not _open(selector, port, number, number >= silent):
                    heapq.heappush(due, (perf_counter() + _AGAIN_S, number))
            for key, events in selector.select(0.05):
                one, (number, half) = key.fileobj, key.data
                assert isinstance(one, socket.socket)
                if _still_open(one, events, half):
                    selector.modify(one, selectors.EVENT_READ, (number, False))
                else:
                    selector.unregister(one)
                    one.close()
                    heapq.heappush(due, (perf_counter() + _AGAIN_S, number))


def _open(selector: selectors.BaseSelector, port: int, number: int, slow: bool) -> bool:
    address = number // _PER_ADDRESS
    one = socket.socket()
    one.setblocking(False)
    try:
        one.bind((f"127.1.{address // 250}.{1 + address % 250}", 0))
        one.connect_ex(("127.0.0.1", port))
    except OSError:  # no free port, or the service has gone
        one.close()
        return False
    selector.register(one, selectors.EVENT_READ | (selectors.EVENT_WRITE if slow else 0), (number, slow))
    return True


def _still_open(one: socket.socket, events: int, half: bool) -> bool:
    try:
        if half and events & selectors.EVENT_WRITE:
            one.send(_HALF)
        return not events & selectors.EVENT_READ or bool(one.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


async def endless_head(port: int, total: int, block: int = 1 << 20) -> tuple[int, bytes]:
    """Send a head of ``total`` bytes, until an answer comes. Returns the bytes sent, and the answer's first line."""
    sent = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.readline())
    try:
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: service\r\nX-Long: ")
        with suppress(ConnectionError):
            while sent < total and not answer.done():
                writer.write(b"x" * block)
                await writer.drain()
                await asyncio.sleep(0)  # a drain that need not wait lets nothing else run
                sent += block
            writer.write(b"\r\n\r\n")
        with suppress(ConnectionError, asyncio.TimeoutError):
            return sent, await asyncio.wait_for(answer, 60)
        return sent, b""
    finally:
        answer.cancel()
        writer.transport.abort()


def open_connections(port: int, count: int) -> Sequence[socket.socket]:
    """Connections of this process that send nothing; the caller closes them."""
    return [
        socket.create_connection(("127.0.0.1", port), 10, (f"127.2.0.{1 + number // _PER_ADDRESS}", 0))
        for number in range(count)
    ]
