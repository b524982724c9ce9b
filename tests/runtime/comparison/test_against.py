"""Engines that users run today, in the same rounds as ours."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from schema_check import valid

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError, EngineError, MissingDependencyError, VerificationError
from tokfilter.runtime.comparison import against
from tokfilter.runtime.comparison.against import AGAINST, check_against, engines_prepared
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.processes import EngineProcess, engines_open
from tokfilter.runtime.comparison.rounds import BenchConfig
from tokfilter.runtime.sessions import SessionOptions

OPTIONS = SessionOptions(threads=1)
QUICK = BenchConfig(duration_s=0.1, warm_up_s=0.02, block_s=0.01)


@pytest.fixture
def given(bundle_file):
    return replace(OPTIONS, bundle=str(bundle_file))


@pytest.fixture(scope="module")
def measured(export_directory, bundle_file, tmp_path_factory):
    """A document, and a copy of the files of its onnx-naive."""
    options, copy = replace(OPTIONS, bundle=str(bundle_file)), tmp_path_factory.mktemp("naive") / "fp32"
    export = against._export

    def copied(bundle, folder, precision):
        export(bundle, folder, precision)
        shutil.copytree(folder, copy)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(against, "_export", copied)
        found = compare(export_directory, [1, 2], [0.5], options, QUICK, against=["torch-eager", "onnx-naive"])
    return valid(found), copy


@pytest.fixture(scope="module")
def document(measured):
    return measured[0]


@pytest.mark.slow
def test_other_engines_are_verified_and_measured_beside_ours(document):
    assert [(row["engine"], row["batch"]) for row in document["against"]] == [
        ("torch-eager", 1), ("onnx-naive", 1), ("torch-eager", 2), ("onnx-naive", 2),
    ]  # fmt: skip
    assert [row["path"] for row in document["rows"]] == ["full.onnx", "model.k8.onnx"] * 2
    checked = {(v["path"], v["batch"], v["tokens"]) for v in document["verification"]}
    assert {(name, batch, 16) for name in ("torch-eager", "onnx-naive") for batch in (1, 2)} <= checked
    assert all(v["largest_difference"] < 1e-4 for v in document["verification"])
    assert set(document["settings"]["against"]) == {"torch-eager", "onnx-naive"}
    assert all(row["gpu_ms"] is None for row in document["against"])
    assert document["settings"]["stages"].startswith("none")


@pytest.mark.slow
def test_rows_name_the_best_other_engine(document):
    for row in document["rows"]:
        others = [other for other in document["against"] if other["batch"] == row["batch"]]
        best = min(others, key=lambda other: other["latency_ms"]["median"])
        found = row["best_other"]
        assert found["engine"] == best["engine"]
        assert found["speedup"]["low"] <= found["speedup"]["value"] <= found["speedup"]["high"]
        assert found["efficiency"] == pytest.approx(found["speedup"]["value"] / (row["mac_ratio"] or 1.0))


def test_without_other_engines_the_document_has_none(export_directory):
    document = valid(compare(export_directory, [1], [0.5], OPTIONS, QUICK))
    assert document["against"] == [] and not any("best_other" in row for row in document["rows"])


@pytest.mark.slow
def test_the_naive_graph_is_timms_own(export_directory, given):
    """In fp16: ``document`` has verdicts on that in fp32."""
    manifest = load_manifest(export_directory)
    options = replace(given, precision="fp16")
    with engines_prepared(["onnx-naive"], export_directory, manifest, options) as (spec,):
        import onnx

        graph = onnx.load(spec.graphs / "model.onnx")
        assert not graph.functions or all(f.domain != "tokfilter" for f in graph.functions)
        assert "TopK" not in {node.op_type for node in graph.graph.node}
        assert [value.name for value in graph.graph.input] == ["images"]
        with engines_open([spec]) as engines:
            verdict = engines["onnx-naive"].verify(2, 16)
        assert verdict["compared"] == "logits" and verdict["largest_difference"] <= verdict["tolerance"]
        folder = spec.graphs
    assert not folder.exists()


@pytest.mark.slow
def test_the_naive_graph_has_the_mask_head(mask_export_directory, mask_bundle_file):
    manifest = load_manifest(mask_export_directory)
    options = replace(OPTIONS, bundle=str(mask_bundle_file))
    with (
        engines_prepared(["onnx-naive"], mask_export_directory, manifest, options) as (spec,),
        engines_open([spec]) as engines,
    ):
        verdict = engines["onnx-naive"].verify(2, manifest.model.num_patches)
    assert verdict["largest_difference"] <= verdict["tolerance"]


@pytest.mark.slow
def test_an_engine_that_differs_is_not_timed(export_directory, given, measured, monkeypatch):
    def changed(bundle, folder, precision):
        shutil.copytree(measured[1], folder, dirs_exist_ok=True)
        with np.load(folder / "golden.npz") as arrays:
            arrays = dict(arrays)
        np.savez(folder / "golden.npz", **{**arrays, "full": arrays["full"] + 1})

    monkeypatch.setattr(against, "_export", changed)
    monkeypatch.setattr(EngineProcess, "block", lambda *_: pytest.fail("an engine was timed"))
    with pytest.raises(VerificationError, match="onnx-naive differs from the golden tensors .* No time was taken"):
        compare(export_directory, [1], [0.5], given, QUICK, against=["onnx-naive"])


def test_unknown_and_impossible_names_are_refused(given, monkeypatch):
    assert check_against(["onnx-naive", "torch-eager", "onnx-naive"], given) == ["onnx-naive", "torch-eager"]
    assert check_against([], given) == []
    with pytest.raises(DataError, match=f"--against must name some of {', '.join(AGAINST)}; got 'torch'"):
        check_against(["torch-eager", "torch"], given)
    with pytest.raises(EngineError, match="numpy has no bf16"):
        check_against(["onnx-naive"], replace(given, precision="bf16"))
    monkeypatch.setattr(against.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"torch-eager need PyTorch.*tokfilter\[export\]"):
        check_against(["torch-eager"], given)


def test_an_absent_bundle_is_named_before_anything_is_measured(export_directory, monkeypatch):
    pytest.importorskip("torch", reason="without torch its absence is named first")
    monkeypatch.setattr(EngineProcess, "start", lambda *_: pytest.fail("an engine was started"))
    with pytest.raises(DataError, match="'model.pt' is neither in .* Give it as --bundle"):
        compare(export_directory, [1], [0.5], OPTIONS, QUICK, against=["torch-eager"])


def test_another_exports_bundle_is_refused(export_directory, given, tmp_path, monkeypatch):
    monkeypatch.setattr(EngineProcess, "start", lambda *_: pytest.fail("an engine was started"))
    other = tmp_path / "model.pt"
    shutil.copy(given.bundle, other)
    with other.open("ab") as file:
        file.write(b" ")
    with pytest.raises(EngineError, match="not the bundle of this export"):
        compare(export_directory, [1], [0.5], replace(given, bundle=str(other)), QUICK, against=["torch-eager"])


def test_a_model_that_does_not_compile_stops_before_measuring(export_directory, given, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")  # of the code that torch.compile writes for a CPU
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    monkeypatch.setattr(EngineProcess, "block", lambda *_: pytest.fail("an engine was timed"))
    with pytest.raises(EngineError, match="PyTorch does not compile this model: .* Run it without --torch-compile"):
        compare(export_directory, [1], [0.5], given, QUICK, against=["torch-compile"])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_every_engine_has_stages(export_directory, given, precision):
    options = replace(given, runtime="torch", provider="cuda", precision=precision)
    document = valid(compare(export_directory, [1, 3], [0.5], options, QUICK, against=list(AGAINST)))
    for row in document["against"]:
        # A default InferenceSession copies inside its call, so its stages cannot be told apart.
        assert (row["gpu_ms"] is None) == (row["engine"] == "onnx-naive")
    assert all(row["gpu_ms"]["GPU Compute Time"]["median"] > 0 for row in document["rows"])
