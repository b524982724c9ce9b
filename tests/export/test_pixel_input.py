"""Exports that take pixels: the same bits as floats normalised outside, in each form and precision."""

import asyncio
import io
import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image
from small_models import small_bundle

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.artifacts.pixels import in_form, normalise
from tokfilter.errors import DataError, ExportError
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots
from tokfilter.export.onnx_file import load_graph
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.pixel_input import with_pixel_input, without_pixel_input
from tokfilter.export.precision import cast_precision
from tokfilter.export.serving.deepstream import deepstream_classifier
from tokfilter.export.serving.triton import triton_repository
from tokfilter.runtime.predict import predict
from tokfilter.runtime.service.body import input_from_body
from tokfilter.runtime.service.engine import engine_from_directory
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.verification import verdicts
from tokfilter.vit.bundle import save_bundle

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
FORMS = ["uint8", "uint8-nhwc"]


def outputs(graph, images, k=None):
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"images": images} | ({} if k is None else {"slots": np.zeros(k, np.int32)})
    return session.run(None, feeds)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pixels_give_the_bits_of_floats_normalised_outside(traced_graph, form, precision):
    floats = cast_precision(traced_graph, precision)
    pixels = with_pixel_input(floats, form, MEAN, STD)
    images = normalise(PIXELS, MEAN, STD)
    given = in_form(images, form, MEAN, STD)
    for k in (1, 7, 16):
        for graph, other, budget in (
            (floats, pixels, k),
            (fixed_graph_from_slots(floats, k), fixed_graph_from_slots(pixels, k), None),
        ):
            for batch in (1, 5):
                expected, found = outputs(graph, images[:batch], budget), outputs(other, given[:batch], budget)
                for left, right in zip(expected, found, strict=True):
                    np.testing.assert_array_equal(left, right)
    full = outputs(full_graph_from_slots(floats, 16), images), outputs(full_graph_from_slots(pixels, 16), given)
    np.testing.assert_array_equal(full[0][0], full[1][0])


@pytest.mark.parametrize("form", FORMS)
def test_the_float_input_can_be_taken_back(traced_graph, form):
    pixels = with_pixel_input(traced_graph, form, MEAN, STD)
    assert pixels.graph.inputs[0].dtype == ir.DataType.UINT8
    assert [value.name for value in pixels.graph.inputs] == ["images", "slots"]
    back = without_pixel_input(pixels)
    assert [str(value.shape) for value in back.graph.inputs] == [str(v.shape) for v in traced_graph.graph.inputs]
    assert not any(node.name.startswith("normalise/") for node in back.graph)
    images = normalise(PIXELS, MEAN, STD)
    for left, right in zip(outputs(traced_graph, images, 7), outputs(back, images, 7), strict=True):
        np.testing.assert_array_equal(left, right)
    assert len(without_pixel_input(traced_graph).graph) == len(traced_graph.graph)


def test_a_graph_without_such_an_input_is_refused(traced_graph):
    twice = with_pixel_input(traced_graph, "uint8", MEAN, STD)
    with pytest.raises(ExportError, match=r"needs a graph with an input images \[B, 3, H, W\] of float32"):
        with_pixel_input(twice, "uint8", MEAN, STD)
    with pytest.raises(ExportError, match="input must be one of float, uint8, uint8-nhwc, got 'uint16'"):
        ExportOptions(input="uint16")


@pytest.fixture(scope="module", params=FORMS)
def exported(request, tmp_path_factory):
    """An export in ``form`` whose bundle's golden images are no whole pixels."""
    folder = tmp_path_factory.mktemp("pixels")
    bundle = replace(small_bundle(), preprocessing=Preprocessing((3, 32, 32), MEAN, STD))
    save_bundle(bundle, folder / "model.pt")
    options = ExportOptions(keeps=(8,), precisions=("fp32", "fp16"), input=request.param)
    export_bundle(folder / "model.pt", folder / "out", options)
    export_bundle(folder / "model.pt", folder / "floats")
    return request.param, folder


def test_manifest_and_metadata_name_the_form(exported):
    form, folder = exported
    manifest = load_manifest(folder / "out")
    assert manifest.model.input == form and manifest.verification["passed"]
    metadata = load_graph(folder / "out" / "model.onnx").metadata_props
    assert metadata["tokfilter.input"] == form
    assert "input" not in json.loads((folder / "floats" / "manifest.json").read_text())["model"]
    assert load_manifest(folder / "floats").model.input == "float"


def test_every_session_is_verified_on_whole_pixels(exported):
    _, folder = exported
    golden = golden_of(folder / "out", load_manifest(folder / "out"))
    assert golden.images.dtype == np.uint8
    for precision in ("fp32", "fp16"):
        found = list(verdicts(folder / "out", SessionOptions(precision=precision)))
        assert {verdict.path.split(".")[0] for verdict in found} == {"model", "full"}
        assert all(verdict.same_top1 in (1, None) for verdict in found)
    with pytest.raises(DataError, match="the golden images of this export are uint8, the engine takes float32"):
        golden.tiled(2, np.float32)


def test_a_photo_is_classified_as_by_the_float_export(exported):
    _, folder = exported
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    found, expected = predict(folder / "out", photo, 8), predict(folder / "floats", photo, 8)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_the_wrong_type_is_an_error_that_says_what_to_do(exported):
    form, folder = exported
    shape = (2, 3, 32, 32) if form == "uint8" else (2, 32, 32, 3)
    with open_session(folder / "out") as session:
        with pytest.raises(DataError, match=r"got float32: this model normalises its input itself, so give it pixels"):
            session.run(np.zeros(shape, np.float32))
        with pytest.raises(DataError, match=r"images must be \[.*\] uint8, got \[2, 3, 31, 32\] uint8"):
            session.run(np.zeros((2, 3, 31, 32), np.uint8))
    with open_session(folder / "floats") as session, pytest.raises(DataError, match="or export with --input uint8"):
        session.run(np.zeros((2, 3, 32, 32), np.uint8))


def test_a_manifest_with_an_unknown_form_is_refused(exported, tmp_path):
    _, folder = exported
    content = json.loads((folder / "out" / "manifest.json").read_text())
    content["model"]["input"] = "uint12"
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"model\.input must be one of float, uint8, uint8-nhwc .*got 'uint12'"):
        load_manifest(tmp_path)


def test_images_of_the_users_folder_are_compared_too(exported, tmp_path):
    form, folder = exported
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    options = ExportOptions(input=form, verify_images=tmp_path)
    manifest = export_bundle(folder / "model.pt", folder / "with-images", options)
    checked = [check for check in manifest.verification["checks"] if check["photos"] == str(tmp_path)]
    assert len(checked) == 2 and all(check["passed"] for check in checked)


def test_triton_takes_pixels_and_deepstream_normalises_frames_itself(exported, tmp_path):
    form, folder = exported
    repository = triton_repository(folder / "out", tmp_path / "triton")
    config = repository.models["filtered_fp32_onnx"]
    assert config.input[0].data_type == config.model_warmup[0].inputs["images"].data_type
    assert "TYPE_UINT8" in str(config)
    assert list(config.input[0].dims) == ([3, 32, 32] if form == "uint8" else [32, 32, 3])
    page = (tmp_path / "triton" / "README.md").read_text()
    assert "UINT8, RGB, resized by the client and normalised by the model" in page
    deepstream_classifier(folder / "out", tmp_path / "deepstream")
    (graph,) = (tmp_path / "deepstream").glob("*.onnx")
    assert load_graph(graph).graph.inputs[0].dtype == ir.DataType.FLOAT


def test_the_service_answers_as_with_the_float_export(exported):
    _, folder = exported
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(file, format="PNG")
    answers = []
    for directory in (folder / "out", folder / "floats"):
        with engine_from_directory(directory, SessionOptions(threads=1)) as engine:
            image = input_from_body(file.getvalue(), engine.preprocess, 10**6)
            answers.append(asyncio.run(engine.outputs([image], 8))[0])
    np.testing.assert_array_equal(*answers)
