"""Bad data given to `train` and `label`: one message, an exit code, no output files."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tokfilter.cli import cli
from tokfilter.train.label_store import LabelStore
from tokfilter.vit.bundle import load_bundle, save_bundle

NAMES = ("ant", "bee", "cat", "dog", "eel")


def folder_of(root, counts):
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def tokfilter(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path):
    return folder_of(tmp_path / "data", dict.fromkeys(NAMES, 3))


def one_class(data):
    for path in data.iterdir():
        if path.name != "ant":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


def empty_class(data):
    (data / "cat2").mkdir()


def nothing_decodes(data):
    for file in (data / "dog").iterdir():
        file.write_bytes(file.read_bytes()[:60])


def no_folder(data):
    data.rename(data.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (one_class, "has one class only (ant); training needs at least two"),
        (empty_class, "has class folders without images: cat2. Add images or remove them"),
        (nothing_decodes, "no image of class dog in"),
        (no_folder, "but there is no folder"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "label"])
def test_bad_folders_are_refused_with_one_message(data, bundle_file, tmp_path, verb, harm, words):
    harm(data)
    output = tmp_path / "out"
    arguments = {"train": [data, "--checkpoint", bundle_file, "-o", output], "label": [data, bundle_file, "-o", output]}
    result = tokfilter(verb, *arguments[verb])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert words in " ".join(result.output.split()) and "Traceback" not in result.output
    assert not output.exists()


def test_fewer_images_than_a_batch_are_labelled_and_learned_from(data, bundle_file, tmp_path):
    result = tokfilter("label", data, bundle_file, "-o", tmp_path / "labels", "--shard", 128)
    assert result.exit_code == 0, result.output
    assert LabelStore(tmp_path / "labels").read().delta.shape == (10, 16)  # one of three is held out
    quick = ["--epochs", 1, "--batch", 512]
    arguments = ["--checkpoint", bundle_file, "--labels", tmp_path / "labels", "-o", tmp_path / "m.pt", *quick]
    result = tokfilter("train", data, *arguments)
    assert result.exit_code == 0, result.output
    assert load_bundle(tmp_path / "m.pt").training["label"]["images"] == 10


def test_labels_by_another_model_or_of_other_images_are_refused(data, bundle_file, bundle, tmp_path):
    assert tokfilter("label", data, bundle_file, "-o", tmp_path / "labels").exit_code == 0
    other = {name: value + 1e-6 for name, value in bundle.backbone.items()}
    save_bundle(_renewed(bundle, other), tmp_path / "other.pt")
    arguments = ["--labels", tmp_path / "labels", "--stages", "filter", "-o", tmp_path / "m.pt"]
    result = tokfilter("train", data, "--checkpoint", tmp_path / "other.pt", *arguments)
    assert result.exit_code == 1 and "were made with other weights than this run's" in result.output
    for file in (data / "eel").iterdir():
        Image.open(file).resize((40, 40)).save(file)
    result = tokfilter("train", data, "--checkpoint", bundle_file, *arguments)
    assert result.exit_code == 1 and "were made with other images than this run's" in result.output
    assert not (tmp_path / "m.pt").exists()


def _renewed(bundle, backbone):
    """The bundle with other weights, and golden tensors of theirs."""
    from dataclasses import replace

    from tokfilter.vit.bundle import model_from_bundle
    from tokfilter.vit.golden import golden_from_model

    model = model_from_bundle(bundle)
    model.backbone.load_state_dict(backbone, strict=False)
    return replace(bundle, backbone=backbone, golden=golden_from_model(model, bundle.golden.images, [0.5]))


def test_a_bundle_of_other_classes_is_refused(tmp_path, bundle_file):
    data = folder_of(tmp_path / "data", {"ant": 3, "bee": 3})
    result = tokfilter("label", data, bundle_file, "-o", tmp_path / "labels")
    assert result.exit_code == 1
    assert "was trained for 5 classes, first ant, bee, cat; the data has 2, first ant, bee" in " ".join(
        result.output.split()
    )
    assert not (tmp_path / "labels").exists()
