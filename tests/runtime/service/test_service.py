"""`tokfilter serve` as a process on the loopback interface: answers, limits, and shutdown under load."""

import ast
import asyncio
import html
import io
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from service_client import JPEG, Begun, Talk, ask, blank, photo

from tokfilter.artifacts.budget import keep_from_text
from tokfilter.benchmarks.service.process import serving
from tokfilter.errors import EngineError
from tokfilter.runtime.predict import predict
from tokfilter.runtime.service.app import Service
from tokfilter.runtime.service.engine import engine_from_directory
from tokfilter.runtime.service.limits import Limits
from tokfilter.runtime.sessions import SessionOptions

pytest.importorskip("fastapi", reason="needs the extra service: pip install 'tokfilter[service]'")


@pytest.fixture(scope="module")
def running(export_directory):
    with serving(export_directory, "--threads", 1, "--megapixels", 0.5, "--body-mb", 1) as running:
        yield running
        assert running.stop() == 0


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
    with serving(export_directory, "--threads", 1, "--queue", 3, "--grace-s", 600) as running:
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


def test_bodies_that_hardly_arrive_do_not_take_the_places_of_others(export_directory):
    with serving(export_directory, "--threads", 1, "--queue", 3, "--grace-s", 0, "--body-s", 600) as running:
        slow = [Begun(running, photo(seed)) for seed in range(3)]
        while ask(running.url, "/health/ready")[0] == 200:
            time.sleep(0.01)
        assert [ask(running.url, "/classify", photo(seed))[0] for seed in range(2)] == [200, 200]
        assert slow[0].status() == 408
        assert [one.finish() for one in slow[1:]] == [200, 200]
        assert running.stop() == 0


def test_a_body_that_does_not_arrive_times_out(export_directory):
    with serving(export_directory, "--threads", 1, "--queue", 1, "--body-s", 0.3) as running:
        assert Begun(running, photo()).status() == 408
        assert ask(running.url, "/classify", photo())[0] == 200


def test_sigterm_under_load_completes_every_accepted_request(export_directory):
    with serving(export_directory, "--threads", 1, "--queue", 8, "--grace-s", 600) as running:
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


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux only")
def test_memory_is_bounded_by_the_limits(running):
    """Of the model, and of all requests: the options of this service are smaller than the defaults."""
    limits = Path(f"/proc/{running.process.pid}/limits").read_text().splitlines()
    soft = next(line.split()[3] for line in limits if line.startswith("Max data size"))
    asked = Limits(body_bytes=1_000_000, pixels=500_000).memory_bytes
    assert asked < int(soft) < asked + (9 << 30)


@pytest.mark.parametrize("place", ["image_from_body", "input_from_image", "outputs"])
def test_without_memory_a_request_gets_503(export_directory, monkeypatch, place):
    """Where Pillow or the engine gets none: the image is not called damaged, and the service goes on."""

    def none(*_, **__):
        raise MemoryError

    async def none_later(*_):
        raise MemoryError

    with engine_from_directory(export_directory, SessionOptions()) as engine:
        if place == "image_from_body":
            monkeypatch.setattr("PIL.Image.open", none)
        elif place == "input_from_image":
            monkeypatch.setattr("tokfilter.runtime.service.body.rgb_from_image", none)
        else:
            monkeypatch.setattr(engine, "outputs", none_later)
        start, body = asyncio.run(_asked(Service(engine, Limits()), photo(0)))
    assert start["status"] == 503 and (b"retry-after", b"1") in start["headers"]
    assert "no memory left" in json.loads(body["body"])["detail"]


def test_an_output_that_is_not_finite_is_an_error_of_its_request(export_directory, monkeypatch):
    async def infinite(images, tokens):
        return [np.array([0.5, np.nan])] * len(images)

    with engine_from_directory(export_directory, SessionOptions()) as engine:
        monkeypatch.setattr(engine, "outputs", infinite)
        start, body = asyncio.run(_asked(Service(engine, Limits()), photo(0)))
    assert start["status"] == 500 and "output holds NaN or infinity" in json.loads(body["body"])["detail"]


async def _asked(service, content):
    """The messages of the answer, without a server."""
    sent, parts = [], [{"type": "http.request", "body": content}]

    async def receive():
        return parts.pop()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/classify", "headers": [], "query_string": b""}
    async with service._life(None):
        await service.app(scope, receive, send)
    return sent


@pytest.fixture(scope="module")
def guarded(export_directory, tmp_path_factory):
    """A service with a token and small limits."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("0123456789abcdef\n", encoding="ascii")
    options = ("--token-file", token, "--header-s", 0.5, "--keep-alive-s", 0.5, "--header-kb", 1, "--per-address", 4)
    with serving(export_directory, "--threads", 1, *options, open_files=420) as guarded:
        yield guarded
        assert guarded.stop() == 0
        assert "0123456789abcdef" not in guarded.log_text()


TOKEN = {"Authorization": "Bearer 0123456789abcdef"}


def test_the_options_reach_the_service(guarded):
    assert ask(guarded.url, "/classify", photo())[0] == 401
    status, headers, _ = ask(guarded.url, "/classify", photo(), JPEG | TOKEN)
    assert status == 200 and "server" not in headers and headers["X-Content-Type-Options"] == "nosniff"
    assert ask(guarded.url, "/health/ready")[0] == 200
    assert ask(guarded.url, "/health/live", headers={"X": "x" * 1024})[0] == 431
    assert Talk(guarded.url).rest() == ""
    assert Talk(guarded.url, b"GET / HTTP/1.1\r\n").rest().startswith("HTTP/1.1 408 ")
    talks = [Talk(guarded.url) for _ in range(5)]
    assert talks[4].answer()[0] == 503
    assert [talk.rest() for talk in talks[:4]] == [""] * 4
    text = ask(guarded.url, "/metrics", headers=TOKEN)[2]
    for reason in ("header_time", "header_size", "per_address"):
        assert f'tokfilter_closed_connections_total{{reason="{reason}"}}' in text
    assert "\ntokfilter_connections 1.0" in text
    Talk.close_all()


def test_a_low_limit_of_open_files_is_said_and_kept(guarded):
    said = [line for line in guarded.log_text().splitlines() if "open files" in line]
    assert len(said) == 1 and "leaves room for" in said[0] and "not 4096: raise it (ulimit -n)" in said[0]
    text = ask(guarded.url, "/metrics", headers=TOKEN)[2]
    assert "\nprocess_max_fds 420.0" in text


def test_too_few_open_files_for_any_connection_are_an_error(export_directory):
    with (
        pytest.raises(EngineError, match="leaves no room for connections: raise it"),
        serving(export_directory, "--threads", 1, open_files=100),
    ):
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
def test_the_curl_commands_of_the_page_work(running, tmp_path):
    status, headers, text = ask(running.url, "/docs")
    assert status == 200 and headers.get_content_type() == "text/html" and "<script" not in text
    (tmp_path / "photo.jpg").write_bytes(photo())
    commands = [html.unescape(line) for line in re.findall(r"curl [^<\n]*", text)]
    assert len(commands) == 5
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", f"{command} -sS -f"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and done.stdout, (command, done.stderr)
    untyped = subprocess.run(
        ["curl", "-sS", "--data-binary", "@photo.jpg", f"{running.url}/classify"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "add -H 'Content-Type: image/jpeg'" in json.loads(untyped.stdout)["detail"]


def test_the_page_shows_a_hostile_host_as_text(running):
    talk = Talk(running.url, b"GET /docs HTTP/1.1\r\nHost: <script>alert(1)</script>\r\n\r\n")
    _, _, content = talk.answer()
    assert b"<script" not in content
    Talk.close_all()


def test_the_schema_of_the_routes_names_the_image(running):
    schema = ask(running.url, "/openapi.json")[2]
    assert set(schema["paths"]["/classify"]["post"]["requestBody"]["content"]) == {"image/jpeg", "image/png"}


def test_large_images_wait_apart_and_small_ones_pass(export_directory):
    large = blank(4800, 4800)
    with serving(export_directory, "--threads", 1) as running, ThreadPoolExecutor(24) as pool:
        png = {"Content-Type": "image/png"}
        flood = [pool.submit(ask, running.url, "/classify", large, png) for _ in range(20)]
        assert ask(running.url, "/classify", photo())[0] == 200
        found = [one.result() for one in flood]
    assert {status for status, _, _ in found} <= {200, 503} and found[0][0] in (200, 503)
    assert sum(status == 200 for status, _, _ in found) >= 8
    for status, headers, answer in found:
        assert status == 200 or (headers["Retry-After"] == "1" and "large images" in answer["detail"])


def test_a_reduced_jpeg_gives_almost_the_answer_of_predict(running, export_directory, tmp_path):
    """predict decodes JPEG files in full, the service at a reduced size where they are much larger than the input."""
    path = tmp_path / "large.jpg"
    Image.open(io.BytesIO(photo(3, (24, 16)))).resize((720, 480), Image.Resampling.BICUBIC).save(path, quality=92)
    answer = ask(running.url, "/classify?top=5", path.read_bytes())[2]
    expected = predict(export_directory, path)
    assert answer["class"] == expected.top(1)[0].name
    scores = {guess.index: guess.probability for guess in expected.top(1000)}
    differences = [abs(guess["score"] - scores[guess["index"]]) for guess in answer["top"]]
    assert 0 < max(differences) < 0.01


def test_needs_no_torch():
    program = "import sys; sys.modules['torch'] = None; import tokfilter.runtime.service.server"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
