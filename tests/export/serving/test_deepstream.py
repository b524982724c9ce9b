"""Classifiers for DeepStream's nvinfer: its configuration, and a graph that undoes what nvinfer cannot say."""

import configparser
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tokfilter.artifacts.manifest import NAME, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import BudgetError, DataError, EngineError, ExportError
from tokfilter.export.serving import deepstream
from tokfilter.export.serving.deepstream import DeepStreamOptions, deepstream_classifier
from tokfilter.export.serving.nvinfer_config import (
    STD_TOLERANCE,
    differences,
    normalisation_from_card,
    resize_keys,
    text_from_keys,
)
from tokfilter.export.serving.serving_graph import outputs_of

CHANNELS = st.lists(st.floats(0.05, 0.95), min_size=3, max_size=3)


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


def with_card(directory, **changes):
    manifest = load_manifest(directory)
    save_manifest(directory, replace(manifest, model=replace(manifest.model, **changes)))


def keys_of(folder):
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.read_string((folder / "config_infer.txt").read_text())
    return dict(parser["property"])


def as_nvinfer_does(folder, pixels):
    """net-scale-factor * (x - offsets) on pixels [B, 3, H, W] in 0..255, then the graph."""
    keys = keys_of(folder)
    offsets = np.array([float(part) for part in keys["offsets"].split(";")], np.float32)[:, None, None]
    frames = np.float32(keys["net-scale-factor"]) * (pixels - offsets)
    return outputs_of(folder / keys["onnx-file"], "fp32", {"images": frames.astype(np.float32)})["probabilities"]


def as_the_model_wants(graph, pixels, mean, std):
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    logits = outputs_of(graph, "fp32", {"images": ((pixels / 255 - mean) / std).astype(np.float32)})["logits"]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("std", [(0.5, 0.5, 0.5), (0.229, 0.224, 0.225), (0.2, 0.5, 0.9)])
@pytest.mark.parametrize(("keep", "graph"), [(0.5, "model.k8.onnx"), (1.0, "full.onnx")])
def test_nvinfer_sees_the_probabilities_of_the_model(copied, tmp_path, std, keep, graph):
    mean = (0.485, 0.456, 0.406)
    with_card(copied, preprocessing={"input_size": [3, 32, 32], "mean": mean, "std": std, "crop_mode": "squash"})
    deepstream_classifier(copied, tmp_path / "n", DeepStreamOptions(keep))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 32)).astype(np.float32)
    found, wanted = as_nvinfer_does(tmp_path / "n", pixels), as_the_model_wants(copied / graph, pixels, mean, std)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_budget_without_a_graph_of_its_own_gets_a_fixed_one(export_directory, tmp_path):
    written = deepstream_classifier(export_directory, tmp_path / "n", DeepStreamOptions(keep=5, batch=4))
    assert (
        written.tokens == 5 and "5 of 16 tokens, from model.onnx" in (tmp_path / "n" / "config_infer.txt").read_text()
    )
    graph = onnx.load(tmp_path / "n" / "model.onnx")
    onnx.checker.check_model(graph)
    assert [value.name for value in graph.graph.input] == ["images"]
    assert [value.name for value in graph.graph.output] == ["probabilities"]
    assert {node.domain for node in graph.graph.node} == {""}, "native operators stand in for the plugin"


def test_the_configuration_of_the_exported_model(export_directory, tmp_path):
    written = deepstream_classifier(export_directory, tmp_path / "n", DeepStreamOptions(batch=4, threshold=0.25))
    keys = keys_of(tmp_path / "n")
    assert keys == written.keys
    assert (keys["batch-size"], keys["infer-dims"], keys["network-type"]) == ("4", "3;32;32", "1")
    assert (keys["network-mode"], keys["classifier-threshold"]) == ("0", "0.25")
    assert keys["output-blob-names"] == "probabilities" and "custom-lib-path" not in keys
    assert (tmp_path / "n" / keys["labelfile-path"]).read_text() == "ant;bee;cat;dog;eel\n"
    assert float(keys["net-scale-factor"]) == pytest.approx(1 / 127.5) and keys["offsets"] == "127.5;127.5;127.5"


def test_labels_keep_to_their_line(copied, tmp_path):
    with_card(copied, class_names=["a;nt", "be\ne", "cat", "dog", "eel"])
    deepstream_classifier(copied, tmp_path / "n")
    assert (tmp_path / "n" / "labels.txt").read_text() == "a,nt;be e;cat;dog;eel\n"
    with_card(copied, class_names=[])
    deepstream_classifier(copied, tmp_path / "none")
    assert (tmp_path / "none" / "labels.txt").read_text() == "class 0;class 1;class 2;class 3;class 4\n"


def test_the_plugin_comes_along_and_may_take_the_place_of_the_function(export_directory, tmp_path):
    (tmp_path / "libp.so").write_bytes(b"library")
    options = DeepStreamOptions(0.5, plugin=tmp_path / "libp.so", strip_functions=True)
    deepstream_classifier(export_directory, tmp_path / "n", options)
    assert (tmp_path / "n" / keys_of(tmp_path / "n")["custom-lib-path"]).read_bytes() == b"library"
    graph = onnx.load(tmp_path / "n" / "model.onnx")
    assert not graph.functions and "TokenSelect" in [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "bf16"}, "nvinfer runs fp32 and fp16, got 'bf16'"),
        ({"batch": 0}, "a batch of 1 or more and a threshold in"),
        ({"threshold": 1.0}, "a batch of 1 or more and a threshold in"),
        ({"strip_functions": True}, "a graph without the function body needs the plugin"),
        ({"plugin": "none.so"}, "--plugin must be the self-registering plugin library, but there is no file"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, words):
    if "plugin" in options:
        options["plugin"] = tmp_path / options["plugin"]
    with pytest.raises(ExportError, match=words):
        DeepStreamOptions(**options)


def test_refusals_write_nothing(copied, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="mine exists already and is not overwritten"):
        deepstream_classifier(copied, tmp_path / "mine")
    with pytest.raises(ExportError, match="holds no filtered ONNX graph in fp16 for 8 tokens"):
        deepstream_classifier(copied, tmp_path / "n", DeepStreamOptions(precision="fp16"))
    with pytest.raises(BudgetError, match="16 patch tokens, got 17"):
        deepstream_classifier(copied, tmp_path / "n", DeepStreamOptions(17))
    monkeypatch.setattr(deepstream, "classifier_graph", lambda graph, scale: classifier_of(graph, 3.0))
    done = CliRunner().invoke(cli, ["deepstream", str(copied), str(tmp_path / "n")])
    assert done.exit_code == 3 and "model.onnx, rewritten for its server, differs" in done.output
    good = (copied / NAME).read_text()
    (copied / NAME).write_text(good.replace('"interpolation": "bicubic"', '"interpolation": "random"'))
    with pytest.raises(DataError, match="interpolation must be one of nearest, bilinear.*got 'random'"):
        deepstream_classifier(copied, tmp_path / "n")
    (copied / NAME).write_text(good)
    (copied / "model.k8.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"model.k8.onnx is not the file that manifest.json describes"):
        deepstream_classifier(copied, tmp_path / "n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def classifier_of(graph, factor):
    """A rewrite that multiplies where nothing is to be multiplied."""
    from tokfilter.export.serving.serving_graph import classifier_graph

    return classifier_graph(graph, np.full(3, factor, np.float32))


@given(CHANNELS, CHANNELS, st.integers(0, 255))
def test_factor_offsets_and_rest_are_the_normalisation(mean, std, pixel):
    split = normalisation_from_card({"mean": mean, "std": std})
    rest = np.ones(3) if split.rest is None else split.rest
    found = split.factor * (pixel - np.array(split.offsets)) * rest
    wanted = (pixel / 255 - np.array(mean)) / np.array(std)
    # Stds that count as one move no pixel by more than half a grey level.
    slack = 1e-5 if split.rest is not None else STD_TOLERANCE
    np.testing.assert_allclose(found, wanted, rtol=slack, atol=1e-6)


@pytest.mark.parametrize(
    "card", [{}, {"mean": [0.5], "std": [0.5]}, {"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, {"mean": "x", "std": "y"}]
)
def test_a_normalisation_of_other_channels_is_refused(card):
    with pytest.raises(DataError, match="preprocessing must have mean and std|for each of three channels"):
        normalisation_from_card(card)


def test_resize_settings_and_the_differences_that_remain():
    assert resize_keys({"crop_mode": "border"})["maintain-aspect-ratio"] == "1"
    assert resize_keys({"crop_mode": "squash", "interpolation": "bilinear"})["scaling-filter"] == "1"
    center = " ".join(differences({"crop_mode": "center", "crop_pct": 0.9}))
    assert "resizes the whole frame" in center and "inner 0.9 of each edge" in center
    assert "borders with its mean colour" in " ".join(differences({"crop_mode": "border"}))
    assert len(differences({"crop_mode": "squash"})) == 1


def test_keys_that_nvinfer_does_not_know_and_values_that_would_be_lost():
    with pytest.raises(ExportError, match="nvinfer has no keys batchsize, onnxfile"):
        text_from_keys({"onnxfile": "x", "batchsize": "1", "gpu-id": "0"}, [])
    with pytest.raises(ExportError, match="reads back differently"):
        text_from_keys({"onnx-file": "a\n b"}, [])
    assert text_from_keys({"gpu-id": "0"}, ["a remark"]) == "# a remark\n[property]\ngpu-id=0\n"


def test_the_command_tells_what_nvinfer_does_otherwise(export_directory, tmp_path):
    done = CliRunner().invoke(cli, ["deepstream", str(export_directory), str(tmp_path / "n"), "--keep", "0.5"])
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'n' / 'config_infer.txt'}  8 tokens\n"
    assert "differs from the model's preprocessing: The model resizes the short edge" in done.stderr
    for message in differences(load_manifest(export_directory).model.preprocessing):
        assert f"# {message}" in (tmp_path / "n" / "config_infer.txt").read_text()
