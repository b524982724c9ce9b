"""The gate lets right graphs through and stops wrong ones; the export around it keeps what it promises."""

import json
import re
import sys

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.manifest import GOLDEN_FILE, Entry, load_manifest
from tokfilter.errors import BudgetError, DataError, ExportError, MissingDependencyError, VerificationError
from tokfilter.export import pipeline
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, select_node
from tokfilter.export.onnx_file import load_graph, save_graph
from tokfilter.export.options import ExportOptions, range_from_text
from tokfilter.export.precision import cast_precision
from tokfilter.export.reference import Reference, golden_image_set, image_set_from_folder
from tokfilter.export.verify import budgets_to_check, check_graph, report_from_checks, require_passed
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.macs import macs

PATCHES = 16
BUDGETS = [1, 4, 8, 12, 16]


@pytest.fixture(scope="module")
def reference(bundle_file):
    bundle = load_bundle(bundle_file)
    found = Reference(model_from_bundle(bundle))
    found.trust(bundle, golden_image_set(bundle))
    return found


@pytest.fixture(scope="module")
def golden(bundle_file):
    return golden_image_set(load_bundle(bundle_file))


def checks_of(graph, tmp_path, reference, golden, **details):
    fields = {"role": "filtered", "runtime": "onnx", "precision": "fp32"} | details
    save_graph(graph, tmp_path / "model.onnx")
    entry = Entry(path="model.onnx", sha256="", bytes=0, **fields)
    return check_graph(tmp_path, entry, reference, golden, [], BUDGETS)


def test_right_graphs_pass_at_two_batches_and_five_budgets(traced_graph, tmp_path, reference, golden):
    checks = checks_of(traced_graph.clone(), tmp_path, reference, golden)
    assert {(check.batch, check.budget) for check in checks} == {(b, k) for b in (1, 3) for k in BUDGETS}
    assert all(check.passed and check.relative < 1e-5 and check.overlap == 1 for check in checks)
    require_passed(checks)
    fixed = checks_of(fixed_graph_from_slots(traced_graph, 5), tmp_path, reference, golden, budget=5)
    full = checks_of(full_graph_from_slots(traced_graph, PATCHES), tmp_path, reference, golden, role="full")
    assert [(c.batch, c.budget, c.overlap) for c in fixed] == [(1, 5, 1.0), (3, 5, 1.0)]
    assert [(c.batch, c.budget, c.overlap) for c in full] == [(1, None, None), (3, None, None)]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precisions_pass_within_their_tolerance_and_not_within_fp32s(
    traced_graph, tmp_path, reference, golden, precision
):
    graph = cast_precision(traced_graph, precision)
    require_passed(checks_of(graph.clone(), tmp_path, reference, golden, precision=precision))
    if precision == "fp16":  # ONNX Runtime has no bf16 kernels to hold it to fp32's tolerance
        checks = checks_of(graph, tmp_path, reference, golden, precision="fp32")
        with pytest.raises(VerificationError, match=r"checks failed; nothing was written. Worst: model.onnx"):
            require_passed(checks)


def changed_weight(graph, ending, factor):
    name = next(name for name in graph.graph.initializers if name.endswith(ending))
    value = graph.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    return graph


def test_a_wrong_weight_is_stopped_and_the_worst_image_named(traced_graph, tmp_path, reference, golden):
    checks = checks_of(changed_weight(traced_graph.clone(), "head.weight", 1.01), tmp_path, reference, golden)
    with pytest.raises(VerificationError, match=r"golden image \d: relative error .* is above 0.0001"):
        require_passed(checks)
    assert not report_from_checks(checks)["passed"]


def test_a_wrong_choice_is_stopped_and_the_token_named(traced_graph, tmp_path, reference, golden):
    graph = changed_weight(traced_graph.clone(), "patch_drop.scorer.norm.weight", -1)
    with pytest.raises(VerificationError, match=r"patch token \d+: keeps other tokens whose scores are"):
        require_passed(checks_of(graph, tmp_path, reference, golden))


def test_right_logits_on_a_forgiven_choice_pass_and_wrong_ones_do_not(reference, golden):
    """Torch is run on the very tokens that the graph kept."""
    model, images = reference.model, golden.images
    with torch.inference_mode():
        expected = model(images, 5).numpy()
        kept = model.last.indices.numpy()
    np.testing.assert_allclose(reference.logits_on(images, [kept])[0], expected, rtol=1e-6, atol=1e-7)
    other = np.tile(np.arange(5, dtype=np.int32), (len(images), 1))
    assert np.abs(reference.logits_on(images, [other])[0] - expected).max() > 1e-4


def test_other_inputs_or_outputs_are_stopped(traced_graph, tmp_path, reference, golden):
    graph = traced_graph.clone()
    graph.graph.inputs[1].name = "budget"
    with pytest.raises(VerificationError, match=r"inputs and outputs are \['images', 'budget'\]"):
        require_passed(checks_of(graph, tmp_path, reference, golden))


def test_golden_outputs_of_the_bundle_are_not_computed_again(bundle_file, golden):
    bundle = load_bundle(bundle_file)
    reference = Reference(model_from_bundle(bundle))
    bundle.golden.logits[8].add_(1)
    reference.trust(bundle, golden)
    np.testing.assert_array_equal(reference.expected(golden, 8).logits, bundle.golden.logits[8].numpy())


@pytest.mark.parametrize(
    ("golden_budgets", "default", "patches", "expected"),
    [
        ([4, 8, 11], 8, 16, [1, 4, 8, 11, 16]),
        ([], 8, 16, [1, 4, 8, 12, 16]),
        ([], 1, 2, [1, 2]),
        ([2], 2, 3, [1, 2, 3]),
    ],
)
def test_five_budgets_where_the_model_has_them(golden_budgets, default, patches, expected):
    assert budgets_to_check(golden_budgets, default, patches) == expected


def test_every_image_of_a_folder_is_compared(traced_graph, bundle_file, tmp_path, reference, golden):
    folder = tmp_path / "images"
    (folder / "cats").mkdir(parents=True)
    for index, (size, mode) in enumerate([((40, 32), "RGB"), ((32, 50), "L"), ((1, 1), "RGB"), ((64, 64), "RGBA")]):
        noise = np.random.default_rng(index).integers(0, 255, (*size, 4), dtype=np.uint8)
        Image.fromarray(noise, "RGBA").convert(mode).save(folder / "cats" / f"{index}.png")
    (folder / "notes.txt").write_text("no image")
    image_set = image_set_from_folder(folder, load_bundle(bundle_file).preprocessing)
    assert image_set.images.shape == (4, 3, 32, 32)
    assert image_set.labels == ("cats/0.png", "cats/1.png", "cats/2.png", "cats/3.png")
    save_graph(traced_graph.clone(), tmp_path / "model.onnx")
    entry = Entry(path="model.onnx", role="filtered", sha256="", bytes=0, runtime="onnx", precision="fp32")
    checks = check_graph(tmp_path, entry, reference, golden, [image_set], [8])
    assert (checks[-1].images, checks[-1].budget, checks[-1].passed) == (8, 8, True)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n broken", b""])
def test_an_image_that_is_none_is_named(bundle_file, tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    preprocessing = load_bundle(bundle_file).preprocessing
    problem = r"bad.png (is not an image of a known format|could not be read)"
    with pytest.raises(DataError, match=f"holds no image that can be read: .*{problem}"):
        image_set_from_folder(tmp_path, preprocessing)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "good.png")
    image_set = image_set_from_folder(tmp_path, preprocessing)
    assert image_set.labels == ("good.png",) and len(image_set.images) == 1
    assert len(image_set.damaged) == 1 and re.search(problem, image_set.damaged[0])


def test_a_folder_without_images_and_no_folder_are_refused(bundle_file, tmp_path):
    preprocessing = load_bundle(bundle_file).preprocessing
    with pytest.raises(DataError, match=r"holds none of .bmp, .jpeg"):
        image_set_from_folder(tmp_path, preprocessing)
    with pytest.raises(DataError, match=r"there is none at"):
        image_set_from_folder(tmp_path / "nowhere", preprocessing)


def test_the_directory_and_its_manifest(export_directory, bundle_file, bundle):
    manifest = load_manifest(export_directory)
    assert {path.name for path in export_directory.iterdir()} == {"manifest.json", *(e.path for e in manifest.files)}
    for entry in manifest.files:
        check_file(export_directory, entry)
    assert manifest.source == {"name": "model.pt", "sha256": sha256(bundle_file)}
    assert manifest.verification["passed"]
    assert {check["path"] for check in manifest.verification["checks"]} == {"model.onnx", "model.k8.onnx", "full.onnx"}
    assert {"torch", "timm", "onnx", "onnxruntime", "tokfilter"} <= manifest.versions.keys()
    model = model_from_bundle(bundle)
    assert manifest.model.macs["full"] == macs(model)
    assert manifest.model.macs["8"] == macs(model, 8)
    golden = np.load(export_directory / GOLDEN_FILE)
    np.testing.assert_array_equal(golden["logits_8"], bundle.golden.logits[8].numpy())
    assert golden["indices_8"].dtype == np.int32


def test_a_graph_alone_tells_how_to_use_it(export_directory, bundle):
    metadata = load_graph(export_directory / "model.k8.onnx").metadata_props
    assert json.loads(metadata["tokfilter.class_names"]) == bundle.class_names
    assert json.loads(metadata["tokfilter.preprocessing"])["input_size"] == [3, 32, 32]
    assert [metadata[f"tokfilter.{name}"] for name in ("patches", "prefix_tokens", "keep")] == ["16", "1", "8"]


@pytest.fixture
def quick(monkeypatch, traced_graph):
    """Exports of the small model without tracing it again."""
    monkeypatch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: traced_graph.clone())


def test_every_graph_for_one_budget_has_golden_tensors_to_compare_its_engines_with(
    quick, bundle_file, bundle, tmp_path
):
    pipeline.export_bundle(bundle_file, tmp_path / "out", ExportOptions(keeps=(3, 16, 0.5), verify=False))
    golden = np.load(tmp_path / "out" / GOLDEN_FILE)
    assert sorted(name for name in golden if name.startswith("logits")) == [f"logits_{k}" for k in (11, 3, 4, 8)]
    with torch.inference_mode():
        model = model_from_bundle(bundle)
        np.testing.assert_allclose(golden["logits_3"], model(bundle.golden.images, 3).numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(golden["indices_3"], model.last.indices.numpy())
    np.testing.assert_array_equal(golden["logits_8"], bundle.golden.logits[8].numpy())


def test_a_failed_verification_writes_nothing(quick, monkeypatch, bundle_file, tmp_path, traced_graph):
    pipeline.export_bundle(bundle_file, tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    wrong = changed_weight(traced_graph.clone(), "head.weight", 1.01)
    monkeypatch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: wrong.clone())
    with pytest.raises(VerificationError):
        pipeline.export_bundle(bundle_file, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    unchecked = pipeline.export_bundle(bundle_file, tmp_path / "out", ExportOptions(verify=False))
    assert unchecked.verification == {"skipped": "--no-verify was given"}


def test_without_tensorrt_the_graphs_are_kept(quick, monkeypatch, bundle_file, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    options = ExportOptions(trt=True, verify=False)
    with pytest.raises(MissingDependencyError, match=r"package tensorrt.*The graphs are written to .*out") as caught:
        pipeline.export_bundle(bundle_file, tmp_path / "out", options)
    assert caught.value.exit_code == 4
    paths = [entry.path for entry in load_manifest(tmp_path / "out").files]
    assert paths == ["model.onnx", "full.onnx", "model.plugin.onnx", "golden.npz"]


def test_rtx_engines_are_listed_with_their_ranges(quick, bundle_file, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'tokfilter[rtx]'")
    options = ExportOptions(keeps=(5,), rtx=True, verify=False, precisions=("fp16",), batch_range=(1, 2, 4))
    manifest = pipeline.export_bundle(bundle_file, tmp_path / "out", options)
    engines = {entry.path: entry for entry in manifest.files if entry.runtime == "tensorrt-rtx"}
    assert set(engines) == {"model.fp16.rtx.plan", "model.k5.fp16.rtx.plan", "full.fp16.rtx.plan"}
    assert engines["model.fp16.rtx.plan"].budget_range == (1, 8, 16)
    assert engines["model.k5.fp16.rtx.plan"].budget == 5
    assert {entry.batch_range for entry in engines.values()} == {(1, 2, 4)}
    for entry in load_manifest(tmp_path / "out").files:
        check_file(tmp_path / "out", entry)


def test_stripped_graphs_are_verified_before_they_are_stripped(quick, bundle_file, tmp_path):
    manifest = pipeline.export_bundle(bundle_file, tmp_path / "out", ExportOptions(strip_functions=True))
    assert manifest.verification["passed"]
    (stripped,) = manifest.entries("filtered", "onnx-plugin")
    assert stripped.path == "model.plugin.onnx"
    assert stripped.path in {check["path"] for check in manifest.verification["checks"]}
    graph = load_graph(tmp_path / "out" / stripped.path)
    assert not graph.functions
    assert select_node(graph)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"opset": 17}, ExportError, "opset must be a version from 18"),
        ({"precisions": ("fp4",)}, ExportError, "precision must be one of fp32, fp16, bf16, int8, fp8, got fp4"),
        ({"batch_range": (0, 1, 2)}, BudgetError, "batch range must be 1 <= min"),
        ({"batch_range": (4, 2, 8)}, BudgetError, "got 4:2:8"),
        ({"batch_range": (1, 8, 10**10)}, BudgetError, "must end at 65536 images or before, got 10000000000"),
        ({"budget_range": (1, 8, 17)}, BudgetError, "max <= 16, this model's patch tokens; got 1:8:17"),
        ({"keeps": (17,)}, BudgetError, "between 1 and this model's 16 patch tokens, got 17"),
        ({"keeps": (1.5,)}, BudgetError, "got 1.5"),
        ({"keeps": (float("nan"),)}, BudgetError, "got nan"),
    ],
)
def test_wrong_wishes_are_refused_before_any_work(bundle_file, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        pipeline.export_bundle(bundle_file, tmp_path / "out", ExportOptions(**options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "-1", "1:2:3:4", "1.5", "9" * 5000, "1:2:\u0663"])
def test_ranges_as_typed(text):
    assert range_from_text("1:8:64") == (1, 8, 64)
    assert range_from_text("4") == (4, 4, 4)
    with pytest.raises(BudgetError, match="min:opt:max"):
        range_from_text(text)
