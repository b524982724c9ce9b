"""`tokfilter serve` as a process on the loopback interface: answers, limits, and shutdown under load."""

import ast
import contextlib
import http.client
import io
import json
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlsplit

import jsonschema
import numpy as np
import pytest
from paths import ROOT, SCHEMAS
from PIL import Image

from tokfilter.artifacts.budget import keep_from_text
from tokfilter.benchmarks.service.load import document_from_load
from tokfilter.benchmarks.service.process import serving
from tokfilter.errors import EngineError
from tokfilter.runtime.predict import predict
from tokfilter.runtime.service.engine import engine_from_directory
from tokfilter.runtime.sessions import SessionOptions

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


@pytest.fixture(scope="module")
def running(export_directory):
    with serving(export_directory, "--threads", 1, "--megapixels", 0.5, "--body-mb", 1) as running:
        yield running
        assert running.stop() == 0


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


@pytest.mark.parametrize("keep", [None, "0.5", "25%25", "1.0", "1t", "7", "16"])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_answers_equal_those_of_the_session(running, export_directory, tmp_path, keep, form):
    path = tmp_path / "photo"
    path.write_bytes(photo(3, form=form))
    query = "?top=5" if keep is None else f"?top=5&keep={keep}"
    status, _, answer = ask(running.url, f"/classify{query}", path.read_bytes())
    expected = predict(export_directory, path, None if keep is None else keep_from_text(unquote(keep)))
    assert status == 200
    assert answer["tokens"] == expected.tokens
    assert [(g["class"], g["index"]) for g in answer["top"]] == [(g.name, g.index) for g in expected.top(5)]
    np.testing.assert_allclose([g["score"] for g in answer["top"]], [g.probability for g in expected.top(5)], atol=1e-5)
    assert answer["class"] == answer["top"][0]["class"]


@pytest.mark.parametrize(
    ("mode", "form", "size"), [("L", "PNG", (1, 1)), ("RGBA", "PNG", (9, 400)), ("CMYK", "JPEG", (40, 30))]
)
def test_unusual_images_are_classified(running, mode, form, size):
    assert ask(running.url, "/classify", photo(0, size, form, mode))[0] == 200


def test_concurrent_requests_get_the_same_answers_as_single_ones(running):
    requests = [(f"/classify?keep={keep}&top=5", photo(seed)) for seed in range(12) for keep in ("0.25", "0.5", "1.0")]
    alone = [ask(running.url, *request)[2] for request in requests]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda request: ask(running.url, *request), requests))
    for one, (status, _, answer) in zip(alone, together, strict=True):
        assert status == 200
        assert [g["index"] for g in answer["top"]] == [g["index"] for g in one["top"]]
        np.testing.assert_allclose([g["score"] for g in answer["top"]], [g["score"] for g in one["top"]], atol=1e-5)
    text = ask(running.url, "/metrics")[2]
    assert float(text.split("tokfilter_batch_images_sum ")[1].split()[0]) > float(
        text.split("tokfilter_batch_images_count ")[1].split()[0]
    )


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/classify", b"", JPEG, 400, "expected an image as the body"),
        ("/classify", photo()[:1500], JPEG, 400, "damaged or cut short"),
        ("/classify", photo(form="PNG")[:20], JPEG, 400, "damaged or cut short"),
        ("/classify", b"hello", JPEG, 415, "expected a JPEG or PNG file"),
        ("/classify", photo(form="GIF"), JPEG, 415, "expected a JPEG or PNG file"),
        ("/classify", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "got application/x-www-form"),
        ("/classify", photo(), {"Content-Type": "multipart/form-data; boundary=x"}, 415, "got multipart/form-data"),
        ("/classify", photo(size=(1000, 600)), JPEG, 413, "expected at most 0.5 million pixels"),
        ("/classify", blank(1, 400_000), JPEG, 422, "too elongated"),
        ("/classify", bytes(1_000_001), JPEG, 413, "expected at most 1 MB"),
        ("/classify", iter([bytes(400_000)] * 4), JPEG, 413, "expected at most 1 MB"),
        ("/classify?keep=17", photo(), JPEG, 422, "between 1 and this model's 16"),
        ("/classify?keep=0", photo(), JPEG, 422, "keep must be"),
        ("/classify?keep=nan", photo(), JPEG, 422, "keep must be"),
        ("/classify?keep=half", photo(), JPEG, 422, "keep must be"),
        ("/classify?keep=True", photo(), JPEG, 422, "keep must be"),
        ("/classify?keep=1.5", photo(), JPEG, 422, "keep must be"),
        ("/classify?keep=-1", photo(), JPEG, 422, "keep must be"),
        ("/classify?keep=1", photo(), JPEG, 422, "1.0 or 100% to keep every token, or 1t"),
        ("/classify?top=0", photo(), JPEG, 422, "top: "),
        ("/nowhere", photo(), JPEG, 404, "Not Found"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_status_and_a_message(running, path, body, headers, status, words):
    found, _, answer = ask(running.url, path, body, headers)
    assert (found, words in answer["detail"]) == (status, True), answer
    assert ask(running.url, "/classify", photo())[0] == 200


def test_a_decompression_bomb_is_not_decoded(running):
    assert ask(running.url, "/classify", blank(12_000, 12_000))[0] == 413


def test_a_client_that_disconnects_affects_no_other(running):
    for _ in range(5):
        Begun(running, photo()).socket.close()
    assert ask(running.url, "/classify", photo())[0] == 200
    assert "Traceback" not in running.log_text()


def test_health_and_metrics(running):
    assert ask(running.url, "/health/live")[::2] == (200, {"status": "live"})
    assert ask(running.url, "/health/ready")[::2] == (200, {"status": "ready"})
    text = ask(running.url, "/metrics")[2]
    for name in ("requests_total{", "refused_total", "request_seconds_bucket", "batch_images_bucket", "queue_depth"):
        assert f"\ntokfilter_{name}" in text, name
    assert "\nprocess_resident_memory_bytes" in text


def test_overload_gets_503_and_requests_in_flight_complete(export_directory):
    with serving(export_directory, "--threads", 1, "--queue", 3) as running:
        begun = [Begun(running, photo(seed)) for seed in range(3)]
        while ask(running.url, "/health/ready")[0] == 200:
            time.sleep(0.01)
        status, headers, answer = ask(running.url, "/classify", photo())
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "3 requests are in flight" in answer["detail"]
        assert ask(running.url, "/health/live")[0] == 200
        assert [request.finish() for request in begun] == [200] * 3
        assert ask(running.url, "/health/ready")[0] == 200
        with ThreadPoolExecutor(24) as pool:
            flood = list(pool.map(lambda seed: ask(running.url, "/classify", photo(seed))[0], range(200)))
        assert set(flood) == {200, 503}
        text = ask(running.url, "/metrics")[2]
        assert f"\ntokfilter_refused_total {flood.count(503) + 1}.0" in text
        assert f'\ntokfilter_requests_total{{status="200"}} {flood.count(200) + 3}.0' in text
        assert running.stop() == 0


def test_a_body_that_does_not_arrive_times_out(export_directory):
    with serving(export_directory, "--threads", 1, "--queue", 1, "--body-s", 0.3) as running:
        assert Begun(running, photo()).status() == 408
        assert ask(running.url, "/classify", photo())[0] == 200


def test_sigterm_under_load_completes_every_accepted_request(export_directory):
    with serving(export_directory, "--threads", 1, "--queue", 8) as running:
        slow = Begun(running, photo())
        statuses = []

        def client(number):
            while True:
                try:
                    statuses.append(ask(running.url, "/classify", photo(number))[0])
                except OSError:  # the server no longer listens, or never accepted the connection
                    return

        with ThreadPoolExecutor(12) as pool:
            clients = [pool.submit(client, number) for number in range(12)]
            while statuses.count(200) <= 12:
                time.sleep(0.01)
            running.process.terminate()
            time.sleep(0.3)
            assert slow.finish() == 200
            for one in clients:
                one.result()
        assert running.process.wait(20) == 0
        served = ast.literal_eval(running.log_text().rpartition("stopped: ")[2])
    assert set(statuses) <= {200, 503}
    assert served["200"] == statuses.count(200) + 1 > 12


def test_sigterm_when_idle_exits_with_status_0(export_directory):
    with serving(export_directory, "--threads", 1) as running:
        assert running.stop() == 0
        assert "stopped: no requests" in running.log_text()


def test_startup_errors_are_one_message(export_directory, tmp_path, running):
    copied = tmp_path / "out"
    shutil.copytree(export_directory, copied)
    with (copied / "model.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2\3")
    for directory, options, words in (
        (copied, SessionOptions(), "its bytes have changed"),
        (export_directory, SessionOptions("tensorrt"), "has no filtered tensorrt model"),
        (export_directory, SessionOptions(precision="fp16"), "has no filtered onnx model in fp16"),
    ):
        with pytest.raises(EngineError, match=words):
            engine_from_directory(directory, options)
    with pytest.raises(EngineError, match=r"did not start: Error: .*export directory's manifest"), serving(tmp_path):
        pass
    port = str(urlsplit(running.url).port)
    command = [sys.executable, "-m", "tokfilter.cli", "serve", str(export_directory), "--port", port]
    taken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert taken.returncode != 0
    assert "address already in use" in taken.stderr and "Traceback" not in taken.stderr


def test_needs_no_torch():
    program = "import sys; sys.modules['torch'] = None; import tokfilter.runtime.service.server"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_short_load_is_a_document_of_its_schema(export_directory):
    document = document_from_load(export_directory, 4, queue=8, clients=16)
    schema = json.loads((SCHEMAS / "service.json").read_text())
    head = {name: schema["properties"][name].get("const", {}) for name in ("schema", "version", "machine", "versions")}
    jsonschema.validate(document | head | {"created": "", "command": ""}, schema)
    assert document["goals"]["no error"]["reached"], document["phases"]
    assert document["goals"]["overload is refused"]["reached"]
    assert all(phase["answered"] > 0 for phase in document["phases"])
