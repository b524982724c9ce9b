import shutil
from dataclasses import replace

import numpy as np
import pytest
from schema_check import valid

from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import BudgetError, DataError, EngineError, VerificationError
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.processes import EngineProcess
from tokfilter.runtime.comparison.rounds import BenchConfig
from tokfilter.runtime.sessions import SessionOptions

OPTIONS = SessionOptions(threads=1)
QUICK = BenchConfig(duration_s=0.1, warm_up_s=0.02, block_s=0.01)


@pytest.fixture(scope="module")
def document(export_directory):
    fractions = []
    found = compare(
        export_directory,
        [2, 1],
        [1.0, 0.5, 0.3],
        OPTIONS,
        QUICK,
        lambda what, fraction: fractions.append(fraction),
        "typed",
    )
    assert fractions == sorted(fractions) and fractions[-1] <= 1.0
    return valid(found)


def test_document_holds_every_batch_and_budget(document):
    rows = [(row["batch"], row["role"], row["tokens"], row["path"]) for row in document["rows"]]
    models = [("full", 16, "full.onnx"), ("filtered", 8, "model.k8.onnx"), ("filtered", 4, "model.onnx")]
    assert rows == [(batch, *model) for batch in (1, 2) for model in models]
    assert document["command"] == "typed"
    assert document["model"]["patches"] == 16


def test_every_row_was_verified(document):
    checked = {(v["path"], v["batch"], v["tokens"]) for v in document["verification"]}
    assert checked == {(row["path"], row["batch"], row["tokens"]) for row in document["rows"]}
    assert all(v["same_indices"] in (None, 1.0) for v in document["verification"])


def test_rows_hold_speedup_mac_ratio_and_efficiency(document):
    for row in document["rows"]:
        if row["role"] == "full":
            assert row["speedup"] is row["mac_ratio"] is row["efficiency"] is None
        else:
            assert row["speedup"]["low"] <= row["speedup"]["value"] <= row["speedup"]["high"]
            assert row["mac_ratio"] > 1
            assert row["efficiency"] == pytest.approx(row["speedup"]["value"] / row["mac_ratio"])
        assert row["latency_ms"]["count"] >= 5
        assert row["memory"]["host_peak_bytes"] > 1e6
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["latency_ms"]["median"] * 1e3)


def test_conditions_are_stated(document):
    settings = document["settings"]
    assert settings["transfers"].startswith("none") and settings["cuda_graph"] is False and settings["threads"] == 1
    assert {"before", "after"} == set(document["conditions"])
    assert [point["batch"] for point in document["break_even"]] == [1, 2]


def test_absent_power_sensors_are_listed(document):
    if all(row["power"] is None for row in document["rows"]):
        assert any(note.startswith("absent power sensors:") for note in document["notes"])


def test_further_engines_run_in_the_same_rounds(export_directory):
    further = [SessionOptions(threads=2), SessionOptions(threads=1, spinning=False)]
    found = valid(compare(export_directory, [1, 2], [0.5], OPTIONS, QUICK, further=further))
    assert [engine["settings"]["threads"] for engine in found["engines"]] == [2, 1]
    for engine in found["engines"]:
        places = [(row["batch"], row["tokens"], row["speedup"] is None) for row in engine["rows"]]
        assert places == [(1, 16, True), (1, 8, False), (2, 16, True), (2, 8, False)]
        assert all(row["over_first"]["low"] <= row["over_first"]["high"] for row in engine["rows"])
        assert len(engine["break_even"]) == 2
    assert all("over_first" not in row for row in found["rows"])
    assert len(found["verification"]) == 3 * 4


def test_one_engine_needs_no_further(document, export_directory):
    assert "engines" not in document
    with pytest.raises(DataError, match="each engine is measured once, got onnx in fp32 twice"):
        compare(export_directory, [1], [0.5], OPTIONS, QUICK, further=[OPTIONS])


def test_outputs_that_differ_are_not_timed(export_directory, tmp_path, monkeypatch):
    """The golden logits and the manifest are changed, so that the engine differs from them."""
    out = tmp_path / "out"
    shutil.copytree(export_directory, out)
    with np.load(out / "golden.npz") as arrays:
        changed = {name: value + 1.0 if name == "logits_8" else value for name, value in arrays.items()}
    np.savez(out / "golden.npz", **changed)
    manifest = load_manifest(out)
    entries = [
        replace(e, sha256=sha256(out / e.path), bytes=(out / e.path).stat().st_size) if e.role == "golden" else e
        for e in manifest.files
    ]
    (out / "manifest.json").write_text(replace(manifest, files=entries).text())
    monkeypatch.setattr(EngineProcess, "block", lambda *_: pytest.fail("an engine was timed"))
    with pytest.raises(VerificationError, match="differs from the golden tensors .* No time was taken"):
        compare(out, [1], [0.5], OPTIONS, QUICK)


TORCH = replace(OPTIONS, runtime="torch")


def test_torch_can_be_compared_too(export_directory, bundle_file, tmp_path, monkeypatch):
    given = replace(TORCH, bundle=str(bundle_file))
    found = valid(compare(export_directory, [2], [0.5], given, QUICK))
    assert (found["settings"]["engine"], found["settings"]["provider"]) == ("torch", "cpu")
    half = valid(compare(export_directory, [2], [1.0], replace(given, precision="bf16"), QUICK))
    assert half["settings"]["precision"] == "bf16"
    differences = [max(v["largest_difference"] for v in f["verification"]) for f in (found, half)]
    assert differences[0] < 1e-4 < differences[1]
    assert [row["path"] for row in found["rows"]] == ["model.pt (full)", "model.pt (filtered)"]
    assert all(row["gpu_ms"] is None for row in found["rows"])
    other = tmp_path / "model.pt"
    other.write_bytes(bundle_file.read_bytes() + b" ")
    monkeypatch.setattr(EngineProcess, "start", lambda *_: pytest.fail("an engine was started"))
    with pytest.raises(EngineError, match="not the bundle of this export"):
        compare(export_directory, [2], [0.5], replace(given, bundle=str(other)), QUICK)


def test_torch_without_its_bundle_is_refused(export_directory, tmp_path):
    with pytest.raises(DataError, match=r"'model\.pt' is neither in .* nor beside it\. Give it as --bundle"):
        compare(export_directory, [1], [0.5], TORCH, QUICK)
    with pytest.raises(DataError, match="nowhere"):
        compare(export_directory, [1], [0.5], replace(TORCH, bundle=str(tmp_path / "nowhere.pt")), QUICK)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graph", [False, True])
def test_torch_on_a_gpu_is_verified_and_timed(export_directory, bundle_file, precision, graph):
    options = replace(TORCH, provider="cuda", precision=precision, cuda_graph=graph, bundle=str(bundle_file))
    found = valid(compare(export_directory, [1, 3], [0.5, 0.25], options, QUICK))
    assert found["settings"]["cuda_graph"] == graph
    assert all(row["gpu_ms"]["GPU Compute Time"]["median"] > 0 for row in found["rows"])


@pytest.mark.parametrize("batches", [[], [0], [4, -1]])
def test_batches_are_checked(export_directory, batches):
    with pytest.raises(DataError, match="batch sizes of 1 or more"):
        compare(export_directory, batches)


def test_budgets_are_checked(export_directory):
    with pytest.raises(BudgetError):
        compare(export_directory, [1], [17], OPTIONS, QUICK)
