"""Graphs for TensorRT 8 in an export directory, as written by `tokfilter export --tensorrt8`."""

import json
import tarfile

import onnx
import pytest
from click.testing import CliRunner

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.cli import cli
from tokfilter.errors import ExportError
from tokfilter.export.options import ExportOptions
from tokfilter.export.serving.edge_bundle.pack import pack


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(bundle_file, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tensorrt8") / "out"
    done = run("export", bundle_file, "-o", directory, "--keep", "0.5", "--tensorrt8", "8.5", "--tensorrt8", "8.6")
    assert done.exit_code == 0, done.output
    return directory


def test_each_version_gets_the_forms_that_its_parser_reads(exported):
    manifest = load_manifest(exported)
    written = {entry.path: entry for entry in manifest.files if entry.runtime == "onnx-tensorrt8"}
    assert sorted(written) == [
        "full.trt85.onnx",
        "full.trt86.onnx",
        "model.k8.plugin.trt85.onnx",
        "model.k8.plugin.trt86.onnx",
        "model.k8.trt85.onnx",
        "model.k8.trt86.onnx",
        "model.plugin.trt85.onnx",
        "model.plugin.trt86.onnx",
        "model.trt86.onnx",
    ]
    for name, entry in written.items():
        model = onnx.load(exported / entry.path)
        assert {item.domain: item.version for item in model.opset_import}[""] == 17
        assert not model.functions
        assert ("TokenSelect" in {node.op_type for node in model.graph.node}) == (".plugin." in name)
        interface = "IPluginV2DynamicExt" if ".plugin." in name else None
        assert entry.target == {"tensorrt": "8.5" if "trt85" in name else "8.6", "plugin_interface": interface}
        assert entry.budget == (8 if ".k8." in name else None)


def test_every_graph_was_compared_with_torch(exported):
    checks = load_manifest(exported).verification["checks"]
    compared = {check["path"] for check in checks if check["passed"]}
    assert {entry.path for entry in load_manifest(exported).files if entry.runtime == "onnx-tensorrt8"} <= compared


def test_other_engines_do_not_take_them(exported):
    manifest = load_manifest(exported)
    assert [entry.path for entry in manifest.entries("full", "onnx")] == ["full.onnx"]
    assert run("verify", exported).exit_code == 0


def test_an_edge_bundle_carries_them(exported, tmp_path):
    bundle = pack(exported, tmp_path / "edge.tar")
    assert "out/model.k8.trt85.onnx" in bundle.files and not bundle.left_out
    with tarfile.open(bundle.path) as tar:
        page = tar.extractfile("edge/README.md").read().decode()
    lines = {line.split("=out/")[1].split()[0]: line for line in page.splitlines() if "trtexec --onnx" in line}
    assert len(lines) == 3 + 9 and not [line for line in lines.values() if "--fp16" in line and "Typed" in line]
    images = "--minShapes=images:1x3x32x32 --optShapes=images:1x3x32x32 --maxShapes=images:8x3x32x32"
    assert lines["model.k8.trt85.onnx"].endswith(f"--saveEngine=model.k8.trt85.plan --fp16 --noTF32 {images}")
    assert lines["model.plugin.trt85.onnx"].endswith(",slots:16 --plugins=build/plugin/libtokfilter_plugin_static.so")
    assert "--stronglyTyped" in lines["model.onnx"]


def test_8_bit_input_is_read_by_8_6_and_refused_for_8_5(bundle_file, tmp_path):
    """The Cast from 8 bits is in the operator table of 8.6 only."""
    arguments = ("export", bundle_file, "--input", "uint8", "--no-verify", "--tensorrt8")
    done = run(*arguments, "8.6", "-o", tmp_path / "six", "--json")
    assert done.exit_code == 0, done.output
    assert "model.trt86.onnx" in {entry["path"] for entry in json.loads(done.stdout)["files"]}
    done = run(*arguments, "8.5", "-o", tmp_path / "five")
    assert done.exit_code == 1 and "TensorRT 8.5 does not read this graph: Cast (normalise/cast)" in done.output
    assert not (tmp_path / "five").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensorrt8": ("8.4",)}, "tensorrt8 must be 8.5 or 8.6, got 8.4"),
        ({"tensorrt8": ("8.6",), "precisions": ("fp16",)}, "graphs for TensorRT 8 are fp32.* add --precision fp32"),
    ],
)
def test_options_that_cannot_be_served_are_refused(options, words):
    with pytest.raises(ExportError, match=words):
        ExportOptions(**options)
