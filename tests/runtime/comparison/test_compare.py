import io
import json
import shutil
import signal
from dataclasses import asdict, replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from fake_clock import FakeClock, FakeSession
from jsonschema import Draft202012Validator

from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.runtime_figures import session_overhead
from tokfilter.errors import BudgetError, DataError, EngineError, MissingDependencyError, VerificationError
from tokfilter.runtime.comparison import worker
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.processes import EngineProcess, EngineSpec, engines_open, specs_for
from tokfilter.runtime.comparison.rounds import BenchConfig, _worst
from tokfilter.runtime.comparison.scenarios import run_scenarios
from tokfilter.runtime.measure.record import write_json
from tokfilter.runtime.measure.scenario import ScenarioConfig
from tokfilter.runtime.session import Result, Timing
from tokfilter.runtime.sessions import SessionOptions

OPTIONS = SessionOptions(threads=1)
QUICK = BenchConfig(duration_s=0.1, warm_up_s=0.02, block_s=0.01)


def valid(document):
    name = document["schema"].removeprefix("tokfilter/")
    schema = json.loads(files("tokfilter.benchmarks").joinpath(f"schemas/{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(document)
    json.dumps(document, allow_nan=False)
    return document


@pytest.fixture(scope="module")
def document(export_directory):
    fractions = []
    found = compare(
        export_directory,
        [2, 1],
        [1.0, 0.5, 0.3],
        OPTIONS,
        QUICK,
        None,
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


def test_throttling_under_load_is_recorded_after_it_has_ended():
    calm = {"throttled": False, "throttle_reasons": [], "load_average": 1.0}
    hot = {"throttled": True, "throttle_reasons": ["gpu0: hardware thermal slowdown"], "load_average": 2.0}
    found = _worst([hot, calm])
    assert found["throttled"] is True and found["throttle_reasons"] == hot["throttle_reasons"]
    assert found["load_average"] == 1.0
    assert _worst([{**calm, "throttled": None}])["throttled"] is None


def test_absent_power_sensors_are_listed(document):
    if all(row["power"] is None for row in document["rows"]):
        assert any(note.startswith("absent power sensors:") for note in document["notes"])


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


def test_torch_can_be_compared_too(export_directory, bundle_file, tmp_path):
    found = valid(compare(export_directory, [2], [0.5], OPTIONS, QUICK, bundle_file))
    assert (found["settings"]["engine"], found["settings"]["provider"]) == ("torch", "cpu")
    half = valid(compare(export_directory, [2], [0.5], replace(OPTIONS, precision="bf16"), QUICK, bundle_file))
    assert half["settings"]["precision"] == "bf16"
    differences = [max(v["largest_difference"] for v in f["verification"]) for f in (found, half)]
    assert differences[0] < 1e-4 < differences[1]
    assert [row["path"] for row in found["rows"]] == ["model.pt (full)", "model.pt (filtered)"]
    other = tmp_path / "model.pt"
    other.write_bytes(bundle_file.read_bytes() + b" ")
    with pytest.raises(EngineError, match="not the bundle of this export"):
        compare(export_directory, [2], [0.5], OPTIONS, QUICK, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "tensorrt"}, "PyTorch runs on the provider cpu or cuda, got tensorrt"),
        ({"cuda_graph": True}, "a CUDA graph of PyTorch needs --provider cuda"),
    ],
)
def test_torch_refuses_options_without_effect(export_directory, bundle_file, options, message):
    with pytest.raises(EngineError, match=message):
        compare(export_directory, [1], [0.5], replace(OPTIONS, **options), QUICK, bundle_file)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the error without a GPU")
def test_torch_on_cuda_without_a_gpu_is_refused(export_directory, bundle_file):
    with pytest.raises(MissingDependencyError, match="PyTorch finds no usable GPU"):
        compare(export_directory, [1], [0.5], replace(OPTIONS, provider="cuda"), QUICK, bundle_file)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graph", [False, True])
def test_torch_on_a_gpu_is_verified_and_timed(export_directory, bundle_file, precision, graph):
    options = replace(OPTIONS, provider="cuda", precision=precision, cuda_graph=graph)
    found = valid(compare(export_directory, [1, 3], [0.5, 0.25], options, QUICK, bundle_file))
    assert found["settings"]["cuda_graph"] == graph
    assert all(row["gpu_ms"]["GPU Compute Time"]["median"] > 0 for row in found["rows"])


@pytest.mark.parametrize("batches", [[], [0], [4, -1]])
def test_batches_are_checked(export_directory, batches):
    with pytest.raises(DataError, match="batch sizes of 1 or more"):
        compare(export_directory, batches)


@pytest.mark.parametrize("wrong", [{"duration_s": 0}, {"block_s": -1}, {"warm_up_s": -0.1}])
def test_config_is_checked(wrong):
    with pytest.raises(DataError, match="positive seconds"):
        BenchConfig(**wrong)


def test_budgets_are_checked(export_directory):
    with pytest.raises(BudgetError):
        compare(export_directory, [1], [17], OPTIONS, QUICK)


def test_full_is_always_measured(export_directory):
    specs = specs_for(export_directory, load_manifest(export_directory), [0.5, 8, 0.5], OPTIONS)
    assert {k: spec.role for k, spec in specs.items()} == {16: "full", 8: "filtered"}


def test_engines_live_in_processes_of_their_own_and_end(export_directory):
    specs = list(specs_for(export_directory, load_manifest(export_directory), [0.5, 0.3], OPTIONS).values())
    with engines_open(specs) as engines:
        processes = {path: engine._process for path, engine in engines.items()}
        assert len({engine.pid for engine in engines.values()}) == 3
        assert engines["full.onnx"].block(1, 16, 0.01).samples_ms
    assert all(process.returncode == 0 for process in processes.values())
    with pytest.raises(EngineError, match="closed"):
        engines["full.onnx"].block(1, 16, 0.01)


def test_error_of_a_dead_process_has_its_status(export_directory):
    spec = EngineSpec(export_directory, "full", "full.onnx", OPTIONS)
    with EngineProcess(spec) as engine:
        engine._process.send_signal(signal.SIGTERM)
        engine._process.wait(10)
        with pytest.raises(EngineError, match="full.onnx ended with status -15"):
            engine.block(1, 16, 0.01)


def test_an_engine_that_does_not_open_leaves_no_process(export_directory):
    spec = EngineSpec(export_directory, "full", "full.onnx", replace(OPTIONS, provider="cuda"))
    engine = EngineProcess(spec)
    with pytest.raises(Exception, match="CUDAExecutionProvider"), engine:
        pass
    assert engine._process is None


def timed_session(clock, *seconds):
    return FakeSession(clock, *seconds, result=Result(np.zeros(1), timing=Timing(1.0, 2.0, 3.0, 0.5)))


def test_block_leaves_out_a_short_first_query():
    clock = FakeClock()
    session = timed_session(clock, 0.02, 0.001)
    found = worker.run_block(session, np.zeros(1), 8, 0.05, clock)
    assert found["samples_ms"] == pytest.approx([1.0] * 30, rel=1e-6)
    assert len(session.sizes) - 1 == len(found["timings"]) == 30
    assert found["timings"][0] == (1.0, 2.0, 3.0, 0.5)


def test_block_counts_a_long_first_query():
    clock = FakeClock()
    session = timed_session(clock, 0.06)
    assert worker.run_block(session, np.zeros(1), 8, 0.01, clock)["samples_ms"] == pytest.approx([60.0])
    assert len(session.sizes) == 1


def test_block_reads_the_clock_once_per_query():
    """The work around a query does not depend on the number of queries."""
    clock = FakeClock(tick=0.001)
    samples = worker.run_block(timed_session(clock, 0.0), np.zeros(1), 8, 0.5, clock)["samples_ms"]
    assert clock.readings == 2 + len(samples)


def test_session_overhead_is_measured_against_its_target(export_directory):
    found = session_overhead(export_directory, OPTIONS, queries=50)
    assert found.wanted == "<= 0.01" and np.isfinite(found.measured)
    assert found.met == (found.measured <= 0.01)


def test_worker_replies_with_our_errors_and_continues(export_directory):
    opening = {
        "do": "open",
        "directory": str(export_directory),
        "path": "model.onnx",
        "role": "filtered",
        "options": asdict(OPTIONS),
        "bundle": None,
    }
    requests = [
        opening,
        {"do": "verify", "batch": 1, "tokens": 99},
        {"do": "memory"},
        {"do": "close"},
        {"do": "memory"},
    ]
    replies = io.StringIO()
    worker.serve([json.dumps(request) for request in requests], replies)
    opened, failed, memory = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert "pid" in opened and failed["error"] == "BudgetError" and memory["host_peak_bytes"] > 0


def test_scenarios_cover_full_and_filtered(export_directory):
    config = ScenarioConfig(duration_s=0.05, warm_up_s=0.0, batch=2, qps=100)
    names = ["single-stream", "multi-stream", "offline", "server"]
    found = valid(run_scenarios(export_directory, names, [0.5], OPTIONS, config))
    assert [(row["tokens"], row["scenario"]) for row in found["rows"]][:2] == [
        (16, "SingleStream"),
        (16, "MultiStream"),
    ]
    assert len(found["rows"]) == 8 and len(found["verification"]) == 2


def test_unknown_scenario(export_directory):
    with pytest.raises(DataError, match="one of single-stream, multi-stream, offline, server, got chaos"):
        run_scenarios(export_directory, ["chaos"], [0.5])


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
