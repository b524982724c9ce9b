import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from openvino_exports import NEEDED

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.cli import cli

NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")

QUICK = ("--threads", "1", "--duration", "0.05", "--warm-up", "0.01")


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


def test_bench_prints_a_table_and_writes_json(copied):
    done = run("bench", copied, "--batch", "1,2", "--keep", "1.0,0.5", *QUICK)
    assert done.exit_code == 0, done.output
    for word in (
        "median",
        "p99",
        "speed-up",
        "MAC",
        "ratio",
        "efficiency",
        "Batch 2:",
        "transfers none",
        "95% interval",
    ):
        assert word in done.stdout
    document = json.loads((copied / "bench.json").read_text())
    assert [row["tokens"] for row in document["rows"]] == [16, 8, 16, 8]


@pytest.mark.parametrize("batch", ["65537", "1,1e3", "9" * 5000, ""])
def test_batches_beyond_the_limits_are_refused(export_directory, batch):
    done = run("bench", export_directory, "--batch", batch)
    assert done.exit_code == 1 and "--batch requires" in done.output


def test_bench_prints_json(copied, tmp_path):
    done = run("bench", copied, "--batch", "1", "--keep", "8", "--json", "-o", tmp_path / "b.json", *QUICK)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "b.json").read_text())
    assert not (copied / "bench.json").exists()


def test_bench_writes_a_page(copied, tmp_path):
    page = tmp_path / "page.html"
    done = run("bench", copied, "--batch", "1", "--keep", "0.5", "--html", page, *QUICK)
    assert done.exit_code == 0, done.output
    assert (
        "<html" in page.read_text()
        and json.loads(page.with_suffix(".json").read_text())["schema"] == "tokfilter/report"
    )
    assert run("bench", copied, "--html", copied / "bench.html", *QUICK).exit_code == 2


@pytest.mark.slow
def test_bench_compares_with_what_users_run(copied, bundle_file, tmp_path):
    against = ("--against", "torch-eager, onnx-naive", "--bundle", bundle_file, "--html", tmp_path / "page.html")
    done = run("bench", copied, "--batch", "1,2", "--keep", "0.5", *against, *QUICK)
    assert done.exit_code == 0, done.output
    for word in ("torch-eager", "onnx-naive", "none: CPU", "best other", "its", "stage times none", "o cost model"):
        assert word in done.stdout, word
    page = (tmp_path / "page.html").read_text()
    assert "Other engines" in page and "best other engine" in page and "cost model" in page


def test_bench_runs_pytorch(copied, bundle_file):
    done = run("bench", copied, "--batch", "1", "--keep", "0.5", "--runtime", "torch", "--bundle", bundle_file, *QUICK)
    assert done.exit_code == 0, done.output
    document = json.loads((copied / "bench.json").read_text())
    assert document["settings"]["engine"] == "torch"
    assert [row["path"] for row in document["rows"]] == ["model.pt (full)", "model.pt (filtered)"]


def test_tune_runs_pytorch(copied, bundle_file):
    given = ("--runtime", "torch", "--bundle", bundle_file, "--threads", "1", "--duration", "0.02")
    done = run("tune", copied, "--latency-ms", "1000", "--model-batches", "", *given)
    assert done.exit_code == 0, done.output
    assert load_manifest(copied).choice["runtime"] == "torch"
    assert "one batch size was measured" in " ".join(done.stdout.split()) or "o cost model" in done.stdout


def test_bench_runs_scenarios(copied):
    done = run("bench", copied, "--keep", "0.5", "--scenario", "single-stream", "--scenario", "offline", *QUICK)
    assert done.exit_code == 0, done.output
    assert "SingleStream" in done.stdout and "ms at p90" in done.stdout and "built-in loop" in done.stdout
    assert len(json.loads((copied / "scenario.json").read_text())["rows"]) == 4


def test_bench_compares_engines_in_the_same_rounds(export_directory, tmp_path):
    pytest.importorskip("openvino", reason=NEEDED)
    arguments = ("--runtime", "onnx,openvino", "--batch", "1", "--keep", "0.5", "--no-model-cache", *QUICK)
    done = run("bench", export_directory, *arguments, "-o", tmp_path / "b.json")
    assert done.exit_code == 0, done.output
    assert "openvino fp32, in the same rounds" in done.stdout and "first engine" in done.stdout
    (engine,) = json.loads((tmp_path / "b.json").read_text())["engines"]
    assert [(row["tokens"], row["over_first"]["value"] > 0) for row in engine["rows"]] == [(16, True), (8, True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtime", "onnx,opencv"), "'opencv' is not one of"),
        (("--runtime", "onnx,onnx"), "each engine is measured once, got onnx in fp32 twice"),
        (("--runtime", "onnx,openvino", "--scenario", "offline"), "--scenario runs one engine"),
        (("--runtime", "onnx,openvino", "--precision", "fp32,fp32,bf16"), "one for each of the 2 runtimes, got 3"),
        (("--batch", "1,x"), "--batch requires whole numbers"),
        (("--batch", "0"), "sizes from 1 to 65536"),
        (("--keep", "1.5"), "keep must be a ratio"),
        (("--keep", "17"), "between 1 and this model's 16"),
        (("--precision", "fp16"), "no full onnx model in fp16"),
        (("--runtime", "tensorrt"), "no full tensorrt model"),
        (("--runtime", "torch"), "Give it as --bundle"),
        (("--bundle", "model.pt"), "add --runtime torch"),
        (("--against", "torch-eager,pytorch"), "some of torch-eager, torch-compile, onnx-naive; got 'pytorch'"),
        pytest.param(("--against", "torch-eager"), "Give it as --bundle", marks=NEEDS_TORCH),
        (("--against", "torch-eager", "--scenario", "offline"), "leave --scenario out"),
        (("--duration", "0"), "positive, finite seconds"),
        (("--provider", "cuda", "--batch", "1"), "CUDAExecutionProvider"),
    ],
)
def test_bench_refuses_bad_input(export_directory, arguments, message):
    done = run("bench", export_directory, *arguments)
    assert done.exit_code != 0 and message in done.output and "Traceback" not in done.output


def test_bench_of_no_export(tmp_path):
    done = run("bench", tmp_path)
    assert done.exit_code == 1 and "manifest" in done.output


def test_tune_chooses_and_shows_the_curve(copied):
    done = run("tune", copied, "--latency-ms", "1000", "--threads", "1", "--duration", "0.02")
    assert done.exit_code == 0, done.output
    assert "15 <" in done.stdout and "goal at most 1000 ms is met" in " ".join(done.stdout.split())
    assert load_manifest(copied).choice["tokens"] == 15
    assert json.loads((copied / "tune.json").read_text())["choice"]["tokens"] == 15


def test_tune_by_labelled_images(copied, tmp_path):
    from PIL import Image

    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (200, 30, len(name))).save(tmp_path / "photos" / name / "a.png")
    goal = ("--max-drop", "100", "--images", tmp_path / "photos")
    done = run("tune", copied, *goal, "--threads", "1", "--duration", "0.02", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["settings"]["goal"] == "at most 100 points of top-1 lost"
    assert "the bundle that was exported is not beside the export" in done.stderr
    assert "all 2 images are used, and some may be training images" in done.stderr


@pytest.fixture(scope="module")
def trained_on_four(tmp_path_factory):
    """Six photos, model.pt that was trained on four of them, and its export."""
    from dataclasses import replace

    import numpy as np
    from PIL import Image
    from small_models import small_bundle, write_export

    from tokfilter.artifacts.split import Split, key_from_file, keys_from_iterable
    from tokfilter.vit.bundle import save_bundle

    folder = tmp_path_factory.mktemp("trained")
    photos, keys = folder / "photos", []
    for number in range(6):
        file = photos / ("ant" if number % 2 else "bee") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (200, 30, 20 * number)).save(file)
        with file.open("rb") as opened:
            keys.append(key_from_file(opened))
    split = Split(keys_from_iterable(keys[:4]), np.array([], np.int64))
    save_bundle(replace(small_bundle(), split=split), folder / "model.pt")
    write_export(folder / "model.pt", folder / "out")
    return folder


@NEEDS_TORCH
@pytest.mark.parametrize("given", [True, False])
def test_tune_leaves_out_the_images_that_the_bundle_was_trained_on(trained_on_four, tmp_path, given):
    shutil.copytree(trained_on_four, tmp_path, dirs_exist_ok=True)
    bundle, photos = tmp_path / "model.pt", tmp_path / "photos"
    if given:
        bundle = bundle.rename(tmp_path / "elsewhere.pt")
    where = ("--bundle", bundle) if given else ()
    goal = ("--max-drop", "100", "--images", photos, "--threads", "1", "--duration", "0.02", "--model-batches", "")
    done = run("tune", tmp_path / "out", *goal, *where)
    assert done.exit_code == 0, done.output
    assert "note: 2 of 6 images are used; the model was trained on the others" in done.stderr
    for number in (4, 5):
        (photos / ("ant" if number % 2 else "bee") / f"{number}.png").unlink()
    done = run("tune", tmp_path / "out", *goal, *where)
    assert done.exit_code == 1 and "the model was trained on all 4 images" in done.output


def test_another_bundle_is_refused(copied, tmp_path):
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "ant" / "a.png")
    (tmp_path / "other.pt").write_bytes(b"another")
    done = run("tune", copied, "--max-drop", "1", "--images", tmp_path / "photos", "--bundle", tmp_path / "other.pt")
    assert done.exit_code == 1 and "is not the bundle of this export" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "exactly one goal"),
        (("--latency-ms", "5", "--speedup", "2"), "exactly one goal"),
        (("--max-drop", "1"), "one of --accuracy and --images"),
        (("--latency-ms", "-5"), "requires a positive number"),
        (("--max-drop", "1", "--images", "nowhere"), "one subfolder per class"),
        (("--max-drop", "1", "--accuracy", "nowhere.json"), "nowhere.json"),
    ],
)
def test_tune_refuses_bad_input(export_directory, arguments, message):
    done = run("tune", export_directory, *arguments)
    assert done.exit_code != 0 and message in done.output and "Traceback" not in done.output


def test_sigterm_under_load_leaves_no_process_and_no_file(copied):
    command = [sys.executable, "-m", "tokfilter.cli", "bench", str(copied), "--batch", "1", "--duration", "60"]
    process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        children = _wait_for(lambda: _children(process.pid) if len(_children(process.pid)) >= 2 else None, 120)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        _wait_for(lambda: not any(_alive(child) for child in children) or None, 120)
    finally:
        process.kill()
        process.communicate()
    assert not (copied / "bench.json").exists()


def _stat(pid):
    """State and parent of a process."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "gone", 0
    return state, int(parent)


def _children(pid):
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _stat(p.name)[1] == pid]


def _alive(pid):
    return _stat(pid)[0] not in ("Z", "gone")


def _wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := condition()) is not None:
            return found
        time.sleep(0.1)
    pytest.fail(f"no change within {seconds} s")
