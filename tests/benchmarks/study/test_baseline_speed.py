"""Images per second are measured only for rows whose logits were compared first."""

import numpy as np
import pytest

from tokfilter.benchmarks.study import baseline_speed, speed_worker
from tokfilter.benchmarks.study.baseline_models import Row
from tokfilter.benchmarks.study.baseline_speed import SpeedConfig, document_from_bundle
from tokfilter.benchmarks.study.speed_worker import RUNTIMES, missing
from tokfilter.errors import MissingDependencyError, VerificationError


@pytest.mark.slow
def test_every_row_is_timed_in_each_runtime_after_its_logits_were_compared(bundle_file):
    document = document_from_bundle(bundle_file, [1.0, 0.5], SpeedConfig(2, rounds=2, seconds=0.01), "test", ["filter"])
    found = {(row["runtime"], row["method"], row["tokens"]): row for row in document["rows"]}
    methods = {(method, tokens) for _, method, tokens in found}
    there = [runtime for runtime in RUNTIMES if not missing(runtime)]
    assert len(found) == 2 * len(there) >= 4 and {method for method, _ in methods} == {"full", "filter"}
    for (_, method, _), row in found.items():
        assert row["largest_difference"] < 1e-3
        assert row["low"] <= row["images_per_s"] <= row["high"]
        assert row["speedup"]["value"] == 1 or method != "full"
    assert {row["runtime"] for row in document["absent"]} == RUNTIMES.keys() - set(there)


def test_a_row_with_wrong_logits_is_not_timed(tmp_path, monkeypatch):
    golden = tmp_path / "golden.npz"
    np.savez(golden, images=np.zeros((1, 3, 4, 4), np.float32), logits=np.ones((1, 2), np.float32))
    monkeypatch.setitem(speed_worker.RUNTIMES, "torch", lambda entry, images: lambda: np.full((1, 2), 1.1, np.float32))
    monkeypatch.setattr(speed_worker.torch, "set_num_threads", lambda threads: None)
    speed_worker.Worker.start("torch", tmp_path, 1)
    entry = speed_worker.PreparedRow(Row("norm", 7), 1, golden, None)
    with pytest.raises(VerificationError, match=r"norm-7 in torch differs .* it is not timed"):
        speed_worker.open_row(entry)
    assert speed_worker.Worker.calls == {}


def test_a_runtime_that_is_not_installed_is_listed_with_its_remedy(bundle_file, monkeypatch):
    def absent():
        raise MissingDependencyError("OpenVINO is not installed: pip install it.")

    monkeypatch.setattr(speed_worker, "imported_openvino", absent)
    monkeypatch.setattr(baseline_speed, "_prepare", lambda *_: [])
    document = document_from_bundle(bundle_file, [0.5], SpeedConfig(1), "test", ["filter"], ["openvino"])
    assert document["rows"] == [] and {row["method"] for row in document["absent"]} == {"full", "filter"}
    assert all("not installed" in row["reason"] for row in document["absent"])
