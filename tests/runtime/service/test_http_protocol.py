"""The protocol's limits on heads, time and connections, over real sockets; the application behind it echoes bodies."""

import asyncio
import contextlib
import json
import logging
import threading
import time

import pytest
import uvicorn
from service_client import Talk

from tokfilter.runtime.service.connections import Connections
from tokfilter.runtime.service.http_protocol import protocol_with_limits
from tokfilter.runtime.service.limits import Limits
from tokfilter.runtime.service.server import SECURITY_HEADERS

GET = b"GET / HTTP/1.1\r\nHost: service\r\n\r\n"
FRAMINGS = {
    "both": b"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, the other way": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc",
    "two equal lengths": b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "list of lengths": b"Content-Length: 3, 3\r\n\r\nabc",
    "plus": b"Content-Length: +3\r\n\r\nabc",
    "space before the colon": b"Content-Length : 3\r\n\r\nabc",
    "hexadecimal": b"Content-Length: 0x3\r\n\r\nabc",
    "chunked is not last": b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked and identity": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "other coding": b"Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc",
    "vertical tab": b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "folded line": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "lines without CR": b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "line end in a chunk's extension": b"Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
    "chunk of 2^64 + 3": b"Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    "chunk of -3": b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "chunk that is longer": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
    "length as a trailer": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 50\r\n\r\n",
    "zero byte": b"X: a\x00b\r\n\r\n",
    "two hosts": b"Host: other\r\n\r\n",
}
"""How long a body is, said in a way that a proxy before the service may read otherwise (request smuggling)."""

PARTS = [b"GET / HT", b"TP/1.1\r\nHo", b"st: service\r\nX-A: ", b"1\r\n\r", b"\n"]


class Late:
    """Tells /late to answer, from another thread."""

    def __init__(self):
        self.waiting, self.told = threading.Event(), threading.Event()

    async def wait(self):
        self.waiting.set()
        while not self.told.is_set():
            await asyncio.sleep(0.005)

    def forget(self):
        self.waiting.clear()
        self.told.clear()


LATE, DISCONNECTED = Late(), []


async def echo(scope, receive, send):
    """Answers with the number of bytes of the body; /early answers before it is read, /half too, /large at
    length, /late when told."""
    body, more = 0, scope["path"] != "/early"
    if scope["path"] == "/late":
        await LATE.wait()
    if scope["path"] == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await LATE.wait()
        await send({"type": "http.response.body", "body": b"half"})
        return
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            DISCONNECTED.append(scope["path"])
            break
        body, more = body + len(message.get("body", b"")), message.get("more_body", False)
    text = b"x" * 3_000_000 if scope["path"] == "/large" else b"%d" % body
    headers = [(b"content-length", b"%d" % len(text)), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


class Guarded:
    """A server in a thread. ``closed``: the reasons of closed connections."""

    def __init__(self, **limits):
        self.closed, self.limits = [], Limits(**limits)
        self.open = Connections(self.limits.connections, self.limits.per_address, self.closed.append)
        config = uvicorn.Config(
            echo, port=0, http=protocol_with_limits(self.limits, self.open), lifespan="off", log_level="error",
            server_header=False, headers=list(SECURITY_HEADERS), timeout_keep_alive=60,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def wait_until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (self.closed, len(self.open))
            time.sleep(0.005)


@pytest.fixture(autouse=True)
def closed():
    yield
    Talk.close_all()


@pytest.fixture(scope="module")
def quick():
    """Half a second for a head, and between requests."""
    with Guarded(header_s=0.5, keep_alive_s=0.5, header_bytes=2048, body_s=0.5) as quick:
        yield quick


def test_a_silent_connection_is_closed_without_an_answer(quick):
    begin = time.monotonic()
    assert Talk(quick.url).rest() == ""
    assert time.monotonic() - begin >= 0.45


@pytest.mark.parametrize("half", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: service\r\nX-Slow: "])
def test_a_half_sent_head_is_answered_and_closed(quick, half):
    answer = Talk(quick.url, half).rest()
    assert answer.startswith("HTTP/1.1 408 ") and "expected the whole request within 0.5 seconds" in answer


def test_bytes_that_arrive_one_by_one_win_no_time(quick):
    talk, begin = Talk(quick.url, GET[:-2] + b"X-Slow: "), time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() < begin + 20:
            talk.socket.sendall(b"x")
            talk.socket.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                if not talk.socket.recv(4096):
                    break
    assert time.monotonic() - begin < 15
    talk.socket.close()


def test_an_idle_connection_is_closed_after_its_answer(quick):
    talk = Talk(quick.url, GET)
    assert talk.answer()[0] == 200
    assert talk.rest() == ""
    assert "idle" in quick.closed


def test_empty_lines_do_not_keep_a_connection_open(quick):
    talk = Talk(quick.url, GET)
    assert talk.answer()[0] == 200
    with contextlib.suppress(OSError):
        for _ in range(1000):
            talk.socket.sendall(b"\r\n")
            time.sleep(0.02)
        pytest.fail("it was not closed")


def test_the_rest_of_an_answered_body_has_to_arrive_in_time(quick):
    talk = Talk(quick.url, b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc")
    assert talk.answer()[0] == 200
    with contextlib.suppress(OSError):
        for _ in range(1000):
            talk.socket.sendall(b"x")
            time.sleep(0.02)
        pytest.fail("it was not closed")
    assert "header_time" in quick.closed


def test_a_client_that_does_not_read_its_answers_is_closed(quick):
    talk = Talk(quick.url, b"GET /large HTTP/1.1\r\nHost: service\r\n\r\n" * 4)
    quick.wait_until(lambda: len(quick.open) == 1)
    quick.wait_until(lambda: len(quick.open) == 0)
    assert len(talk.rest()) < 12_000_000


@pytest.mark.parametrize("size", [2049, 10_000, 5_000_000])
@pytest.mark.parametrize("block", [1000, 10**7])
def test_a_large_head_is_refused(quick, size, block):
    head = GET[:-2] + b"X-Long: "
    head += b"x" * (size - len(head) - 4) + b"\r\n\r\n"
    talk = Talk(quick.url)
    with contextlib.suppress(OSError):  # thrown away from the limit on, then closed
        for start in range(0, len(head), block):
            talk.socket.sendall(head[start : start + block])
    assert talk.rest().startswith("HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [2048, 1000])
def test_a_head_up_to_the_limit_is_taken(quick, size):
    head = GET[:-2] + b"X-Long: "
    talk = Talk(quick.url, head + b"x" * (size - len(head) - 4) + b"\r\n\r\n")
    assert talk.answer()[0] == 200
    talk.socket.close()


@pytest.mark.parametrize(
    "text", [b"GET /" + b"a" * 3000, b"a" * 3000, b"\r\n" * 2000], ids=["path", "method", "empty lines"]
)
def test_what_is_no_head_is_bounded_too(quick, text):
    assert Talk(quick.url, text).rest().startswith(("HTTP/1.1 431 ", "HTTP/1.1 400 "))


@pytest.mark.parametrize("end", [b"0\r\nX-Trailer: " + b"x" * 5000, b"5;" + b"x" * 5000], ids=["trailer", "extension"])
def test_trailers_and_extensions_of_chunks_are_bounded(quick, end):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    assert Talk(quick.url, head + end).rest().startswith("HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 300_000])
def test_bodies_are_taken_whole(quick, size):
    body = bytes(size)
    plain = Talk(quick.url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + body)
    assert plain.answer()[2] == b"%d" % size
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, min(size, 9000), 7))
    plain.socket.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert plain.answer()[2] == b"%d" % min(size, len(body[: -(-min(size, 9000) // 7) * 7]))
    plain.socket.close()


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_no_second_request_is_smuggled_in_a_body(quick, framing):
    """It is refused and closed: the request that follows is not answered."""
    answer = Talk(quick.url, b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + GET).rest()
    assert answer.startswith("HTTP/1.1 400 ") and answer.count("HTTP/1.1") == 1


def test_a_head_may_arrive_in_parts_and_connections_are_reused(quick):
    talk = Talk(quick.url)
    for _ in range(3):
        for part in PARTS:
            talk.socket.sendall(part)
        assert talk.answer()[0] == 200
    talk.socket.close()


def test_requests_in_advance_are_answered_in_order_up_to_a_number(quick):
    posts = [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (n, bytes(n)) for n in range(8)]
    answers = Talk(quick.url, b"".join(posts)).rest().split("HTTP/1.1 200 OK")
    assert [answer.rpartition("\r\n\r\n")[2] for answer in answers] == ["", *map(str, range(8))]
    assert "expected fewer than 16 requests" in Talk(quick.url, GET * 200).rest()


def test_every_answer_has_the_security_headers_and_no_server_header(quick):
    for text in (GET, b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 3000):
        talk = Talk(quick.url, text)
        _, headers, _ = talk.answer()
        talk.socket.close()
        assert "server" not in headers
        for name, value in SECURITY_HEADERS:
            assert headers[name] == value


def test_an_address_has_a_number_of_connections():
    with Guarded(per_address=3) as guarded:
        held = [Talk(guarded.url) for _ in range(3)]
        guarded.wait_until(lambda: len(guarded.open) == 3)
        status, headers, content = Talk(guarded.url, GET).answer()
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "3 connections from one address" in json.loads(content)["detail"]
        held.pop().socket.close()
        guarded.wait_until(lambda: len(guarded.open) == 2)
        talk = Talk(guarded.url, GET)
        assert talk.answer()[0] == 200
        for one in [*held, talk]:
            one.socket.close()


def test_silent_connections_make_room_for_new_ones_and_clients_keep_theirs():
    with Guarded(connections=4) as guarded:
        client = Talk(guarded.url, GET)
        assert client.answer()[0] == 200
        silent = [Talk(guarded.url) for _ in range(3)]
        guarded.wait_until(lambda: len(guarded.open) == 4)
        new = Talk(guarded.url, GET)
        assert new.answer()[0] == 200
        assert silent[0].rest() == ""
        client.socket.sendall(GET)
        assert client.answer()[0] == 200
        assert guarded.closed == ["displaced"]
        for one in [client, new, *silent[1:]]:
            one.socket.close()


def test_a_connection_that_is_being_answered_is_not_displaced():
    with Guarded(connections=2) as guarded:
        begun = [Talk(guarded.url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab") for _ in range(2)]
        guarded.wait_until(lambda: not guarded.open._strangers and len(guarded.open) == 2)
        status, _, content = Talk(guarded.url, GET).answer()
        assert status == 503 and "2 connections are open" in json.loads(content)["detail"]
        for talk in begun:
            talk.socket.sendall(b"cde")
            assert talk.answer()[2] == b"5"
            talk.socket.close()
        assert guarded.closed == ["connections"]


@pytest.fixture
def uvicorn_log():
    """What Uvicorn logs as an error: an exception of the protocol or the application."""
    records, logger = [], logging.getLogger("uvicorn.error")
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    LATE.forget()
    DISCONNECTED.clear()
    yield records
    LATE.told.set()
    logger.removeHandler(handler)


NONSENSE = [b"x", b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 9000, b"GET / HTTP/9.9\r\n\r\n"]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=["letter", "zero", "long head", "version"])
@pytest.mark.parametrize("before", [b"", GET, GET + GET])
def test_nonsense_after_a_whole_request_is_refused_when_that_is_answered(quick, uvicorn_log, nonsense, before):
    """A refusal that is written first ends the stream: the answer cannot follow."""
    head = b"POST /late HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    talk = Talk(quick.url, before + head + nonsense + b"\r\n\r\n")
    assert LATE.waiting.wait(20)
    LATE.told.set()
    answers = talk.rest().split("HTTP/1.1 ")[1:]
    count = 1 + len(before) // len(GET)
    assert [answer[:3] for answer in answers[:count]] == ["200"] * count
    assert [answer[:3] for answer in answers[count:]] in (["400"], ["431"])
    assert not uvicorn_log and not DISCONNECTED


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
@pytest.mark.parametrize("before", [b"", GET])
def test_a_request_with_a_broken_body_is_refused_and_the_application_told(quick, uvicorn_log, expect, before):
    head = b"POST / HTTP/1.1\r\nHost: x\r\n" + expect + b"Transfer-Encoding: chunked\r\n\r\n"
    talk = Talk(quick.url, before + head + b"3\r\nabc\r\nnonsense\r\n\r\n")
    statuses = [answer[:3] for answer in talk.rest().split("HTTP/1.1 ")[1:]]
    assert statuses == ["200"] * bool(before) + ["400"]
    quick.wait_until(lambda: not quick.open)
    assert not uvicorn_log and DISCONNECTED in ([], ["/"])  # not at all where another request stood before it


def test_no_second_head_stands_within_an_answer(quick, uvicorn_log):
    """The rest of a body is broken while its answer, which came early, is half written."""
    talk = Talk(quick.url, b"POST /half HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    received = b""
    while not received.endswith(b"half"):
        received += talk.socket.recv(1000)
    talk.socket.sendall(b"nonsense\r\n\r\n")
    assert talk.rest() == ""
    LATE.told.set()
    quick.wait_until(lambda: not quick.open)
    assert not uvicorn_log
