"""The hostile load, shortened: a document of its schema; and the attacks against what they are meant for."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from schema_check import valid

from tokfilter.benchmarks.service import abuse_steps
from tokfilter.benchmarks.service.abuse import document_from_abuse
from tokfilter.benchmarks.service.attacks import endless_head, held_connections
from tokfilter.runtime.measure.record import header


def test_a_short_abuse_is_a_document_of_its_schema(export_directory, monkeypatch):
    small = {
        "_AT_ONCE": 4, "_PICTURE": 300, "_NOISE": 200, "_OPENING_S": 0.5, "_QUIET_S": 0.2, "_TIDY_S": 0.2,
        "OPEN_FILES": 420, "HEAD_BYTES": 1_000_000, "CLIENTS": 4,
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(abuse_steps, name, value)
    found = document_from_abuse(export_directory, pairs=1, window=0.5, seconds=2, silent=20, slow=20)
    document = valid({**header("service_abuse", "python -m tokfilter.benchmarks service-abuse DIRECTORY"), **found})
    assert document["heads"]["answers"] == ["HTTP/1.1 431 Request Header Fields Too Large"] * 4
    assert document["pictures"]["statuses"] == {"200": 4} and document["bodies"]["statuses"] == {"200": 16}
    assert "leaves room for" in document["descriptors"]["said"][0]
    assert document["saturation"]["errors"] == {} == document["connections"]["errors"]
    assert document["saturation"]["answered"] > 0 and document["exit_code"] == 0


@contextmanager
def listening(handle):
    """A server that gives each connection to ``handle``, which closes it; a count of connections."""
    count, server = [0], socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            count[0] += 1
            handle(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], count
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(20)


def test_held_connections_are_silent_or_half_and_come_again():
    heads, kept = [], []

    def handle(connection):
        connection.settimeout(0.3)
        try:
            heads.append(connection.recv(4096))
        except TimeoutError:
            heads.append(b"")
        if len(heads) <= 3:
            connection.close()
        else:
            kept.append(connection)

    with listening(handle) as (port, _):
        deadline = time.monotonic() + 60
        with held_connections(port, 3, 3):
            while len(heads) < 9 and time.monotonic() < deadline:
                time.sleep(0.05)
    for connection in kept:
        connection.close()
    assert len(heads) >= 9
    halves = [head for head in heads if head]
    assert 3 <= len(halves) <= len(heads) - 3
    assert all(head.startswith(b"POST /classify HTTP/1.1") and b"\r\n\r\n" not in head for head in halves)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 431 No\r\n\r\n", b""])
def test_an_endless_head_says_what_was_taken_and_answered(answer):
    def handle(connection):
        with connection:
            received = 0
            while received < 50_000:
                received += len(connection.recv(65536))
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    with listening(handle) as (port, _):
        sent, line = asyncio.run(endless_head(port, 200_000, 10_000))
    assert sent >= 50_000 and line == answer[: answer.find(b"\n") + 1]
