"""`tokfilter verify` as typed: the bytes first, then every model of a runtime and precision against torch's outputs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.runtime.verification import verdicts

GRAPHS = ["full.onnx", "model.onnx", "model.k8.onnx"]


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


def run(*arguments):
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)])


def listed_anew(directory, name):
    """Update the checksum of a changed file in the manifest."""
    manifest = load_manifest(directory)
    files = [
        replace(entry_from_file(directory, name, entry.role), runtime=entry.runtime, precision=entry.precision)
        if entry.path == name
        else entry
        for entry in manifest.files
    ]
    save_manifest(directory, replace(manifest, files=files))


def test_every_model_file_runs_at_each_budget_that_torch_computed(export_directory):
    done = run(export_directory, "--threads", "1")
    assert done.exit_code == 0, done.output
    first, *lines = done.stdout.splitlines()
    assert first == "4 files match the manifest"
    assert list(dict.fromkeys(line.split(",")[0] for line in lines)) == GRAPHS
    for batch in (1, 2):
        for k in (4, 8, 11):
            assert f"model.onnx, batch {batch}, {k} tokens: logits and indices match PyTorch's; largest" in done.stdout
        assert f"full.onnx, batch {batch}, 16 tokens: logits match PyTorch's; largest difference" in done.stdout
    assert len(lines) == 2 * (1 + 3 + 1)


def test_json_holds_the_figures(export_directory):
    done = run(export_directory, "--threads", "1", "--batch", "3", "--json")
    found = json.loads(done.stdout)["verdicts"]
    assert [(v["path"], v["batch"], v["tokens"]) for v in found] == [
        ("full.onnx", 3, 16),
        *(("model.onnx", 3, k) for k in (4, 8, 11)),
        ("model.k8.onnx", 3, 8),
    ]
    sums = {entry.path: entry.sha256 for entry in load_manifest(export_directory).files}
    assert all(verdict["sha256"] == sums[verdict["path"]] for verdict in found)
    assert all(verdict["largest_difference"] < verdict["tolerance"] == 1e-4 for verdict in found)
    assert [verdict["same_indices"] for verdict in found] == [None, 1.0, 1.0, 1.0, 1.0]


def test_the_tuned_budget_is_verified_by_its_kept_tokens(copied):
    manifest = load_manifest(copied)
    save_manifest(copied, replace(manifest, choice={"tokens": 5}))
    found = [v for v in verdicts(copied, SessionOptions(threads=1), [1]) if v.path == "model.onnx" and v.tokens == 5]
    assert [(verdict.compared, verdict.largest_difference, verdict.same_indices) for verdict in found] == [
        ("indices", None, 1.0)
    ]


@pytest.mark.parametrize("name", [*GRAPHS, "golden.npz"])
def test_a_changed_byte_in_any_file_is_refused(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[-1] ^= 1
    (copied / name).write_bytes(data)
    done = run(copied)
    assert done.exit_code == 1
    assert f"{name} is not the file that manifest.json describes: its bytes have changed" in done.stderr


@pytest.mark.parametrize("name", GRAPHS)
def test_a_model_that_computes_something_else_fails_with_figures(copied, name):
    graph = onnx.load(copied / name)
    head = next(tensor for tensor in graph.graph.initializer if tensor.dims == [5])  # the bias of the last layer
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + np.float32(1), head.name))
    onnx.save(graph, copied / name)
    listed_anew(copied, name)
    done = run(copied, "--threads", "1")
    assert done.exit_code == 3
    assert f"{name} differs from the golden tensors at a batch of 1" in done.stderr


def test_no_export_directory_or_missing_models(copied, tmp_path):
    done = run(tmp_path)
    assert done.exit_code == 1 and "an export directory's manifest" in done.stderr
    done = run(copied, "--precision", "fp16")
    assert done.exit_code == 1 and "no full onnx model in fp16" in done.stderr and "Export again" in done.stderr
    assert "Choose what is there: --precision fp32." in done.stderr
    done = run(copied, "--runtime", "tensorrt")
    assert done.exit_code == 1 and "Build it from the graphs: `tokfilter engine`." in done.stderr
    (copied / "full.onnx").unlink()
    done = run(copied)
    assert done.exit_code == 1 and "full.onnx is missing, though manifest.json lists it" in done.stderr
    assert "Traceback" not in done.output


def test_damaged_golden_tensors_are_refused(copied):
    (copied / "golden.npz").write_bytes(b"PK\x03\x04 cut short")
    listed_anew(copied, "golden.npz")
    done = run(copied)
    assert done.exit_code == 1 and "golden.npz is damaged" in done.stderr


def test_a_precision_without_cpu_kernels_is_refused_with_the_remedy(copied):
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (bfloat16[b,5] images) => (bfloat16[b,5] logits) '
        "{ logits = MatMul(images, images) }"
    )
    onnx.save(graph, copied / "full.bf16.onnx")
    entry = entry_from_file(copied, "full.bf16.onnx", "full", runtime="onnx", precision="bf16")
    manifest = load_manifest(copied)
    save_manifest(copied, replace(manifest, files=[*manifest.files, entry]))
    done = run(copied, "--precision", "bf16")
    assert done.exit_code == 1 and "no CPU kernels for bf16: choose another --precision or --provider" in done.stderr


def test_a_bundle_is_run_by_pytorch(bundle_file, tmp_path):
    done = run(bundle_file, "--precision", "bf16", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert "model.pt (filtered), batch 2, 8 tokens: logits and indices match PyTorch's" in done.stdout
    assert "files match" not in done.stdout
    (tmp_path / "model.pt").write_bytes(b"PK")
    done = run(tmp_path / "model.pt")
    assert done.exit_code == 1 and "not a bundle" in done.output and "Traceback" not in done.output


def test_pytorch_runs_the_bundle_of_an_export(export_directory, bundle_file):
    found = list(verdicts(export_directory, SessionOptions(runtime="torch", threads=1, bundle=str(bundle_file))))
    assert {verdict.path for verdict in found} == {"model.pt (full)", "model.pt (filtered)"}
    assert all(verdict.largest_difference < 1e-5 for verdict in found)
