"""Model repositories for Triton: what they hold, what they refuse. test_triton_server.py runs one in a real server."""

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import EngineError, ExportError, MissingDependencyError
from tokfilter.export.serving import triton
from tokfilter.export.serving.serving_graph import batched_slots_graph, outputs_of
from tokfilter.export.serving.triton import triton_repository
from tokfilter.export.serving.triton_config import TritonOptions, config_from_text

PLUGIN = "libtokfilter_plugin_static.so"


@pytest.fixture(scope="module")
def written(export_directory, tmp_path_factory):
    target = tmp_path_factory.mktemp("triton") / "repository"
    return triton_repository(export_directory, target, full=True), target


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


def add_file(directory, name, role="filtered", **details):
    """A file of the export that is listed; what a plan holds is TensorRT's business."""
    (directory / name).write_bytes(f"bytes of {name}".encode())
    entry = entry_from_file(directory, name, role, **{"precision": "fp32", "runtime": "tensorrt", **details})
    manifest = load_manifest(directory)
    save_manifest(directory, replace(manifest, files=[*manifest.files, entry]))


def add_plan(directory, name="model.plan", plugin="libtokfilter_plugin.so", **details):
    target = {"version": "10.13", "gpu": "Orin", "plugin": plugin, **details.pop("target", {})}
    add_file(directory, name, **{"batch_range": (1, 4, 16), "target": target, **details})


def config_of(target, name):
    return config_from_text((target / "models" / name / "config.pbtxt").read_text())


def test_every_graph_becomes_a_model_with_its_files(written, export_directory):
    repository, target = written
    assert list(repository.models) == ["filtered_fp32_onnx", "filtered_k8_fp32_onnx", "full_fp32_onnx"]
    assert sorted(path.name for path in (target / "models").iterdir()) == sorted(repository.models)
    for name, config in repository.models.items():
        assert config == config_of(target, name) and config.name == name
        assert (target / "models" / name / "labels.txt").read_text() == "ant\nbee\ncat\ndog\neel\n"
    for name, graph in (("filtered_k8_fp32_onnx", "model.k8.onnx"), ("full_fp32_onnx", "full.onnx")):
        copy = target / "models" / name / "1" / "model.onnx"
        assert copy.read_bytes() == (export_directory / graph).read_bytes()
    assert not (target / "plugins").exists() and repository.left_out == {}


def test_a_graph_with_a_free_budget_is_batched_by_equal_budgets(written):
    config = config_of(written[1], "filtered_fp32_onnx")
    assert (config.backend, config.platform, config.max_batch_size) == ("onnxruntime", "onnxruntime_onnx", 32)
    assert [(t.name, list(t.dims)) for t in config.input] == [("images", [3, 32, 32]), ("slots", [-1])]
    assert [(t.name, list(t.dims)) for t in config.output] == [("logits", [5]), ("indices", [-1])]
    assert not any(tensor.allow_ragged_batch for tensor in config.input)  # or budgets would be joined
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 256
    assert list(config.model_warmup[0].inputs["slots"].dims) == [8]


def test_the_batched_graph_gives_what_torch_gave(written, export_directory):
    golden = golden_of(export_directory, load_manifest(export_directory))
    path = written[1] / "models" / "filtered_fp32_onnx" / "1" / "model.onnx"
    for k, logits in golden.logits.items():
        for rows in (1, 3):
            feeds = {"images": golden.images[:rows], "slots": np.full((rows, k), 7, np.int32)}
            found = outputs_of(path, "fp32", feeds)
            np.testing.assert_allclose(found["logits"], logits[:rows], atol=1e-4)
            np.testing.assert_array_equal(found["indices"], golden.expected_indices(k)[:rows])


def test_options_reach_the_configuration(export_directory, tmp_path):
    options = TritonOptions(max_batch=5, delay_us=0, queue=7, instances=3)
    config = triton_repository(export_directory, tmp_path / "r", options).models["filtered_k8_fp32_onnx"]
    assert (config.max_batch_size, config.instance_group[0].count) == (5, 3)
    assert config.HasField("dynamic_batching") and config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 7
    for wrong in ({"max_batch": 0}, {"instances": 0}, {"delay_us": -1}, {"queue": -1}):
        with pytest.raises(ExportError, match="batch and instances must be 1 or more, delay and queue 0 or more"):
            TritonOptions(**wrong)


def test_plans_take_their_profile_their_batches_and_their_plugin(copied, tmp_path):
    add_plan(copied, "model.k8.plan", budget=8)
    add_plan(copied, budget_range=(1, 8, 16))
    (tmp_path / PLUGIN).write_bytes(b"library")
    repository = triton_repository(copied, tmp_path / "r", plugin=tmp_path / PLUGIN)
    fixed, free = (repository.models[name] for name in ("filtered_k8_fp32_tensorrt", "filtered_fp32_tensorrt"))
    assert (fixed.platform, fixed.max_batch_size, list(fixed.instance_group[0].profile)) == ("tensorrt_plan", 16, ["0"])
    assert list(fixed.dynamic_batching.preferred_batch_size) == [4, 16]
    assert list(fixed.output[1].dims) == [8]
    # Triton would join the slots of two requests into a longer budget: such a plan gets whole batches from its clients.
    assert (free.max_batch_size, free.HasField("dynamic_batching")) == (0, False)
    assert [list(tensor.dims) for tensor in free.input] == [[-1, 3, 32, 32], [-1]]
    assert list(free.model_warmup[0].inputs["images"].dims) == [1, 3, 32, 32]
    assert (tmp_path / "r" / "models" / fixed.name / "1" / "model.plan").read_bytes() == b"bytes of model.k8.plan"
    assert (tmp_path / "r" / "plugins" / PLUGIN).read_bytes() == b"library"
    page = (tmp_path / "r" / "README.md").read_text()
    assert "built by TensorRT 10.13 for Orin" in page and "no batch dimension" in page


def test_start_sh_gives_tritonserver_one_word_per_setting(copied, tmp_path):
    add_plan(copied, budget=8, target={"version_compatible": True})
    (tmp_path / PLUGIN).write_bytes(b"library")
    place = tmp_path / "a place" / "r"
    triton_repository(copied, place, plugin=tmp_path / PLUGIN)
    (tmp_path / "tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "tritonserver").chmod(0o755)
    command = [place / "start.sh", "--http-port", "80 80"]
    done = subprocess.run(
        command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"--model-repository={place}/models",
        f"--backend-config=tensorrt,plugins={place}/plugins/{PLUGIN}",
        "--backend-config=tensorrt,version-compatible=true",
        "--http-port",
        "80 80",
    ]


def test_a_plan_without_its_library_is_refused(copied, tmp_path, monkeypatch):
    add_plan(copied, budget=8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(MissingDependencyError, match="No self-registering plugin library at .*tokfilter plugin build"):
        triton_repository(copied, tmp_path / "r")
    with pytest.raises(ExportError, match="--plugin must be the self-registering plugin library, but there is no file"):
        triton_repository(copied, tmp_path / "r", plugin=tmp_path / "none.so")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("plugin", [None, "serialized"])
def test_plans_that_want_no_library_get_none(copied, tmp_path, plugin):
    add_plan(copied, budget=8, plugin=plugin)
    assert "plugins" not in triton_repository(copied, tmp_path / "r").start


def test_a_plan_for_large_batches_only_is_refused(copied, tmp_path):
    add_plan(copied, budget=8, plugin=None, batch_range=(2, 4, 8))
    with pytest.raises(ExportError, match=r"runs batches of 2 or more, Triton may form smaller: .*--batch 1:\.\.\.:8"):
        triton_repository(copied, tmp_path / "r")


def test_what_triton_cannot_run_is_left_out_with_the_reason(copied, tmp_path):
    add_file(copied, "model.rtx.plan", runtime="tensorrt-rtx")
    add_file(copied, "model.bf16.onnx", runtime="onnx", precision="bf16")
    done = CliRunner().invoke(cli, ["triton-repo", str(copied), str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    assert "left out, because Triton has no backend for TensorRT-RTX: model.rtx.plan" in done.stderr
    assert "no bf16 kernels for every operator: model.bf16.onnx" in (tmp_path / "r" / "README.md").read_text()
    assert f"start: {tmp_path / 'r' / 'start.sh'}" in done.stdout
    manifest = load_manifest(copied)
    rest = [entry for entry in manifest.files if "rtx" in entry.path or entry.role == "golden"]
    save_manifest(copied, replace(manifest, files=rest))
    with pytest.raises(ExportError, match="holds no model that Triton runs: model.rtx.plan: Triton has no backend"):
        triton_repository(copied, tmp_path / "other")
    save_manifest(copied, replace(manifest, files=[]))
    with pytest.raises(ExportError, match="holds no model that Triton runs: its manifest lists no models"):
        triton_repository(copied, tmp_path / "other")


def test_refusals_write_nothing(copied, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="mine exists already and is not overwritten"):
        triton_repository(copied, tmp_path / "mine")
    monkeypatch.setattr(triton, "batched_slots_graph", lambda graph: scaled(batched_slots_graph(graph)))
    done = CliRunner().invoke(cli, ["triton-repo", str(copied), str(tmp_path / "r")])
    assert done.exit_code == 3 and "model.onnx, rewritten for its server, differs from" in done.output
    data = bytearray((copied / "full.onnx").read_bytes())
    data[200] ^= 1
    (copied / "full.onnx").write_bytes(data)
    monkeypatch.undo()
    with pytest.raises(EngineError, match=r"full.onnx is not the file that manifest.json describes"):
        triton_repository(copied, tmp_path / "r", full=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def scaled(graph):
    """The same graph with other weights: what a defect of the rewrite would look like."""
    for value in graph.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.5), name=value.name)
    return graph


def test_class_names_keep_to_their_lines(copied, tmp_path):
    manifest = load_manifest(copied)
    card = replace(manifest.model, class_names=["an\nt", "bee", "c  at", "dog", "eel"])
    save_manifest(copied, replace(manifest, model=card))
    triton_repository(copied, tmp_path / "r")
    labels = (tmp_path / "r" / "models" / "filtered_fp32_onnx" / "labels.txt").read_text()
    assert labels.splitlines() == ["an t", "bee", "c at", "dog", "eel"]
    save_manifest(copied, replace(manifest, model=replace(card, class_names=[])))
    config = triton_repository(copied, tmp_path / "none").models["filtered_fp32_onnx"]
    assert config.output[0].label_filename == ""
    assert not (tmp_path / "none" / "models" / "filtered_fp32_onnx" / "labels.txt").exists()


def test_weights_beside_a_graph_come_along(copied, tmp_path):
    add_file(copied, "big.onnx", "full", runtime="onnx", precision="fp16")
    (copied / "big.onnx.data").write_bytes(b"weights")
    manifest = load_manifest(copied)
    entry = replace(manifest.files[-1], external={"big.onnx.data": hashlib.sha256(b"weights").hexdigest()})
    save_manifest(copied, replace(manifest, files=[*manifest.files[:-1], entry]))
    triton_repository(copied, tmp_path / "r", full=True)
    assert (tmp_path / "r" / "models" / "full_fp16_onnx" / "1" / "big.onnx.data").read_bytes() == b"weights"


def test_a_configuration_that_triton_would_not_read(written):
    with pytest.raises(ExportError, match="Triton cannot read this configuration: .*max_batch_sise"):
        config_from_text("max_batch_sise: 4")
    text = (written[1] / "models" / "full_fp32_onnx" / "config.pbtxt").read_text()
    with pytest.raises(ExportError, match="TYPE_FP33"):
        config_from_text(text.replace("TYPE_FP32", "TYPE_FP33"))


def test_without_tritonclient(export_directory, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    done = CliRunner().invoke(cli, ["triton-repo", str(export_directory), str(tmp_path / "r")])
    assert done.exit_code == MissingDependencyError.exit_code and not (tmp_path / "r").exists()
    assert re.search(r"tritonclient, which cannot be imported.*pip install 'tokfilter\[triton\]'", done.output)
