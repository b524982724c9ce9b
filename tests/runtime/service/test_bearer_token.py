"""The bearer token: files, requests with and without it."""

import asyncio

import pytest

from tokfilter.errors import DataError
from tokfilter.runtime.service.bearer_token import BearerToken, token_from_file
from tokfilter.runtime.service.metrics import Metrics

TOKEN = b"0123456789abcdef"


def status(path, *headers):
    """Of a request to an application that answers 200."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(b"authorization", header) for header in headers]}
    asyncio.run(BearerToken(app, TOKEN, Metrics())(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize("header", [b"Bearer " + TOKEN, b"bearer " + TOKEN, b"BEARER  " + TOKEN])
def test_the_token_is_taken(header):
    assert status("/classify", header) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer " + TOKEN[:-1]],
        [b"Bearer " + TOKEN + b"0"],
        [b"Basic " + TOKEN],
        [TOKEN],
        [b"Bearer \xff\xfe"],
        [b"Bearer " + TOKEN, b"Bearer " + TOKEN],
    ],
)
@pytest.mark.parametrize("path", ["/classify", "/metrics", "/docs", "/openapi.json", "/nowhere", "/health/live/"])
def test_anything_else_is_401(path, headers):
    assert status(path, *headers) == 401


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_checks_need_none(path):
    assert status(path) == 200


@pytest.mark.parametrize("content", [TOKEN, TOKEN + b"\n", b"  " + TOKEN + b"\r\n"])
def test_white_space_around_the_token_is_ignored(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    assert token_from_file(tmp_path / "token") == TOKEN


@pytest.mark.parametrize("content", [b"", b"\n", b"short", TOKEN + b" x" + TOKEN, b"\xc3\xa9" * 20, b"x" * 5000])
def test_other_files_are_refused_without_showing_them(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(DataError, match="must hold a token of 16 to 4096 ASCII characters") as caught:
        token_from_file(tmp_path / "token")
    assert "short" not in str(caught.value).replace("token", "")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="there is none at"):
        token_from_file(tmp_path / "token")
