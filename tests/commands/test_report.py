"""tokfilter report, and the documents that it accepts."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from paths import DATA, RESULTS
from PIL import Image

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.cli import cli
from tokfilter.errors import DataError


def document(name, **changes):
    return {**json.loads((DATA / f"{name}.json").read_text()), **changes}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no JSON", "expected JSON"),
        ('{"schema": "\\ud800"}', "half of a surrogate pair"),
        ('{"schema": "tokfilter/bench", "version": NaN}', "NaN is not a number of JSON"),
        ([], "expected schema 'tokfilter/bench', got None"),
        ({"schema": "tokfilter/accuracy"}, "mixed up"),
        ({"schema": "tokfilter/bench", "version": 2}, "has version 2"),
        (document("bench", rows=[{"batch": "one"}]), r"does not match its schema at \$\.rows\[0\]"),
    ],
)
def test_invalid_documents_are_refused(tmp_path, content, words):
    with pytest.raises(DataError, match=words):
        document_from_file(write(tmp_path / "bench.json", content), "tokfilter/bench")


def test_a_document_of_wrong_rows_is_refused_after_a_hundred(tmp_path, monkeypatch):
    """A million of them would take minutes to compare with the schema."""
    seen = []
    monkeypatch.setattr("jsonschema.exceptions.best_match", lambda breaches: seen.extend(breaches) or seen[0])
    path = write(tmp_path / "bench.json", document("bench", rows=[0] * 1000))
    with pytest.raises(DataError, match=r"does not match its schema at \$\.rows"):
        document_from_file(path, "tokfilter/bench")
    assert len(seen) == 100


def test_a_document_of_more_values_than_any_measurement_has_is_refused(tmp_path):
    path = write(tmp_path / "bench.json", document("bench", rows=[0] * 200_000))
    with pytest.raises(DataError, match="more than 200,000 values"):
        document_from_file(path, "tokfilter/bench")


def test_eval_needs_no_package_of_the_report():
    """It names what it measured by this module, and documents are compared with schemas in `report` and `tune` only."""
    program = "import sys; sys.modules['jsonschema'] = None; import tokfilter.benchmarks.documents"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_former_keys_of_bench_are_read_under_their_present_names():
    path = RESULTS / "gpu-onnx-fp16.json"
    written, read = json.loads(path.read_text())["rows"], document_from_file(path, "tokfilter/bench")["rows"]
    for old, new in zip(written, read, strict=True):
        assert (new["mac_ratio"], new["efficiency"]) == (old["predicted_speedup"], old["reached"])
        assert {"predicted_speedup", "reached"}.isdisjoint(new) and len(new) == len(old)


@pytest.mark.parametrize("name", ["accuracy", "bench"])
def test_a_valid_document_is_read(name):
    assert document_from_file(DATA / f"{name}.json", f"tokfilter/{name}") == document(name)


def run(*arguments):
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


def test_command_writes_page_and_document(tmp_path, bundle_file):
    accuracy, bench = DATA / "accuracy.json", DATA / "bench.json"
    page = tmp_path / "page.html"
    result = run("--accuracy", accuracy, "--bench", bench, "--bundle", bundle_file, "--max-drop", "2", "-o", page)
    assert result.exit_code == 0, result.output
    assert result.output.split() == [str(page), str(tmp_path / "page.json")]
    report = json.loads((tmp_path / "page.json").read_text())
    assert report["story"]["max_drop"] == 0.02
    assert [[choice["tokens"] for choice in p["choices"]] for p in report["pictures"]] == [[16, 8, 4, 1]] * 3


def test_command_draws_images_from_a_folder(tmp_path, bundle_file):
    for name in ("bee", "cat"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 40), (80 * i, 9, 9)).save(tmp_path / "images" / name / f"{i}.png")
    page = tmp_path / "page.html"
    result = run("--bundle", bundle_file, "--images", tmp_path / "images", "--count", "4", "--keep", "0.5", "-o", page)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "page.json").read_text())
    assert len(report["pictures"]) == 4
    assert {picture["truth"] for picture in report["pictures"]} == {"bee", "cat"}


def test_command_refuses_bad_input(tmp_path, bundle_file):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((), "got none of them"),
        (("--accuracy", tmp_path / "none.json"), "there is none at"),
        (("--images", tmp_path), "--images requires --bundle"),
        (("--bundle", bundle_file, "--images", tmp_path / "empty"), "no images in the subfolders"),
        (("--bundle", bundle_file, "--images", tmp_path / "none"), "one subfolder per class"),
    ):
        result = run(*arguments, "-o", tmp_path / "page.html")
        assert result.exit_code in (1, 2)
        assert words in " ".join(result.output.split())
        assert not (tmp_path / "page.html").exists()
