"""A folder as timm's push_to_hub writes it: architecture, arguments, preprocessing, names, weights."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from tokfilter.errors import DataError, UnsupportedModelError
from tokfilter.train.start import load_checkpoint

SHAPE = {"img_size": 48, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
PIXELS = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bilinear",
    "crop_pct": 0.75,
    "crop_mode": "squash",
    "input_size": [3, 48, 48],
}


@pytest.fixture
def folder(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", **SHAPE).eval()
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "label_names": ["ant", "bee", "cat"],
        "model_args": {name: value for name, value in SHAPE.items() if name not in ("num_classes", "img_size")},
        "pretrained_cfg": PIXELS,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def changed(folder):
    def change(**values):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **values}))
        return folder

    return change


def test_everything_is_taken_from_the_folder(folder):
    model = load_checkpoint(folder, keep=0.5)
    assert model.info is not None and model.info.class_names == ("ant", "bee", "cat")
    assert model.backbone.patch_embed.img_size == (48, 48) and model.num_patches == 36
    found = model.info.preprocessing
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (found.interpolation, found.crop_pct, found.crop_mode) == ("bilinear", 0.75, "squash")


def test_values_that_are_given_replace_the_folders(folder):
    model = load_checkpoint(
        folder, preprocessing={"mean": (0.5, 0.5, 0.5), "input_size": (3, 32, 40), "crop_pct": None}
    )
    assert model.info is not None and model.grid == (4, 5)
    assert model.info.preprocessing.mean == (0.5, 0.5, 0.5) and model.info.preprocessing.crop_pct == 0.75


@pytest.mark.parametrize("classes", [3, 0])
def test_timms_own_writer_is_read(tmp_path, classes):
    model = timm.create_model("vit_tiny_patch16_224", **{**SHAPE, "num_classes": classes}).eval()
    save_for_hf(
        model, tmp_path, model_args={k: v for k, v in SHAPE.items() if k != "num_classes"}, safe_serialization=True
    )
    ours = load_checkpoint(tmp_path, keep=1.0)
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(ours(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model_args": {"depth": 10**9}}, "depth must be a plain value of at most 512"),
        ({"model_args": {"embed_dim": 10**12}}, "embed_dim must be a plain value of at most"),
        ({"model_args": {"norm_layer": {"a": 1}}}, "norm_layer must be a plain value"),
        ({"model_args": {"embed_dim": 48, "num_heads": 3, "patch_size": 8}}, "does not fit VisionTransformer"),
        ({"num_classes": 4, "label_names": None}, "has 3 classes, the data has 4"),
        ({"num_classes": -1}, "num_classes must be a whole number from 0"),
        ({"label_names": ["a"]}, "expected names for the 3 classes of the classifier, got 1"),
        ({"pretrained_cfg": {**PIXELS, "std": [0, 0, 0]}}, "std must be three numbers"),
        ({"pretrained_cfg": {**PIXELS, "interpolation": "random"}}, "interpolation must be one of nearest"),
        ({"pretrained_cfg": {**PIXELS, "input_size": [3, 10**6, 10]}}, "input_size must be sides from 1 to 4096"),
        ({"pretrained_cfg": {**PIXELS, "crop_pct": -1}}, "crop_pct must be a number above 0"),
        ({"pretrained_cfg": 3}, "pretrained_cfg must be an object"),
    ],
)
def test_values_that_do_not_fit_are_named(changed, values, problem):
    with pytest.raises(DataError, match=problem):
        load_checkpoint(changed(**values))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"architecture": "vit_tinny_patch16_224"}, "Did you mean .*vit_tiny_patch16_224"),
        ({"architecture": "resnet18", "model_args": {}}, "cannot be filtered|takes no|refuses resnet18"),
        ({"model_args": {"pretrained_cfg_overlay": "x"}}, "got pretrained_cfg_overlay"),
        ({"model_args": {"patch_size": 0}}, "timm refuses vit_tiny_patch16_224"),
        ({"model_args": {"num_heads": 0}}, "timm refuses vit_tiny_patch16_224"),
    ],
)
def test_models_that_cannot_be_built_are_refused(changed, values, problem):
    with pytest.raises(UnsupportedModelError, match=problem):
        load_checkpoint(changed(**values))


def test_what_is_neither_a_folder_nor_described_is_refused(tmp_path):
    with pytest.raises(DataError, match="give a folder with config.json and model.safetensors"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 3}))
    with pytest.raises(DataError, match="expected model.safetensors beside config.json"):
        load_checkpoint(tmp_path)
    with pytest.raises(DataError, match="expected a folder with config.json, or architecture="):
        load_checkpoint(tmp_path / "config.json")
    with pytest.raises(DataError, match="leave architecture out"):
        load_checkpoint(tmp_path, architecture=("vit_tiny_patch16_224", {}))


def test_a_file_is_read_with_its_architecture(folder):
    arguments = {**SHAPE, "num_classes": 3}
    model = load_checkpoint(folder / "model.safetensors", architecture=("vit_tiny_patch16_224", arguments))
    assert model.info is not None and model.info.architecture is not None and model.grid == (6, 6)
