"""A graph of a few bytes that asks for gigabytes gets an error and not the memory."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import DataError, EngineError
from tokfilter.runtime.memory_bound import bounded_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux only")
GIGABYTE = 1 << 30


def limit():
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)


def test_more_than_the_bound_is_refused_and_the_limit_taken_back(tmp_path):
    before = limit()
    with (
        pytest.raises(EngineError, match=r"takes more than \d+\.\d GiB of memory.*1 image at once"),
        bounded_memory(tmp_path),
    ):
        np.empty(64 * GIGABYTE, np.uint8)
    assert limit() == before
    with bounded_memory(tmp_path):
        assert limit() != before
        assert np.ones(GIGABYTE // 8, np.uint8).all()
    assert limit() == before


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(DataError, match="^no such class$"), bounded_memory(tmp_path):
        raise DataError("no such class")
    with pytest.raises(ValueError, match="x"), bounded_memory(tmp_path):
        raise ValueError("x")


def test_files_and_images_raise_the_bound(tmp_path):
    """By eight copies of a file with its weights, and half a gigabyte for an image."""
    bounds = []
    for size, images in ((0, 1), (GIGABYTE, 1), (0, 3)):
        with (tmp_path / "m.onnx.data").open("wb") as file:
            file.truncate(size)
        (tmp_path / "m.onnx").touch()
        for source in (tmp_path, tmp_path / "m.onnx"):
            with bounded_memory(source, images):
                bounds.append(limit()[0])
    assert bounds[2] - bounds[0] == pytest.approx(8 * GIGABYTE, rel=0.05)
    assert bounds[4] - bounds[0] == pytest.approx(GIGABYTE, rel=0.2)
    assert bounds[::2] == pytest.approx(bounds[1::2], rel=0.05)


@pytest.fixture(scope="module")
def hostile(export_directory, tmp_path_factory):
    """An export whose graphs fill a tensor of 16 GB before they answer; every checksum is right."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'tokfilter[export]'")
    from onnx import TensorProto, helper

    directory = tmp_path_factory.mktemp("hostile") / "out"
    shutil.copytree(export_directory, directory)
    manifest, entries = load_manifest(directory), []
    for entry in manifest.files:
        if entry.runtime == "onnx":
            model = onnx.load(directory / entry.path)
            (last,) = [node for node in model.graph.node if "logits" in node.output]
            last.output[list(last.output).index("logits")] = "answer"
            model.graph.initializer.append(helper.make_tensor("sides", TensorProto.INT64, [2], [4, 10**9]))
            model.graph.node.extend(
                [
                    helper.make_node("ConstantOfShape", ["sides"], ["filled"]),
                    helper.make_node("ReduceSum", ["filled"], ["total"], keepdims=0),
                    helper.make_node("Add", ["answer", "total"], ["logits"]),
                ]
            )
            onnx.save(model, directory / entry.path)
            written = entry_from_file(directory, entry.path, entry.role, runtime="onnx", precision=entry.precision)
            entry = replace(written, budget=entry.budget)
        entries.append(entry)
    save_manifest(directory, replace(manifest, files=entries))
    return directory


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("verb", ["verify", "predict"])
def test_a_graph_that_asks_for_gigabytes_is_refused(hostile, tmp_path, monkeypatch, verb, runtime):
    from PIL import Image

    if runtime == "openvino":
        from openvino_exports import NEEDED

        pytest.importorskip("openvino", reason=NEEDED)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    images = [str(tmp_path / "a.png")] if verb == "predict" else []
    done = CliRunner().invoke(cli, [verb, str(hostile), *images, "--runtime", runtime])
    assert done.exit_code == 1, done.output
    assert "takes more than" in done.output and "Traceback" not in done.output
