"""`export --precision int8`, and the commands that run what it wrote."""

import shutil

import pytest
from click.testing import CliRunner
from quantize_images import CLASSES, write_images

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.cli import cli
from tokfilter.export import pipeline


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(CLASSES):
        write_images(folder / name, 16, seed)
    (folder / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n")
    return folder


@pytest.fixture(scope="module")
def exported(bundle_file, traced_graph, images, tmp_path_factory):
    """(what the command printed, directory)"""
    directory = tmp_path_factory.mktemp("int8") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: traced_graph.clone())
        precisions = ["--precision", "fp32", "--precision", "int8"]
        result = run("export", bundle_file, "-o", directory, *precisions, "--calibrate", images, "--max-drop", "50")
    assert result.exit_code == 0, result.output
    return result, directory


def test_the_drop_per_budget_and_what_the_images_tell_are_printed(exported):
    printed = exported[0].stdout
    for words in ("int8  16 tokens: top-1 ", " points lost (", "kept tokens 100.0 % equal", "model.int8.onnx"):
        assert words in printed
    assert "1 damaged images were left out, first cat/torn.png" in printed


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_verify_compares_the_int8_files_with_the_golden_tensors(exported, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'tokfilter[openvino]'")
    result = run("verify", exported[1], "--runtime", runtime, "--precision", "int8")
    if runtime == "openvino" and "is not possible on this CPU" in result.output:
        pytest.skip("OpenVINO lists no INT8 for this CPU: one with AVX2 has it")
    assert result.exit_code == 0, result.output
    assert "model.int8.onnx" in result.output and "full.int8.onnx" in result.output


def test_a_changed_scale_is_found_by_verify(exported, tmp_path):
    """One activation's scale a hundred times too small."""
    from dataclasses import replace

    import numpy as np
    import onnx_ir as ir

    from tokfilter.artifacts.files import sha256
    from tokfilter.artifacts.manifest import save_manifest
    from tokfilter.export.onnx_file import load_graph, save_graph

    directory = tmp_path / "out"
    shutil.copytree(exported[1], directory)
    path = directory / "model.int8.onnx"
    graph = load_graph(path)
    quantize = [node for node in graph.graph if node.op_type == "QuantizeLinear"][2]
    scale = quantize.inputs[1]
    scale.const_value = ir.tensor(np.float32(0.01) * scale.const_value.numpy(), name=scale.name)
    save_graph(graph, path)
    manifest = load_manifest(directory)
    files = [
        replace(entry, sha256=sha256(path), bytes=path.stat().st_size) if entry.path == path.name else entry
        for entry in manifest.files
    ]
    save_manifest(directory, replace(manifest, files=files))
    result = run("verify", directory, "--precision", "int8")
    assert result.exit_code == 3 and "model.int8.onnx differs from the golden tensors" in result.output


def test_fp8_is_not_offered_on_a_cpu(exported, tmp_path):
    from dataclasses import replace

    from tokfilter.artifacts.manifest import save_manifest

    directory = tmp_path / "out"
    shutil.copytree(exported[1], directory)
    manifest = load_manifest(directory)
    files = [replace(e, precision="fp8") if e.precision == "int8" else e for e in manifest.files]
    save_manifest(directory, replace(manifest, files=files))
    result = run("verify", directory, "--precision", "fp8")
    assert result.exit_code == 1 and "fp8 is for TensorRT 10 or later and TensorRT-RTX" in result.output


def test_int8_without_images_and_a_wrong_limit_are_refused(bundle_file, tmp_path):
    result = run("export", bundle_file, "-o", tmp_path / "out", "--precision", "int8")
    assert result.exit_code == 1 and "add --calibrate with a folder of images" in result.output
    result = run("export", bundle_file, "-o", tmp_path / "out", "--precision", "int8", "--max-drop", "101")
    assert result.exit_code == 1 and "from 0 to 100, got 101" in result.output
    assert not list(tmp_path.iterdir())
