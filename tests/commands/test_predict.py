"""tokfilter predict: an image in; class, probability and a picture of the kept tokens out, by torch and by engine."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from openvino_exports import NEEDED
from PIL import Image

from tokfilter.artifacts.manifest import ModelCard, entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import DataError
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.runtime.predict import grid_from_card, predict, probabilities_from_logits

CLASSES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture(scope="module")
def exported(bundle_file, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "out"
    export_bundle(bundle_file, directory, ExportOptions(keeps=(0.25,)))
    return directory


@pytest.fixture(params=["bundle", "export"])
def source(request, bundle_file):
    return bundle_file if request.param == "bundle" else request.getfixturevalue("exported")


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(*arguments):
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)])


@pytest.mark.parametrize("keep", [None, 1.0, 0.5, 0.25, 7, 1])
def test_bundle_and_export_agree(bundle_file, exported, photo, keep):
    by_torch, by_engine = predict(bundle_file, photo, keep), predict(exported, photo, keep)
    assert by_torch.view == by_engine.view
    np.testing.assert_allclose(by_torch.probabilities, by_engine.probabilities, atol=1e-5)
    assert by_torch.tokens == by_engine.tokens
    assert by_torch.grid == by_engine.grid == (4, 4)
    if by_torch.tokens == 16:
        assert by_torch.indices is None and by_engine.indices is None
    else:
        np.testing.assert_array_equal(by_torch.indices, by_engine.indices)


def test_prints_class_probability_and_map(source, photo):
    result = run(source, photo, "--keep", "0.5", "--top", "3")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    guesses = [line.split() for line in lines[:3]]
    assert {name for name, *_ in guesses} <= set(CLASSES)
    probabilities = [float(percent) for _, percent, *_ in guesses]
    assert probabilities == sorted(probabilities, reverse=True)
    assert "8 of 16 patch tokens kept" in result.output
    assert sum(line.count("██") for line in lines) == 8
    assert sum(line.count("··") for line in lines) == 8


def test_json_has_the_kept_positions(source, photo, tmp_path):
    picture = tmp_path / "kept.png"
    result = run(source, photo, "--keep", "5", "--json", "-o", picture)
    found = json.loads(result.stdout)
    assert found["schema"] == "tokfilter/prediction"
    assert (found["tokens"], found["grid"], found["picture"]) == (5, [4, 4], str(picture))
    assert len(found["indices"]) == 5 and found["indices"] == sorted(found["indices"])
    assert sum(guess["probability"] for guess in found["top"]) == pytest.approx(1)
    assert [CLASSES[guess["index"]] for guess in found["top"]] == [guess["class"] for guess in found["top"]]


def test_picture_shows_the_kept_patches(source, photo, tmp_path):
    picture = tmp_path / "kept.png"
    assert run(source, photo, "--keep", "5", "-o", picture).exit_code == 0
    found = predict(source, photo, 5)
    view = np.asarray(found.view.resize((448, 448), Image.Resampling.NEAREST))
    shown = np.asarray(Image.open(picture))
    same = (shown == view).all(axis=-1).reshape(4, 112, 4, 112).all(axis=(1, 3)).ravel()
    assert same.nonzero()[0].tolist() == found.indices.tolist()


def test_scores_need_a_bundle(bundle_file, exported, photo, tmp_path):
    picture = tmp_path / "scores.png"
    assert run(bundle_file, photo, "--scores", "-o", picture).exit_code == 0
    with Image.open(picture) as shown:
        assert shown.size == (448, 448)
    result = run(exported, photo, "--scores", "-o", picture)
    assert result.exit_code == 1
    assert "does not return its scores" in result.output


def test_every_token_kept_is_the_view_itself(source, photo, tmp_path):
    picture = tmp_path / "all.png"
    result = run(source, photo, "--keep", "100%", "-o", picture)
    assert "16 of 16 patch tokens kept" in result.output
    view = predict(source, photo, 1.0).view
    assert Image.open(picture).resize((32, 32), Image.Resampling.NEAREST) == view


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (31, 100)])
def test_unusual_images_are_classified(exported, tmp_path, mode, size):
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    Image.new(mode, size).save(path)
    result = run(exported, path)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.png", None, "there is none at"),
        ("text.png", b"no image", "not an image of a known format"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "not an image|damaged"),
    ],
)
def test_a_file_that_is_no_image_is_refused(exported, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = run(exported, tmp_path / name)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    with pytest.raises(DataError, match=words):
        predict(exported, tmp_path / name)


@pytest.mark.parametrize(
    ("keep", "words"), [("0", "keep must be"), ("1.5", "keep must be"), ("1", "ambiguous"), ("17", "17")]
)
def test_impossible_budgets_are_refused(source, photo, keep, words):
    result = run(source, photo, "--keep", keep)
    assert result.exit_code == 1
    assert words in result.output


def test_a_source_that_is_no_model_is_refused(photo, tmp_path):
    for source, words in ((tmp_path / "none.pt", "there is none at"), (tmp_path, "manifest"), (photo, "not a bundle")):
        result = run(source, photo)
        assert result.exit_code == 1
        assert words in " ".join(result.output.split())


def test_a_failed_write_leaves_the_old_picture(exported, photo, tmp_path):
    old = tmp_path / "old.png"
    old.write_bytes(b"old")
    assert run(exported, photo, "--scores", "-o", old).exit_code == 1
    assert old.read_bytes() == b"old"


def test_an_export_directory_needs_no_torch(exported, photo):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from tokfilter.runtime.predict import predict\n"
        f"print(predict({str(exported)!r}, {str(photo)!r}).top(1)[0].name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in CLASSES


@pytest.mark.parametrize(
    ("size", "patches", "grid"), [((64, 96), 96, (8, 12)), ((30, 30), 1, (1, 1)), ((28, 70), 10, (2, 5))]
)
def test_grid_of_square_patches(size, patches, grid):
    assert grid_from_card(card(size, patches)) == grid


def test_patches_that_fill_no_grid_of_squares_are_refused():
    with pytest.raises(DataError, match="17 patches do not make a grid of squares on 32 x 32 pixels"):
        grid_from_card(card((32, 32), 17))


def card(size, patches):
    return ModelCard("vit", (3, *size), patches, 1, 5, [], patches, {}, {})


def test_probabilities_of_huge_logits_are_finite():
    probabilities = probabilities_from_logits(np.array([1e4, 1e4, -1e4], dtype=np.float32))
    np.testing.assert_allclose(probabilities, [0.5, 0.5, 0.0])


@pytest.mark.parametrize("damage", ["nan", "inf"])
@pytest.mark.parametrize("options", [["--json"], ["-o", "kept.png"]])
def test_an_output_that_is_not_finite_is_an_error(exported, photo, tmp_path, monkeypatch, damage, options):
    """JSON has no NaN, and no class is the most probable one."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "out"
    shutil.copytree(exported, directory)
    model = onnx.load(directory / "model.onnx")
    (bias,) = [tensor for tensor in model.graph.initializer if list(tensor.dims) == [len(CLASSES)]]
    values = np.array([damage, 1, 2, 3, 4], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, directory / "model.onnx")
    manifest = load_manifest(directory)
    written = entry_from_file(directory, "model.onnx", "filtered", runtime="onnx", precision="fp32")
    files = [written if entry.path == written.path else entry for entry in manifest.files]
    save_manifest(directory, replace(manifest, files=files))
    done = run(directory, photo, *options)
    assert done.exit_code == 1 and "output holds NaN or infinity" in done.output
    assert "NaN," not in done.output and not (tmp_path / "kept.png").exists()


def test_classes_without_names_get_numbers(bundle_file, photo):
    found = predict(bundle_file, photo)
    unnamed = type(found)(**{**vars(found), "class_names": []})
    assert unnamed.top(1)[0].name == f"class {found.top(1)[0].index}"


def test_openvino_and_onnx_runtime_agree(exported, photo, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason=NEEDED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for arguments in ([], ["--keep", "0.5"], ["--keep", "1.0"]):
        one, other = (
            json.loads(run(exported, photo, "--json", "--runtime", name, *arguments).stdout)
            for name in ("onnx", "openvino")
        )
        assert one["indices"] == other["indices"] and one["tokens"] == other["tokens"]
        assert one["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], abs=1e-5)


def test_an_engine_for_a_bundle_is_refused(bundle_file, photo):
    done = run(bundle_file, photo, "--runtime", "openvino")
    assert done.exit_code == 2 and "torch runs a bundle" in done.output


@pytest.fixture
def photos(tmp_path, photo):
    """Three images in two folders, one of them damaged, and files that are no images."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("more/a.jpg", "green")):
        Image.new("RGB", (40, 50), colour).save(folder / name)
    (folder / "a.png").write_bytes(photo.read_bytes()[:200])
    (folder / "notes.md").write_text("no image")
    return folder


def test_a_folder_gives_a_line_for_each_image_and_skips_damaged_ones(source, photos, tmp_path):
    result = run(source, photos, "-o", tmp_path / "kept", "--keep", "0.5")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(photos / "b.png"), str(photos / "more" / "a.jpg")]
    assert all(line.split()[-1] in CLASSES and " % " in line for line in lines)
    assert "skipped" in result.stderr and "a.png could not be read" in result.stderr
    assert "1 of 3 images could not be read" in result.stderr
    written = sorted(path.relative_to(tmp_path / "kept").as_posix() for path in (tmp_path / "kept").rglob("*.png"))
    assert written == ["b.png.png", "more/a.jpg.png"]


def with_lines(path, *lines):
    path.write_text("\n".join(map(str, lines)))
    return path


def test_several_images_as_json_are_one_object_in_each_line(source, photos, photo, tmp_path):
    (tmp_path / "list.txt").write_text(f"{photos / 'b.png'}\n\n{photo}\n")
    assert "2 of 3 images" in run(source, with_lines(tmp_path / "bad.txt", "x" * 300, "none.png", photo)).stderr
    result = run(source, tmp_path / "list.txt", photo, "--json", "--top", "2")
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["image"] for entry in found] == [str(photos / "b.png"), str(photo), str(photo)]
    assert all(entry["schema"] == "tokfilter/prediction" and len(entry["top"]) == 2 for entry in found)
    alone = json.loads(run(source, photo, "--json", "--top", "2").stdout)
    assert found[1] == found[2] == alone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep", "1.5"], "keep must be"),
        (["-o", "FILE"], "expected the name of a folder"),
        (["none.png"], "there is none at"),
        (["--top", "0"], "--top"),
    ],
)
def test_options_are_checked_before_an_image_is_read(exported, photos, photo, monkeypatch, arguments, words):
    monkeypatch.setattr("tokfilter.artifacts.images.open_image", lambda path: pytest.fail("an image was read"))
    result = run(exported, photos, *(argument.replace("FILE", str(photo)) for argument in arguments))
    assert result.exit_code in (1, 2) and words in result.output


def test_scores_are_refused_before_an_image_is_read(exported, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("tokfilter.artifacts.images.open_image", lambda path: pytest.fail("an image was read"))
    result = run(exported, photos, "--scores", "-o", tmp_path / "kept")
    assert result.exit_code == 1 and "does not return its scores" in result.output
    assert not (tmp_path / "kept").exists()


def test_an_image_that_is_too_elongated_is_skipped_by_name(exported, photo):
    Image.new("1", (1, 400_000)).save(photo.with_name("long.png"))
    result = run(exported, photo, photo.with_name("long.png"))
    assert result.exit_code == 1
    assert f"skipped {photo.with_name('long.png')}: an image of 1 x 400000" in result.stderr
    assert str(photo) in result.stdout and "1 of 2 images could not be read" in result.stderr
