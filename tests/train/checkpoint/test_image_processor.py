"""preprocessor_config.json: the pixels of transformers' image processors, and what cannot be expressed is refused.

Compared with transformers' PIL processors, to 1e-6: both resize with Pillow and differ in rounding alone. Its
torchvision processors resize with other arithmetic; that is the second comparison.
"""

import json

import numpy as np
import pytest
import torch
from hf_folders import tiny_processor, transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokfilter.errors import DataError, UnsupportedModelError
from tokfilter.runtime.preprocess import preprocess_from_fields
from tokfilter.train.checkpoint.image_processor import PROCESSORS, preprocessing_from_folder

transformers()
KINDS = ("ViT", "DeiT", "Dinov2", "CLIP", "Siglip")


def noise(height, width):
    rng = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def folder_of(tmp_path, **fields):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    return tmp_path


CASES = [
    ("ViT", {}),
    ("ViT", {"size": {"height": 33, "width": 50}, "resample": 3, "image_mean": [0.1, 0.2, 0.3]}),
    ("ViT", {"size": 17, "do_normalize": False}),
    ("ViT", {"do_rescale": False}),
    ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    ("DeiT", {}),
    ("DeiT", {"size": 39, "crop_size": 32}),
    ("DeiT", {"size": {"height": 35, "width": 35}, "resample": 2}),
    ("Dinov2", {}),
    ("Dinov2", {"size": {"shortest_edge": 41}, "crop_size": {"height": 29, "width": 29}}),
    ("Dinov2", {"size": 257, "crop_size": 224}),
    ("CLIP", {"size": {"shortest_edge": 32}}),
    ("CLIP", {"size": 47, "crop_size": 21, "resample": 0}),
    ("Siglip", {}),
    ("Siglip", {"resample": 1, "size": {"height": 20, "width": 44}}),
]


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_every_pixel_is_that_of_transformers(tmp_path, kind, fields):
    processor = tiny_processor(kind, **fields)
    processor.save_pretrained(tmp_path)
    preprocess = preprocess_from_fields(preprocessing_from_folder(tmp_path))
    for size in ((61, 45), (45, 61), (37, 37), (33, 90), (101, 40), (40, 103)):
        image = noise(*size)
        expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        np.testing.assert_allclose(preprocess(image), expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_torchvision_processors_are_mostly_within_a_grey_level(tmp_path, kind):
    processor = tiny_processor(kind, torchvision=True)
    processor.save_pretrained(tmp_path)
    fields = preprocessing_from_folder(tmp_path)
    image = noise(61, 47)
    expected = processor(image, return_tensors="pt")["pixel_values"][0].numpy()
    std = np.array(fields["std"])[:, None, None]
    levels = np.abs(preprocess_from_fields(fields)(image) - expected) * 255 * std
    assert (levels < 1.01).mean() > 0.98 and levels.max() < 8


@settings(max_examples=60, deadline=None)
@given(edge=st.integers(1, 1024), crop=st.integers(1, 1024))
def test_any_crop_gives_back_its_edge(tmp_path_factory, edge, crop):
    folder = folder_of(
        tmp_path_factory.mktemp("c"), image_processor_type="CLIPImageProcessor", size=edge, crop_size=min(edge, crop)
    )
    transform = preprocess_from_fields(preprocessing_from_folder(folder))
    assert transform._resized(30, 30) == (edge, edge)


@pytest.mark.parametrize("name", ["ViTFeatureExtractor", "ViTImageProcessorFast", "ViTImageProcessor"])
def test_older_names_of_a_processor_mean_the_same(tmp_path, name):
    key = "feature_extractor_type" if name.endswith("Extractor") else "image_processor_type"
    found = preprocessing_from_folder(folder_of(tmp_path, **{key: name}))
    assert found["input_size"] == (3, 224, 224) and found["crop_mode"] == "squash"
    assert found["interpolation"] == "bilinear"


def test_the_processors_file_of_transformers_5_is_read(tmp_path):
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": {"image_processor_type": "SiglipImageProcessor"}})
    )
    assert preprocessing_from_folder(tmp_path)["interpolation"] == "bicubic"


@pytest.mark.parametrize("kind", KINDS)
def test_every_default_is_that_of_transformers(kind):
    name = {"Dinov2": "Bit"}.get(kind, kind)
    processor = getattr(transformers(), f"{name}ImageProcessor")().to_dict()
    ours = {key: value for key, value in PROCESSORS[name].items() if key != "rescale_factor"}
    assert json.loads(json.dumps({key: processor[key] for key in ours})) == ours


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "must be one of ViTImageProcessor, .* Give --mean, --std"),
        ({"image_processor_type": "ViT"}, "image_processor_type must be one of"),
        ({"image_processor_type": None}, "image_processor_type must be one of"),
        ({"crop_pct": 0.875}, "crop_pct cannot be expressed"),
        ({"do_pad": True}, "do_pad cannot be expressed"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order cannot be expressed"),
        ({"do_resize": False}, "do_resize must be true"),
        ({"size": {"shortest_edge": 224}}, "expected do_center_crop to a square .* got no crop"),
        ({"size": {"longest_edge": 224}}, "size must be a number, height and width, or shortest_edge"),
        ({"do_center_crop": True, "crop_size": 300}, r"crop_size \(300, 300\) must fit into size \(224, 224\)"),
        ({"do_center_crop": True, "crop_size": {"height": 100, "width": 200}}, "must have one ratio"),
    ],
)
def test_steps_that_timm_has_not_are_refused(tmp_path, fields, problem):
    with pytest.raises(UnsupportedModelError, match=problem):
        preprocessing_from_folder(folder_of(tmp_path, **{"image_processor_type": "ViTImageProcessor", **fields}))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean must be three numbers"),
        ({"image_std": [0, 1, 1]}, "image_std must be three numbers from 1e-06"),
        ({"image_std": [1, 1, float("nan")]}, "NaN is not a number of JSON"),
        ({"image_mean": [1, 1, 10**400]}, "is larger than any number that can be read"),
        ({"image_mean": [1, 1, 10**300]}, "image_mean must be three numbers"),
        ({"resample": 6}, "resample must be a whole number from 0 to 5"),
        ({"size": {"height": 10**9, "width": 1}}, "height must be a whole number from 1 to 4096"),
        ({"size": -1}, "size must be a whole number"),
        ({"size": [2, 3, 4]}, "size must be one or two whole numbers"),
        ({"rescale_factor": "x"}, "rescale_factor must be a number"),
        ({"do_normalize": 1}, "do_normalize must be true or false"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, fields, problem):
    with pytest.raises(DataError, match=problem):
        preprocessing_from_folder(folder_of(tmp_path, **{"image_processor_type": "ViTImageProcessor", **fields}))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"preprocessor_config.json\): expected a file, but there is none"):
        preprocessing_from_folder(tmp_path)


def test_torch_is_given_the_same_pixels(tmp_path):
    from tokfilter.artifacts.bundle import Preprocessing
    from tokfilter.vit.transform import transform_from_preprocessing

    processor = tiny_processor("Dinov2", size={"shortest_edge": 39})
    processor.save_pretrained(tmp_path)
    transform = transform_from_preprocessing(Preprocessing(**preprocessing_from_folder(tmp_path)))
    image = noise(70, 39)
    expected = torch.tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))
    torch.testing.assert_close(transform(image), expected, rtol=1e-5, atol=1e-5)
