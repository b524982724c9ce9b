"""runtime/cpp/examples over fake TensorRT: classify, and serve under load, overload and SIGTERM."""

import json
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokfilter.runtime.preprocess import preprocess_from_fields

Run = Callable[..., subprocess.CompletedProcess[str]]
Directory = Callable[..., Path]
Png = Callable[[int], bytes]


def test_classify_prints_class_probability_and_latency(
    fake: Path, run: Run, directory: Directory, png: Png, tmp_path: Path
) -> None:
    out, image = directory(), tmp_path / "white.png"
    image.write_bytes(png(255))
    result = run(fake / "cpp" / "examples" / "tokfilter_classify", out, image, "--tokens", "4", "--runs", "3")
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"class +4  eel\nprobability  1.0000\ntokens +4 of 12\nlatency +\d+\.\d+ ms, median of 3", result.stdout
    )


@pytest.mark.parametrize("embeds", [False, True])
def test_an_output_that_is_not_finite_is_an_error_and_no_class(
    fake: Path, run: Run, directory: Directory, png: Png, tmp_path: Path, embeds: bool
) -> None:
    image = tmp_path / "white.png"
    image.write_bytes(png(255))
    result = run(fake / "cpp" / "examples" / "tokfilter_classify", directory(embeds=embeds, factor=3e38), image)
    assert result.returncode == 1 and "the engine's output holds NaN or infinity" in result.stderr
    assert "class" not in result.stdout and "embedding" not in result.stdout


def test_an_embedding_has_the_bits_that_python_computes(
    fake: Path, run: Run, directory: Directory, tmp_path: Path
) -> None:
    """The fake model's numbers for the image: sum of Python's input, times 1 to 5, plus the tokens, all in fp32."""
    pixels = np.random.default_rng(4).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    fields = {"input_size": (3, 8, 6), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    values = preprocess_from_fields(fields)(Image.fromarray(pixels)).ravel()
    total = np.cumsum(values, dtype=np.float32)[-1]  # from the first to the last, as in C++
    expected = total * np.arange(1, 6, dtype=np.float32) + np.float32(4)
    programs, out = fake / "cpp" / "examples", directory(embeds=True)
    result = run(programs / "tokfilter_classify", out, tmp_path / "a.png", "--tokens", "4", "--runs", "1")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("embedding"))
    np.testing.assert_array_equal(np.array(line.split()[1:], np.float32), expected)
    assert "class" not in result.stdout and "tokens       4 of 12" in result.stdout
    refused = run(programs / "tokfilter_serve", out)
    assert refused.returncode == 1 and "gives an embedding: `tokfilter serve` has POST /embed" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "2 argument(s) expected, got 0"),
        (["{out}", "{image}", "--role", "half"], 2, "--role expects one of filtered, full, got half"),
        (["{out}", "{image}", "--tokens", "x"], 2, "--tokens expects a number from 1"),
        (["{out}", "{image}", "--tokens", "0"], 2, "--tokens expects a number from 1"),
        (["{out}", "{image}", "--tokens", "-1"], 2, "--tokens expects a number from 1"),
        (["{out}", "{image}", "--tokens", "0.5"], 2, "--tokens expects a number from 1"),
        (["{out}", "{image}", "--tokens", "50%"], 2, "--tokens expects a number from 1"),
        (["{out}", "{image}", "--speed", "9"], 2, "there is no option --speed"),
        (["{out}", "/nowhere.png"], 1, "no readable image at /nowhere.png"),
        (["/nowhere", "{image}"], 1, "there is none at /nowhere/manifest.json"),
        (["{out}", "{image}", "--tokens", "1"], 1, "has no filtered tensorrt model in fp32 at 1 tokens"),
        (["{out}", "{image}", "--device", "7"], 1, "GPUs 0 to 1 on this machine, got 7"),
    ],
)
def test_classify_refuses(
    fake: Path, run: Run, directory: Directory, png: Png, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    places = {"out": directory(), "image": tmp_path / "a.png"}
    result = run(fake / "cpp" / "examples" / "tokfilter_classify", *(a.format(**places) for a in arguments))
    assert result.returncode == code and words in result.stderr, result.stderr


@contextmanager
def server(fake: Path, out: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    program = [str(fake / "cpp" / "examples" / "tokfilter_serve"), str(out), "--port", "0", *options]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on "), process.communicate()
            yield line.split()[-1], process
        finally:
            process.kill()


def ask(url: str, body: bytes | None = None) -> tuple[int, dict[str, object]]:
    """Status and content; status 0 for a refused or closed connection."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except (urllib.error.URLError, ConnectionError):
        return 0, {}


def test_serve_answers_and_refuses(fake: Path, run: Run, directory: Directory, png: Png, tmp_path: Path) -> None:
    with server(fake, directory()) as (url, process):
        status, white = ask(f"{url}/classify", png(255))
        assert (status, white["class"], white["number"]) == (200, "eel", 4)
        assert ask(f"{url}/classify", png(0))[1]["class"] == "ant"
        assert ask(f"{url}/classify", b"noise") == (
            400,
            {"error": "expected a JPEG or PNG file, got other bytes."},
        )
        assert ask(f"{url}/classify", b"")[0] == 400
        assert ask(f"{url}/nothing")[0] == 404
        assert ask(f"{url}/classify", bytes((20 << 20) + 1))[0] in (413, 0)
        status, health = ask(f"{url}/health")
        assert status == 200 and (health["status"], health["served"], health["refused"]) == ("ok", 2, 0)
        process.send_signal(signal.SIGTERM)
        _, output = process.communicate(timeout=60)
    assert process.returncode == 0 and "served 2, refused 0" in output, output


def test_overload_gets_503_and_sigterm_answers_accepted_requests(
    fake: Path, run: Run, directory: Directory, png: Png, tmp_path: Path
) -> None:
    out = directory(milliseconds=40)
    answers: list[tuple[int, dict[str, object]]] = []
    stopped = threading.Event()

    def client(url: str) -> None:
        for _ in range(40):
            answers.append(ask(f"{url}/classify", png(255)))
            if stopped.is_set():
                return

    with server(fake, out, "--queue", "2") as (url, process), ThreadPoolExecutor(16) as pool:
        for _ in range(16):
            pool.submit(client, url)
        deadline = time.monotonic() + 60
        while sum(status == 200 for status, _ in answers) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ask(f"{url}/health")[0] == 200
        process.send_signal(signal.SIGTERM)
        stopped.set()
        _, output = process.communicate(timeout=60)
    assert process.returncode == 0 and "Sanitizer" not in output, output
    served = sum(status == 200 for status, _ in answers)
    refused = [content["error"] for status, content in answers if status == 503]
    assert served >= 20 and f"served {served}, " in output, (served, output)
    assert refused and all("overloaded" in str(error) for error in refused)
    assert {status for status, _ in answers} <= {200, 503, 0}


def test_serve_reports_startup_errors(fake: Path, run: Run, directory: Directory, png: Png, tmp_path: Path) -> None:
    out = directory()
    program = fake / "cpp" / "examples" / "tokfilter_serve"
    assert "no NVIDIA driver" in run(program, out, FAKE_GPU="no-driver").stderr
    assert "--queue expects a number from 1" in run(program, out, "--queue", "0").stderr
    with server(fake, out) as (url, _):
        taken = run(program, out, "--port", url.rsplit(":", 1)[1])
        assert taken.returncode == 1 and "cannot listen on 127.0.0.1 port" in taken.stderr
