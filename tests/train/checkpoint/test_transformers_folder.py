"""Every family of transformers that is read gives transformers' own logits; everything else is refused by name."""

import json
import shutil

import pytest
import torch
from hf_folders import CLASSES, tiny_model, transformers, write_folder
from safetensors.torch import load_file, save_file

from tokfilter.errors import DataError, UnsupportedModelError
from tokfilter.train.checkpoint.families import CLASSES as FAMILIES
from tokfilter.train.checkpoint.folder import model_from_folder
from tokfilter.train.start import load_checkpoint, start_from_folder

transformers()
PIXELS = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "crop_mode": "center",
}


def assert_equal_to_transformers(model, folder, images, pixels=PIXELS, **call):
    """Logits and the classes' order, to 1e-5."""
    ours = load_checkpoint(folder, keep=1.0, preprocessing=pixels)
    with torch.no_grad():
        expected, found = model(pixel_values=images, **call).logits, ours(images)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return ours


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of each family, and the model."""
    root = tmp_path_factory.mktemp("hf")
    return {name: (root / name, write_folder(root / name, name)) for name in CLASSES}


@pytest.fixture
def vit(folders, tmp_path):
    """A folder of its own to damage."""
    shutil.copytree(folders["ViTForImageClassification"][0], tmp_path / "vit")
    return tmp_path / "vit"


def changed(folder, name="config.json", **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_the_logits_are_those_of_transformers(folders, name):
    folder, model = folders[name]
    ours = assert_equal_to_transformers(model, folder, torch.randn(3, 3, 32, 32), pixels=None)
    assert ours.info.class_names == () and ours.backbone.num_classes == 5


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ViTForImageClassification", {"layer_norm_eps": 0.05, "qkv_bias": False, "hidden_act": "relu"}),
        ("ViTForImageClassification", {"image_size": [32, 48], "patch_size": [8, 16], "hidden_act": "gelu_new"}),
        ("ViTForImageClassification", {"hidden_size": 21, "num_attention_heads": 7, "intermediate_size": 37}),
        ("DeiTForImageClassification", {"num_hidden_layers": 1, "hidden_act": "silu", "layer_norm_eps": 0.02}),
        ("DeiTForImageClassificationWithTeacher", {"image_size": 40, "qkv_bias": False}),
        ("Dinov2ForImageClassification", {"use_swiglu_ffn": True, "mlp_ratio": 4, "hidden_size": 30}),
        ("Dinov2ForImageClassification", {"layer_norm_eps": 0.03, "patch_size": 4, "hidden_act": "quick_gelu"}),
        ("Dinov2WithRegistersForImageClassification", {"num_register_tokens": 2, "layer_norm_eps": 0.01}),
        ("Dinov2WithRegistersForImageClassification", {"use_swiglu_ffn": True, "num_register_tokens": 1}),
        ("CLIPForImageClassification", {"layer_norm_eps": 0.02, "hidden_act": "gelu", "patch_size": 16}),
        ("SiglipForImageClassification", {"image_size": 35, "layer_norm_eps": 0.02}),
    ],
)
def test_so_are_those_of_other_sizes_and_settings(tmp_path, name, config):
    model = tiny_model(name, classes=3, seed=1, **config)
    model.save_pretrained(tmp_path)
    sides = config.get("image_size", 32)
    height, width = sides if isinstance(sides, list) else (sides, sides)
    pixels = {**PIXELS, "input_size": (3, height, width)}
    assert_equal_to_transformers(model, tmp_path, torch.randn(2, 3, height, width), pixels)


@pytest.mark.parametrize("name", [*CLASSES[:1], *CLASSES[3:]])
def test_another_image_size_resamples_positions_as_transformers_does(folders, name):
    folder, model = folders[name]
    call = {} if name.startswith("Dino") else {"interpolate_pos_encoding": True}
    ours = assert_equal_to_transformers(
        model, folder, torch.randn(2, 3, 48, 24), {**PIXELS, "input_size": (3, 48, 24)}, **call
    )
    assert ours.grid == (6, 3)


@pytest.mark.parametrize("name", CLASSES)
def test_every_default_is_that_of_transformers(name):
    family = FAMILIES[name]
    stem = name.partition("For")[0]
    config = getattr(transformers(), f"{stem}{'Vision' if family.vision else ''}Config")()
    assert {key: getattr(config, key) for key in family.defaults} == family.defaults


def test_files_in_parts_and_in_half_precision_are_read(folders, tmp_path):
    _, model = folders["Dinov2ForImageClassification"]
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists() and not (tmp_path / "model.safetensors").exists()
    images = torch.randn(2, 3, 32, 32)
    assert_equal_to_transformers(model, tmp_path, images)
    half = tiny_model("ViTForImageClassification").half()
    half.save_pretrained(tmp_path / "half")
    assert_equal_to_transformers(half.float(), tmp_path / "half", images)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("../vit/model.safetensors", "is not the name of a safetensors file in its folder"),
        ("/etc/passwd", "is not the name of a safetensors file"),
        ("model.bin", "is not the name of a safetensors file"),
        ("absent.safetensors", "which is not in .* Copy the folder whole"),
        (7, "is not the name of a safetensors file"),
    ],
)
def test_an_index_names_files_of_its_folder_only(vit, names, problem):
    weights = load_file(vit / "model.safetensors")
    (vit / "model.safetensors").rename(vit / "part.safetensors")
    index = {"weight_map": {**dict.fromkeys(weights, "part.safetensors"), "classifier.bias": names}}
    (vit / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=problem):
        model_from_folder(vit)
    index["weight_map"] = {**dict.fromkeys(weights, "part.safetensors"), "more": "part.safetensors"}
    (vit / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"says that more is in part.safetensors, but it is not"):
        model_from_folder(vit)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"architectures": ["ViTModel"]}, "has no classifier that is known here, fine-tune ViTForImageClassification"),
        ({"architectures": ["SwinForImageClassification"], "model_type": "swin"}, "the model type 'swin' has no count"),
        ({"architectures": None}, "no class under architectures"),
        ({"model_type": "deit"}, "has the model type vit, got 'deit'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config cannot be read: its weights are quantised"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map cannot be read: it runs code of its own"),
        ({"problem_type": "regression"}, "problem_type must be single_label_classification"),
        ({"hidden_act": "mish"}, "hidden_act must be one of gelu, .*, got 'mish'"),
        ({"head_dim": 4}, "hidden_size must be num_attention_heads times"),
        ({"num_attention_heads": 5}, "hidden_size must be num_attention_heads times"),
    ],
)
def test_what_timm_cannot_compute_is_refused_with_the_reason(vit, values, problem):
    with pytest.raises(UnsupportedModelError, match=problem):
        model_from_folder(changed(vit, **values))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hidden_size": 10**12}, "hidden_size must be a whole number from 1 to 16384"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 256"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"intermediate_size": -1}, "intermediate_size must be"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"patch_size": 33}, "patch_size must be at most the image_size"),
        ({"image_size": [32, 32, 32]}, "image_size must be one or two whole numbers"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps must be a number above 0"),
        ({"layer_norm_eps": 0}, "layer_norm_eps must be a number above 0"),
        ({"num_channels": 1}, "num_channels must be a whole number from 3 to 3"),
        ({"qkv_bias": "no"}, "qkv_bias must be true or false"),
        ({"num_hidden_layers": 200}, "3168 tensors are missing.* first: vit.encoder.layer.2.layernorm_before"),
        ({"intermediate_size": 41}, r"intermediate.dense.weight, expected \[41, 24\], got \[40, 24\]"),
        ({"num_hidden_layers": 1}, "16 are unknown; first: vit.encoder.layer.1"),
        ({"id2label": {"0": "a"}}, "expected names for the 5 classes of the classifier, got 1"),
        ({"id2label": dict.fromkeys("01234", "\x1b[31m")}, "the name of class 0 must be a printable text"),
    ],
)
def test_sizes_are_bounded_and_compared_with_the_files_before_memory_is_taken(vit, values, problem):
    with pytest.raises(DataError, match=problem):
        model_from_folder(changed(vit, **values))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w | {"extra": torch.zeros(1)}, "1 are unknown; first: extra, expected none, got \\[1\\]"),
        (lambda w: {n: v for n, v in w.items() if n != "vit.layernorm.bias"}, "first: vit.layernorm.bias, expected"),
        (lambda w: {n: v for n, v in w.items() if "classifier" not in n}, "expected the classifier classifier.weight"),
        (lambda w: w | {"vit.layernorm.bias": torch.full((24,), torch.nan)}, "vit.layernorm.bias holds NaN"),
        (lambda w: w | {"vit.layernorm.bias": torch.zeros(24, dtype=torch.int8)}, "type I8; quantised weights cannot"),
    ],
)
def test_tensors_that_do_not_fit_are_named(vit, change, problem):
    save_file(change(load_file(vit / "model.safetensors")), vit / "model.safetensors")
    with pytest.raises(DataError, match=problem):
        model_from_folder(vit)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[1]", "expected an object, got a list"),
        ("{", "is not the JSON of"),
        ("{}", "names no model"),
        ('{"model_type": "vit", "architectures": "ViTForImageClassification"}', "no class under architectures"),
    ],
)
def test_a_configuration_that_is_none_is_refused(vit, text, problem):
    (vit / "config.json").write_text(text)
    with pytest.raises((DataError, UnsupportedModelError), match=problem):
        model_from_folder(vit)


def test_files_that_are_absent_or_damaged_are_named(vit):
    (vit / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DataError, match="model.safetensors is damaged, or no safetensors file"):
        model_from_folder(vit)
    (vit / "model.safetensors").rename(vit / "tf_model.h5")
    with pytest.raises(DataError, match=r"there is neither \(there is tf_model.h5\)"):
        model_from_folder(vit)
    (vit / "config.json").rename(vit / "adapter_config.json")
    with pytest.raises(DataError, match="an adapter \\(PEFT\\) without its model"):
        model_from_folder(vit)


def test_a_new_head_is_trained_where_the_classes_are_others(vit):
    foreign = model_from_folder(vit)
    with pytest.raises(DataError, match="has 5 classes, the data has 2 classes"):
        start_from_folder(foreign, ("cat", "dog"))
    start = start_from_folder(foreign, ("cat", "dog"), new_head=True)
    assert not start.trained and start.backbone.head.weight.shape == (2, 24) and start.notes == ()
    assert torch.equal(start.backbone.cls_token, foreign.weights["cls_token"])


def test_names_of_the_classes_are_read_and_compared(vit):
    names = {str(i): name for i, name in enumerate(("ant", "bee", "cat", "dog", "eel"))}
    foreign = model_from_folder(changed(vit, id2label=names))
    assert foreign.class_names == ("ant", "bee", "cat", "dog", "eel")
    assert start_from_folder(foreign, foreign.class_names).notes == ()
    start = start_from_folder(foreign, ("ant", "bee", "cow", "dog", "eel"))
    assert "calls class 2 'cat', the data 'cow'" in start.notes[0]
