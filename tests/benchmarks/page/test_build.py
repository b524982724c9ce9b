"""`tokfilter page`: the folder's files, what replaces what, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tokfilter.benchmarks.page import build
from tokfilter.benchmarks.page.build import write_page
from tokfilter.benchmarks.page.onnxruntime_web import VERSION
from tokfilter.cli import cli
from tokfilter.errors import DataError, EngineError, ExportError, MissingDependencyError


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """An empty file in place of ONNX Runtime Web, which test_onnxruntime_web.py tests."""

    def copy(package, folder):
        (folder / "engine.js").touch()

    monkeypatch.setattr(build, "copy_files", copy)
    monkeypatch.setattr(build, "fetched_package", lambda: None)


@pytest.fixture
def export(export_directory, tmp_path):
    return shutil.copytree(export_directory, tmp_path / "out")


def change_manifest(directory, change):
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_page_holds_the_static_files_the_models_and_a_description(export, tmp_path):
    done = CliRunner().invoke(cli, ["page", str(export), "-o", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    assert "python -m http.server --directory" in done.output and "http://localhost:8000" in done.output
    page = tmp_path / "page"
    for path in build._STATIC.rglob("*.*"):
        assert (page / path.relative_to(build._STATIC)).read_bytes() == path.read_bytes()
    for name in ("model.onnx", "full.onnx"):
        assert (page / name).read_bytes() == (export / name).read_bytes()
    described = json.loads((page / "page.json").read_text())
    assert described["onnxruntime_web"] == VERSION
    assert described["grid"] == [4, 4] and described["patches"] == 16 and described["keep"] == 8
    assert described["class_names"] == ["ant", "bee", "cat", "dog", "eel"]
    assert described["models"]["filtered"]["bytes"] == (export / "model.onnx").stat().st_size
    files = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    assert set(described["files"]) == files and f"samples/{len(described['samples']) - 1}.png" in files


def test_an_older_page_is_replaced_and_the_users_own_files_stay(export, tmp_path):
    page = tmp_path / "page"
    write_page(export, page)
    (page / "_headers").write_text("mine")
    (page / "js" / "app.js").write_text("old")
    described = json.loads((page / "page.json").read_text())
    described["files"].append("gone.onnx")
    (page / "page.json").write_text(json.dumps(described))
    (page / "gone.onnx").touch()
    write_page(export, page)
    assert (page / "_headers").read_text() == "mine"
    assert (page / "js" / "app.js").read_text() != "old"
    assert not (page / "gone.onnx").exists()


@pytest.mark.parametrize("marker", [None, "{}", '{"format": "other"}', "[]", "no json", "[" * 100_000])
def test_a_folder_that_is_no_page_is_never_replaced(export, tmp_path, marker):
    page = tmp_path / "page"
    page.mkdir()
    (page / "thesis.txt").write_text("mine")
    if marker is not None:
        (page / "page.json").write_text(marker)
    with pytest.raises((ExportError, DataError), match="no page.*Choose another -o"):
        write_page(export, page)
    assert (page / "thesis.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "page"}


def test_changed_bytes_are_refused_and_nothing_is_left(export, tmp_path):
    with (export / "full.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(EngineError, match=r"full\.onnx is not the file that manifest\.json describes"):
        write_page(export, tmp_path / "page")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_graph_with_functions_is_refused_by_name(export, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "has_functions", lambda path: path.name == "model.onnx")
    with pytest.raises(ExportError, match=r"model\.onnx has model-local functions.*tokfilter inline .*model\.onnx"):
        write_page(export, tmp_path / "page")


def test_another_precision_is_named(export, tmp_path):
    with pytest.raises(ExportError, match=r"no filtered graph in int8 .*\(there: fp32\).*--precision"):
        write_page(export, tmp_path / "page", precision="int8")


def test_weights_beyond_two_gigabytes_are_refused(export, tmp_path):
    change_manifest(export, lambda content: content["files"][0].update(external={"model.onnx.data": "0" * 64}))
    with pytest.raises(ExportError, match="more than 2 GB, which no browser can hold"):
        write_page(export, tmp_path / "page")


def test_preprocessing_that_is_not_known_is_refused(export, tmp_path):
    change_manifest(export, lambda content: content["model"]["preprocessing"].update(interpolation="magic"))
    with pytest.raises(DataError, match="interpolation must be one of"):
        write_page(export, tmp_path / "page")


def test_no_network_leaves_nothing(export, tmp_path, monkeypatch):
    def fail():
        raise MissingDependencyError("no network")

    monkeypatch.setattr(build, "fetched_package", fail)
    done = CliRunner().invoke(cli, ["page", str(export), "-o", str(tmp_path / "page")])
    assert (done.exit_code, done.output) == (4, "Error: no network\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_samples_of_a_folder_are_scaled_spread_and_without_metadata(export, tmp_path):
    images = tmp_path / "images"
    for name in "abc":
        (images / name).mkdir(parents=True)
        for i in range(10):
            exif = Image.Exif()
            exif[0x010E] = "secret place"
            size = (1600, 1200) if i % 2 else (40, 30)
            pixels = np.full((size[1], size[0], 3), ord(name), np.uint8)
            Image.fromarray(pixels).save(images / name / f"{i}.jpg", exif=exif)
    (images / "notes.txt").write_text("no image")
    (images / "a" / "1.jpg").write_text("damaged, and one of those at equal distances")
    page = tmp_path / "page"
    write_page(export, page, images)
    samples = json.loads((page / "page.json").read_text())["samples"]
    assert len(samples) == 8 and not any(sample["prepared"] for sample in samples)
    opened = [Image.open(page / sample["path"]) for sample in samples]
    assert {max(image.size) for image in opened} == {768, 40}
    assert len({image.getpixel((0, 0)) for image in opened}) == 3
    assert not any(image.getexif() for image in opened)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "must be a folder"),
        (lambda folder: folder.mkdir(), "holds no image file"),
        (lambda folder: (folder.mkdir(), (folder / "a.png").write_text("x")), "is not an image"),
    ],
)
def test_a_folder_without_images_is_refused(export, tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(DataError, match=message):
        write_page(export, tmp_path / "page", tmp_path / "images")
    assert not (tmp_path / "page").exists()
