"""tokfilter report, and what it accepts as a document."""

import json

import pytest
from click.testing import CliRunner
from paths import DATA
from PIL import Image

from tokfilter.benchmarks.report.render import document_from_file
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
        ("no JSON", "wants to be JSON"),
        ('{"schema": "tokfilter/bench", "version": NaN}', "NaN is no number of JSON"),
        ([], "wants schema 'tokfilter/bench', got None"),
        ({"schema": "tokfilter/accuracy"}, "mixed up"),
        ({"schema": "tokfilter/bench", "version": 2}, "has version 2"),
        (document("bench", rows=[{"batch": "one"}]), r"breaks its schema at \$\.rows\[0\]"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path, content, words):
    with pytest.raises(DataError, match=words):
        document_from_file(write(tmp_path / "bench.json", content), "tokfilter/bench")


@pytest.mark.parametrize("name", ["accuracy", "bench"])
def test_a_sound_document_is_read(name):
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


def test_command_refuses_with_a_sentence(tmp_path, bundle_file):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((), "got none of them"),
        (("--accuracy", tmp_path / "none.json"), "there is none at"),
        (("--images", tmp_path), "--images wants --bundle"),
        (("--bundle", bundle_file, "--images", tmp_path / "empty"), "there are none"),
        (("--bundle", bundle_file, "--images", tmp_path / "none"), "one subfolder per class"),
    ):
        result = run(*arguments, "-o", tmp_path / "page.html")
        assert result.exit_code in (1, 2)
        assert words in " ".join(result.output.split())
        assert not (tmp_path / "page.html").exists()
