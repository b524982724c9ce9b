"""Export in int8 and fp8: the gate on top-1, the layers that it keeps in fp32, what the manifest says."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from quantize_images import write_images

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import ExportError, VerificationError
from tokfilter.export import pipeline
from tokfilter.export.onnx_file import load_graph
from tokfilter.export.options import ExportOptions
from tokfilter.export.quantize import quantizer
from tokfilter.export.quantize.calibration import largest_activations
from tokfilter.export.quantize.gate import Gate
from tokfilter.export.quantize.nodes import linears_of, quantized_graph
from tokfilter.vit.bundle import load_bundle


@pytest.fixture
def export(bundle_file, traced_graph, labelled_folder, tmp_path, monkeypatch):
    """Export the small model; the trace is taken from ``traced_graph``, which has opset 18."""

    def run(traced=traced_graph, **options):
        monkeypatch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: traced.clone())
        options = {"precisions": ("int8",), "calibrate": labelled_folder, "max_drop": 60.0, **options}
        return pipeline.export_bundle(bundle_file, tmp_path / "out", ExportOptions(**options))

    return run


@pytest.fixture(scope="module")
def ranges(traced_graph, pools, bundle_file, tmp_path_factory):
    tensors = [linear.activation for linear in linears_of(traced_graph)]
    preprocessing = load_bundle(bundle_file).preprocessing
    scratch = tmp_path_factory.mktemp("ranges")
    return largest_activations(
        traced_graph, tensors, pools.calibration, preprocessing, [16, 4], scratch, lambda _: None
    )


def gate_of(traced_graph, pools, bundle_file, folder, budgets=(16, 8)):
    preprocessing = load_bundle(bundle_file).preprocessing
    return Gate(traced_graph, pools, preprocessing, budgets, 16, folder, lambda _: None)


def test_ranges_are_the_largest_values_over_all_images_and_budgets(traced_graph, pools, bundle_file, ranges, tmp_path):
    """Against the tensors themselves, as further outputs of the graph."""
    from tokfilter.export.onnx_file import cpu_session, save_graph

    graph = traced_graph.clone()
    values = {output.name: output for node in graph.graph for output in node.outputs}
    graph.graph.outputs.extend(values[name] for name in ranges)
    save_graph(graph, tmp_path / "all.onnx")
    session = cpu_session(tmp_path / "all.onnx", "fp32")
    images = np.concatenate(list(pools.calibration.batches(load_bundle(bundle_file).preprocessing, 100)))
    runs = [session.run(list(ranges), {"images": images, "slots": np.zeros(k, np.int32)}) for k in (16, 4)]
    expected = [max(np.abs(run[i]).max() for run in runs) for i in range(len(ranges))]
    assert list(ranges.values()) == pytest.approx(expected, rel=1e-5)
    assert set(ranges) == {linear.activation for linear in linears_of(traced_graph)}


def test_the_gate_finds_no_difference_of_a_graph_from_itself(traced_graph, pools, bundle_file, tmp_path):
    for result in gate_of(traced_graph, pools, bundle_file, tmp_path).results(traced_graph, "fp32"):
        assert (result.difference.lost, result.difference.gained) == (0, 0)
        assert result.same_top1 == 1.0 and result.same_tokens == 1.0 and result.top1 == result.fp32_top1


def test_the_gate_counts_what_another_graph_gets_wrong(traced_graph, pools, bundle_file, tmp_path):
    """A head that always gives class 2: it is right exactly on the images of class 2."""
    wrong = traced_graph.clone()
    name = next(name for name in wrong.graph.initializers if name.endswith("head.bias"))
    bias = np.array([0, 0, 1e6, 0, 0], np.float32)
    wrong.graph.initializers[name].const_value = ir.tensor(bias, name=name)
    share = float((pools.check.classes == 2).mean())
    for result in gate_of(traced_graph, pools, bundle_file, tmp_path).results(wrong, "fp32"):
        assert result.top1 == pytest.approx(share) and result.same_tokens == 1.0
        assert result.difference.drop == pytest.approx(100 * (result.fp32_top1 - share))


def test_an_export_in_int8_has_every_form_and_says_what_was_measured(export, tmp_path):
    manifest = export(precisions=("fp32", "int8"), keeps=(5,))
    assert manifest == load_manifest(tmp_path / "out")
    paths = [entry.path for entry in manifest.files if entry.precision == "int8"]
    assert paths == ["model.int8.onnx", "model.k5.int8.onnx", "full.int8.onnx"]
    for path in paths:
        graph = load_graph(tmp_path / "out" / path).graph
        assert sum(node.op_type == "QuantizeLinear" for node in graph) == 8
        assert all(node.op_type != "DequantizeLinear" or node.inputs[2].const_value is not None for node in graph)
    record = manifest.verification["quantization"]["int8"]
    assert (record["calibration_images"], record["check_images"], record["labelled"]) == (40, 40, True)
    assert [row["tokens"] for row in record["budgets"]] == [16, 11, 8, 5, 4] and record["layers"] == 8
    for row in record["budgets"]:
        assert row["drop"] == pytest.approx(100 * (row["fp32_top1"] - row["top1"])) and row["same_tokens"] == 1.0
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
    assert record["calibration_budgets"] == [16, 11, 8, 5, 4, 1]
    assert record["in_fp32"] == [] and record["damaged"] == [] and record["resolution"] > 1
    assert "kept_fp32" not in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"][0]
    int8 = [check for check in manifest.verification["checks"] if check["path"] in paths]
    assert int8 and all(check["passed"] and check["overlap"] in (None, 1.0) for check in int8)


def test_the_layers_that_cost_most_stay_fp32(export, traced_graph, tmp_path, monkeypatch):
    """A layer whose range is 10,000 times too wide rounds to zero: the search finds it and no other."""
    spoiled = linears_of(traced_graph)[2]
    true = quantizer.largest_activations

    def ranges(*arguments):
        found = true(*arguments)
        return {**found, spoiled.activation: 1e4 * found[spoiled.activation]}

    monkeypatch.setattr(quantizer, "largest_activations", ranges)
    monkeypatch.setattr(quantizer.Quantizer, "_passes", lambda self, results: all(r.same_top1 > 0.9 for r in results))
    manifest = export()
    (kept,) = {json.dumps(entry.kept_fp32) for entry in manifest.files if entry.precision == "int8"}
    assert json.loads(kept)["groups"] == {spoiled.name: [spoiled.node]} and json.loads(kept)["minimal"]
    assert manifest.verification["quantization"]["int8"]["in_fp32"] == [spoiled.name]
    graph = load_graph(tmp_path / "out" / "model.int8.onnx").graph
    (node,) = [node for node in graph if node.name == spoiled.node]
    assert node.inputs[1].is_initializer()


def test_a_drop_that_no_half_of_the_layers_repairs_is_refused(export, tmp_path, monkeypatch):
    monkeypatch.setattr(quantizer.Quantizer, "_passes", lambda self, results: False)
    with pytest.raises(VerificationError) as caught:
        export(max_drop=0.25)
    text = str(caught.value)
    for words in (
        "int8 does not reach --max-drop 0.25; nothing was written",
        "on 40 images (95 % interval",
        "--calibrate",
    ):
        assert words in text
    assert "with 4 layers in fp32 (blocks." in text
    assert not (tmp_path / "out").exists()


def test_without_labels_changes_of_the_class_count(export, tmp_path, labelled_folder):
    write_images(tmp_path / "plain", 40, seed=3)
    manifest = export(check_images=tmp_path / "plain", max_drop=100.0)
    record = manifest.verification["quantization"]["int8"]
    assert record["labelled"] is False and record["calibration_images"] == 80
    for row in record["budgets"]:
        assert row["top1"] is None and row["drop"] == pytest.approx(100 * (1 - row["same_top1"]))


def test_no_verify_measures_nothing_and_says_so(export):
    record = export(verify=False).verification
    assert record["skipped"] == "--no-verify was given" and record["quantization"]["int8"]["budgets"] == []


def test_the_input_in_pixels_is_calibrated_and_compared_too(export):
    manifest = export(input="uint8")
    assert manifest.verification["passed"] and "int8" in manifest.verification["quantization"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calibrate": None}, r"int8 needs images to find the ranges .* add --calibrate"),
        ({"precisions": ("fp16",)}, r"--calibrate and --check-images are for int8 and fp8: add --precision int8"),
        ({"precisions": ("fp8",)}, r"fp8 needs opset 19 or later, got 18: add --opset 19"),
        ({"cuda": True}, r"--cuda fuses graphs in fp32, fp16 and bf16, not in int8"),
        ({"max_drop": -0.1}, r"max_drop must be .* from 0 to 100, got -0.1"),
        ({"max_drop": float("nan")}, r"max_drop must be .* from 0 to 100, got nan"),
    ],
)
def test_options_that_do_not_fit_are_refused(export, options, words, tmp_path):
    with pytest.raises(ExportError, match=words):
        export(**options)
    assert not list(tmp_path.iterdir())


def test_the_error_of_one_layer_is_measured_alone(traced_graph, pools, bundle_file, ranges, tmp_path):
    gate, linears = gate_of(traced_graph, pools, bundle_file, tmp_path), linears_of(traced_graph)
    names = {linear.node for linear in linears}
    wide = {name: 50 * value for name, value in ranges.items()}
    for linear in linears[:2]:
        narrow_error = gate.error(quantized_graph(traced_graph, "int8", ranges, names - {linear.node}), "int8", 8)
        wide_error = gate.error(quantized_graph(traced_graph, "int8", wide, names - {linear.node}), "int8", 8)
        assert 0 < narrow_error < wide_error
    assert gate.error(quantized_graph(traced_graph, "int8", ranges, names), "int8", 8) == 0.0
