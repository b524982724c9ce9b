"""`tokfilter eval`: which images are measured."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tokfilter.artifacts.split import key_from_file
from tokfilter.benchmarks.documents import accuracy_from_file, document_from_file, evaluated_images
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.cli import cli
from tokfilter.errors import DataError
from tokfilter.vit.bundle import load_bundle, load_model, save_bundle

MODEL = ["--arch", "vit_tiny_patch16_224"]
for argument in ("img_size=32", "patch_size=8", "embed_dim=16", "depth=1", "num_heads=2"):
    MODEL += ["--arch-arg", argument]
QUICK = ["--epochs", "1", "--batch", "16", "--stages", "backbone"]


def tokfilter(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return write_scenes(folder, 0, train=64, test=30, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))


@pytest.fixture(scope="module")
def undivided(scenes):
    return scenes / "train"


@pytest.fixture(scope="module")
def trained(undivided, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "model.pt"
    result = tokfilter("train", undivided, "-o", path, *MODEL, *QUICK)
    assert result.exit_code == 0, result.output
    return path


def document(*arguments):
    result = tokfilter("eval", *arguments, "--keep", "0.5", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_the_images_that_training_held_out_are_measured(trained, undivided):
    found, notes = document(trained, undivided)
    split = load_bundle(trained).split
    assert found["data"]["part"] == "held-out" and found["data"]["trained"] == 0
    assert found["data"]["images"] == len(split.held_out) < len(split.trained)
    assert "of 64 images are evaluated" in notes and "--part all" in notes
    accuracy = load_bundle(trained).training["accuracy"]  # measured by train on the same images
    assert [row["top1"][0] for row in found["rows"]] == [row["top1"] for row in accuracy[:2]]
    printed = tokfilter("eval", trained, undivided, "--keep", "0.5")
    assert f"{len(split.held_out)} test images (held out by training)" in printed.stderr


def test_moved_and_renamed_images_are_known(trained, undivided, tmp_path):
    for i, file in enumerate(sorted(undivided.rglob("*.png"))):
        (tmp_path / "moved" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "moved" / file.parent.name / f"{1000 - i}.png")
    assert document(trained, tmp_path / "moved")[0]["rows"] == document(trained, undivided)[0]["rows"]


def test_all_images_only_on_demand_with_a_warning_and_not_for_a_report(trained, undivided, tmp_path):
    found, notes = document(trained, undivided, "--part", "all", "-o", tmp_path / "accuracy.json")
    count = len(load_bundle(trained).split.trained)
    assert found["data"] | {"part": "all", "images": 64, "trained": count} == found["data"]
    assert f"warning: the model was trained on {count} of these 64 images" in notes
    document_from_file(tmp_path / "accuracy.json", "tokfilter/accuracy")  # its schema has the keys
    with pytest.raises(DataError, match=f"measured on training images \\({count} of 64\\).*--part all"):
        accuracy_from_file(tmp_path / "accuracy.json")
    result = tokfilter("report", "--accuracy", tmp_path / "accuracy.json", "-o", tmp_path / "report.html")
    assert result.exit_code == 1 and "training images" in result.output
    assert not (tmp_path / "report.html").exists()


def test_new_images_are_measured_beside_the_held_out_ones(trained, scenes, undivided, tmp_path):
    shutil.copytree(undivided, tmp_path / "both")
    for file in (scenes / "test").rglob("*.png"):
        shutil.copy(file, tmp_path / "both" / file.parent.name / f"new-{file.name}")
    found, _ = document(trained, tmp_path / "both")
    assert found["data"]["part"] == "untrained" and found["data"]["trained"] == 0
    assert found["data"]["images"] == 30 + len(load_bundle(trained).split.held_out)
    assert document(trained, scenes / "test")[0]["data"]["part"] == "untrained"


def test_training_images_alone_are_refused_and_among_test_images_named(trained, undivided, tmp_path):
    twins = tmp_path / "data" / "test"
    shutil.copytree(undivided, tmp_path / "data" / "train")
    shutil.copytree(undivided, twins)
    found, notes = document(trained, tmp_path / "data")
    assert found["data"]["part"] == "test" and found["data"]["trained"] > 0
    assert "warning: the model was trained on" in notes
    assert "the same as training images" in evaluated_images(found)
    split, listed = load_bundle(trained).split, sorted(twins.rglob("*.png"))
    for file in listed:
        with file.open("rb") as content:
            held = split.all_held_out([key_from_file(content)])
        if held:
            file.unlink()
    result = tokfilter("eval", trained, twins)
    assert result.exit_code == 1 and "was trained on all" in result.output and "--part all" in result.output


def test_a_bundle_that_records_no_split_says_so(scenes, trained, tmp_path):
    save_bundle(replace(load_bundle(trained), split=None), tmp_path / "old.pt")
    found, notes = document(tmp_path / "old.pt", scenes / "test")
    assert found["data"]["part"] == "all" and found["data"]["trained"] is None
    assert "does not record which images it was trained on" in notes
    assert "not known" in evaluated_images(found)


def test_a_further_training_adds_to_the_trained_images(trained, scenes, tmp_path):
    first = load_bundle(trained).split
    arguments = ["--checkpoint", trained, "--stages", "finetune", "--epochs", "1", "--batch", "16"]
    result = tokfilter("train", scenes, "-o", tmp_path / "second.pt", *arguments)  # train and test folders
    assert result.exit_code == 0, result.output
    second = load_bundle(tmp_path / "second.pt").split
    assert set(first.trained) <= set(second.trained) and len(second.held_out) == 30
    assert load_model(tmp_path / "second.pt").info.split.trained.tolist() == second.trained.tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep", "17"], "keep must be"),
        (["--keep", "half"], "half"),
        (["-o", "."], "expected the name of a file"),
        (["--part", "train"], "Invalid value for '--part'"),
    ],
)
def test_options_are_refused_before_the_first_image_is_read(trained, undivided, monkeypatch, arguments, words):
    def read(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("tokfilter.train.data.ImageList.image", read)
    monkeypatch.setattr("tokfilter.train.data.ImageList.key", read)
    result = tokfilter("eval", trained, undivided, *arguments)
    assert result.exit_code in (1, 2) and words in result.output, result.output
