"""`tokfilter engine` and `export --trt` as typed: engines run in ONNX Runtime, in place of TensorRT on a GPU.

An "engine" here is the graph that would be built, rounding to fp16 after every operation. All else is what runs on a
GPU: the comparison with the golden tensors, the search for layers, the files.
"""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from narrow_models import cancel_in_attention, overflow_in_mlp
from small_models import small_bundle

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.export import engines, pipeline
from tokfilter.export.emulation import emulate_low_precision
from tokfilter.export.graph import slots_graph_from_model
from tokfilter.export.onnx_file import load_graph, save_graph
from tokfilter.export.options import ExportOptions
from tokfilter.runtime import verification
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession
from tokfilter.vit.bundle import model_from_bundle, save_bundle


def narrow(model):
    model.scorer.trained = True
    cancel_in_attention(model, 0)
    overflow_in_mlp(model, 1)


NEEDED = {"attention of block 0", "MLP of block 1"}


@pytest.fixture(scope="module")
def narrow_bundle(tmp_path_factory):
    """A model that two groups of layers make wrong in fp16, and its traced graph."""
    bundle = small_bundle(0, narrow)
    path = tmp_path_factory.mktemp("narrow") / "model.pt"
    save_bundle(bundle, path)
    return path, slots_graph_from_model(model_from_bundle(bundle))


@pytest.fixture(scope="module")
def narrow_export(narrow_bundle, tmp_path_factory):
    """Its export in fp16, which nobody compared."""
    path, traced = narrow_bundle
    out = tmp_path_factory.mktemp("export") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: traced.clone())
        pipeline.export_bundle(path, out, ExportOptions(precisions=("fp32", "fp16"), verify=False))
    return out


@pytest.fixture
def copied(narrow_export, tmp_path):
    return shutil.copytree(narrow_export, tmp_path / "out")


@pytest.fixture
def builds(monkeypatch):
    """The engines that were built, by name; they run in ONNX Runtime on the CPU."""
    built = []

    def build_engine(kind, graph, plan, options):
        built.append(plan.name)
        save_graph(emulate_low_precision(load_graph(graph)), plan)
        if options.timing_cache is not None:
            options.timing_cache.write_bytes(b"timings")
        return {"version": "10.13", "plugin": None}

    module = SimpleNamespace(__version__="10.13.0", __name__="tensorrt")
    monkeypatch.setattr(engines, "build_engine", build_engine)
    monkeypatch.setattr(engines, "tensorrt_module", lambda kind: module)
    monkeypatch.setattr(
        verification, "session_from_model_file", lambda chosen, options: OnnxRuntimeSession(chosen, threads=1)
    )
    return built


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def engine(directory, *arguments, precision="fp16"):
    options = ["--trt", "--no-plugin", "--batch", "1:2:4", "--precision", precision]
    return run("engine", directory, *options, *arguments)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_an_engine_that_is_silently_wrong_is_not_called_done(copied, builds):
    before = contents(copied)
    done = engine(copied)
    message = " ".join(done.stderr.split())
    assert done.exit_code == 3 and "Traceback" not in done.output
    assert "model.fp16.plan differs from the golden tensors at a batch of 1 and 4 tokens" in message
    for words in ("cosine", "first class equal on", "kept tokens in common 1 (expected 0.9)", "--auto-fp32 finds"):
        assert words in message
    assert builds == ["model.fp16.plan"] and contents(copied) == before


def test_the_layers_that_need_fp32_are_found_named_and_kept(copied, builds):
    done = engine(copied, "--auto-fp32")
    assert done.exit_code == 0, done.output
    manifest = load_manifest(copied)
    plans = [entry for entry in manifest.files if entry.runtime == "tensorrt" and entry.precision]
    assert [entry.path for entry in plans] == ["model.fp16.plan", "full.fp16.plan"]
    for entry in plans:
        assert entry.verified and set(entry.kept_fp32["groups"]) == NEEDED and entry.kept_fp32["minimal"]
        check_file(copied, entry)
        verification.check_engine(copied, manifest, entry)
    assert builds == ["model.fp16.plan"] * (1 + plans[0].kept_fp32["probes"]) + ["full.fp16.plan"]
    for name in NEEDED:
        assert name in done.stderr
    assert sorted(contents(copied)) == sorted([*(entry.path for entry in manifest.files), "manifest.json"])


def test_a_right_engine_is_built_once(export_directory, tmp_path, builds):
    out = shutil.copytree(export_directory, tmp_path / "out")
    done = engine(out, "--auto-fp32", precision="fp32")
    assert done.exit_code == 0 and builds == ["model.plan", "model.k8.plan", "full.plan"], done.output
    plans = load_manifest(out).entries("filtered", "tensorrt")
    assert len(plans) == 2 and all(entry.verified and not entry.kept_fp32 for entry in plans)
    assert done.stderr == ""


def test_without_a_gpu_the_engine_is_written_and_what_was_not_done_is_said(copied, builds, monkeypatch):
    def no_gpu(chosen, options):
        raise MissingDependencyError("no NVIDIA GPU: the driver is installed and finds none.")

    monkeypatch.setattr(verification, "session_from_model_file", no_gpu)
    done = engine(copied)
    assert done.exit_code == 0, done.output
    assert "full.fp16.plan was not compared with the golden tensors: no NVIDIA GPU" in " ".join(done.stderr.split())
    content = json.loads((copied / "manifest.json").read_text())
    plan = next(item for item in content["files"] if item["path"] == "model.fp16.plan")
    assert plan["verified"] is False and plan["unverified"].startswith("no NVIDIA GPU")
    assert all("verified" not in item for item in content["files"] if item["runtime"] == "onnx")


def test_no_verify_is_recorded(copied, builds):
    done = engine(copied, "--no-verify")
    assert done.exit_code == 0 and "not compared with the golden tensors: --no-verify was given" in done.stderr
    assert not any(entry.verified for entry in load_manifest(copied).files)
    done = engine(copied, "--no-verify", "--auto-fp32")
    assert done.exit_code == 1 and "give it without --no-verify" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (EngineError("TensorRT 10.13 refuses model.fp16.plan: Version tag does not match."), 1, "Version tag"),
        (EngineError("CUDA: out of memory. Free device memory, or use smaller batches."), 1, "Free device memory"),
    ],
)
def test_an_engine_that_does_not_run_is_an_error(copied, builds, monkeypatch, error, code, words):
    class Broken:
        def __enter__(self):
            raise error

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(verification, "session_from_model_file", lambda chosen, options: Broken())
    before = contents(copied)
    done = engine(copied, "--auto-fp32")
    message = " ".join(done.stderr.split())
    assert done.exit_code == code and "model.fp16.plan was built, and could not be compared" in message
    assert words in message and builds == ["model.fp16.plan"] and contents(copied) == before


@pytest.mark.parametrize("damage", ["missing", "cut", "other bytes", "not listed"])
def test_golden_tensors_are_read_before_anything_is_built(copied, builds, damage):
    golden, manifest = copied / "golden.npz", load_manifest(copied)
    if damage == "missing":
        golden.unlink()
    elif damage == "other bytes":
        golden.write_bytes(golden.read_bytes()[:-1] + b"x")
    elif damage == "cut":
        golden.write_bytes(golden.read_bytes()[:100])
        files = [entry for entry in manifest.files if entry.role != "golden"]
        save_manifest(copied, replace(manifest, files=[*files, entry_from_file(copied, "golden.npz", "golden")]))
    else:
        save_manifest(copied, replace(manifest, files=[entry for entry in manifest.files if entry.role != "golden"]))
    before = contents(copied)
    done = engine(copied, "--auto-fp32")
    assert done.exit_code == 1 and "golden.npz" in done.stderr and "Export again" in done.stderr
    assert builds == [] and contents(copied) == before and "Traceback" not in done.output


def test_golden_tensors_of_another_model_are_an_error_without_a_traceback(copied, builds):
    golden, manifest = copied / "golden.npz", load_manifest(copied)
    arrays = dict(np.load(golden))
    np.savez(golden, **{name: value[..., :-1] if name == "images" else value for name, value in arrays.items()})
    files = [entry for entry in manifest.files if entry.role != "golden"]
    save_manifest(copied, replace(manifest, files=[*files, entry_from_file(copied, "golden.npz", "golden")]))
    before = contents(copied)
    done = engine(copied)
    assert done.exit_code == 1 and "golden.npz is damaged" in done.stderr and "[3, 3, 32, 31]" in done.stderr
    assert "Traceback" not in done.output
    assert contents(copied) == before


def export(bundle, out, monkeypatch, *arguments):
    path, traced = bundle
    monkeypatch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: traced.clone())
    options = ["--trt", "--no-plugin", "--batch", "1:2:4", "--precision", "fp16"]
    return run("export", path, "-o", out, *options, *arguments)


def test_export_repairs_graphs_first_and_their_engines_need_nothing_more(narrow_bundle, builds, tmp_path, monkeypatch):
    done = export(narrow_bundle, tmp_path / "out", monkeypatch, "--auto-fp32")
    assert done.exit_code == 0, done.output
    assert builds == ["model.fp16.plan", "full.fp16.plan"]
    for entry in load_manifest(tmp_path / "out").files:
        if entry.precision:
            assert set(entry.kept_fp32["groups"]) == NEEDED and entry.verified is (True if entry.target else None)
    assert "model.fp16.onnx keeps in fp32: attention of block 0, MLP of block 1" in " ".join(done.stderr.split())


def test_export_writes_nothing_where_an_engine_differs(narrow_bundle, copied, builds, monkeypatch):
    """The graphs are right here, and the engine is not: it computes another bias."""
    build = engines.build_engine

    def wrong(kind, graph, plan, options):
        target = build(kind, graph, plan, options)
        changed = load_graph_of_plan(plan)
        bias = next(v for name, v in changed.graph.initializers.items() if "head.bias" in name)
        bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32([1, 0, 0, 0, 0]), name=bias.name)
        save_graph(changed, plan)
        return target

    monkeypatch.setattr(engines, "build_engine", wrong)
    before = contents(copied)
    done = export(narrow_bundle, copied, monkeypatch, "--auto-fp32", "--auto-fp32-builds", "8")
    assert done.exit_code == 3 and "model.fp16.plan differs from the golden tensors" in " ".join(done.stderr.split())
    assert contents(copied) == before and sorted(path.name for path in copied.parent.iterdir()) == ["out"]


def load_graph_of_plan(plan):
    copy = plan.with_suffix(".onnx.tmp")
    shutil.copyfile(plan, copy)
    graph = load_graph(copy)
    copy.unlink()
    return graph


@pytest.mark.gpu
@pytest.mark.parametrize("plugin", [True, False])
def test_on_a_gpu_narrow_layers_are_found_with_tensorrt(copied, plugin):
    """Which groups need fp32 there hangs on what TensorRT fuses, so only the result is held."""
    pytest.importorskip("tensorrt", reason="TensorRT is not installed: pip install 'tokfilter[trt]'")
    options = ["--trt", "--precision", "fp16", "--batch", "1:2:4", "--auto-fp32", "--workspace", "512"]
    done = run("engine", copied, *options, *([] if plugin else ["--no-plugin"]))
    assert done.exit_code == 0, done.output
    plans = [entry for entry in load_manifest(copied).files if entry.runtime == "tensorrt" and entry.precision]
    assert len(plans) == 2 and all(entry.verified for entry in plans)
    assert len({json.dumps(entry.kept_fp32.get("groups", {})) for entry in plans}) == 1
    for entry in plans:
        verification.check_engine(copied, load_manifest(copied), entry)


@pytest.mark.gpu
def test_on_a_gpu_a_right_model_passes_with_tensorrt(export_directory, tmp_path):
    pytest.importorskip("tensorrt", reason="TensorRT is not installed: pip install 'tokfilter[trt]'")
    out = shutil.copytree(export_directory, tmp_path / "out")
    done = run("engine", out, "--trt", "--no-plugin", "--batch", "1:2:4", "--workspace", "512")
    assert done.exit_code == 0 and done.stderr == "", done.output
    assert all(entry.verified for entry in load_manifest(out).entries("filtered", "tensorrt"))
