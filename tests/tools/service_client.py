"""Requests to a running service, whole, half and wrong ones, over real sockets."""

import contextlib
import http.client
import io
import json
import socket
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

JPEG = {"Content-Type": "image/jpeg"}


def photo(seed=0, size=(70, 50), form="JPEG", mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format=form)
    return file.getvalue()


def ask(url, path, body=None, headers=JPEG, method=None):
    """Status, headers and content of one request over a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.connect()  # a refused or reset connection is the caller's to handle
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered before the whole body was sent
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        response = connection.getresponse()
        content = response.read()
        kind = response.headers.get_content_type()
        return (
            response.status,
            response.headers,
            json.loads(content) if kind == "application/json" else content.decode(),
        )
    finally:
        connection.close()


def blank(width, height):
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, format="PNG")
    return file.getvalue()


class Begun:
    """A request whose body has begun to arrive, so that it holds a slot."""

    def __init__(self, running, body):
        self.body, where = body, urlsplit(running.url)
        self.socket = socket.create_connection((where.hostname, where.port), timeout=20)
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body[:10])

    def finish(self):
        self.socket.sendall(self.body[10:])
        return self.status()

    def status(self):
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        response.read()
        self.socket.close()
        return response.status


class Talk:
    """A connection that sends what it is told to; ``close_all`` closes those that a test leaves open."""

    opened: ClassVar = []

    def __init__(self, url, text=b""):
        where = urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port), timeout=20)
        self.opened.append(self.socket)
        self.socket.sendall(text)

    @classmethod
    def close_all(cls):
        while cls.opened:
            cls.opened.pop().close()

    def rest(self):
        """All that the service sends until it closes."""
        received = b""
        with contextlib.closing(self.socket), contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(65536):
                received += part
        return received.decode()

    def answer(self):
        """Status, headers and content of the next answer; the connection stays open."""
        with contextlib.closing(http.client.HTTPResponse(self.socket)) as response:
            response.begin()
            return response.status, response.headers, response.read()


GET = b"GET /health/live HTTP/1.1\r\nHost: service\r\n\r\n"
