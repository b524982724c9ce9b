"""Rows and verdicts from engines that run on a CPU, through the processes that run TensorRT on a GPU."""

import json
import shutil
from io import StringIO

import numpy as np
import pytest

from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.gpu_proof import rounds
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.rounds import ComputeOnly, measured_rows
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec, Settings
from tokfilter.errors import EngineError
from tokfilter.runtime.comparison.processes import Block, EngineSpec, Interpreter
from tokfilter.runtime.comparison.rounds import Cell
from tokfilter.runtime.sessions import SessionOptions

OPTIONS = SessionOptions(threads=1)
MODEL = ModelSpec("small", "vit_tiny_patch16_224", 16, 2)


@pytest.fixture
def measure(export_directory, tmp_path):
    """Calls ``measured_rows`` and returns what it emitted, by kind."""
    (tmp_path / "graphs").mkdir()
    shutil.copytree(export_directory, tmp_path / "graphs" / "small")
    context = Context(Settings(tmp_path, duration_s=0.05, models=(MODEL,)), {}, StringIO())

    def run(wanted, batch=2, reference="A"):
        measured_rows(context, MODEL, batch, wanted, reference)
        results = [json.loads(line) for line in context.replies.getvalue().splitlines()]
        return {kind: [r for r in results if r["kind"] == kind] for kind in ("row", "verdict", "problem")}

    run.folder = tmp_path / "graphs" / "small"
    return run


def spec(folder, name, role="filtered", path="model.onnx", interpreter=Interpreter()):  # noqa: B008
    return EngineSpec(folder, role, path, OPTIONS, interpreter, f"{name}, {role}")


def test_every_row_has_its_ratios_to_the_full_model_and_to_the_other_engine(measure):
    folder = measure.folder
    found = measure(
        [
            (spec(folder, "A", "full", "full.onnx"), [16]),
            (spec(folder, "A"), [8, 4]),
            (spec(folder, "B"), [8]),
        ]
    )
    rows = {(row["engine"], row["tokens"]): row for row in found["row"]}
    assert set(rows) == {("A", 16), ("A", 8), ("A", 4), ("B", 8)}
    assert found["problem"] == [] and [v["passed"] for v in found["verdict"]] == [True] * 4
    assert rows["A", 16]["speedup"] is None and rows["A", 16]["against"] is None
    half = rows["A", 8]
    assert half["speedup"]["compute"] is None and half["speedup"]["end_to_end"]["low"] > 0
    assert half["mac_ratio"] > 1 and half["efficiency"] == half["speedup"]["end_to_end"]["value"] / half["mac_ratio"]
    assert rows["B", 8]["against"]["engine"] == "A" and rows["B", 8]["speedup"] is None
    assert half["rounds"] >= 5 and half["compute_ms"] is None
    assert half["images_per_s"] == pytest.approx(2e3 / half["end_to_end_ms"]["median"])
    assert set(half["conditions"]) == {"before", "after"}


def test_an_engine_that_differs_is_not_timed(measure):
    folder = measure.folder
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "golden.npz") as golden:
        arrays = dict(golden)
    np.savez(folder / "golden.npz", **{**arrays, "full": arrays["full"] + 1.0})
    for entry in manifest["files"]:
        if entry["path"] == "golden.npz":
            path = folder / "golden.npz"
            entry.update(sha256=sha256(path), bytes=path.stat().st_size)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = measure([(spec(folder, "A", "full", "full.onnx"), [16]), (spec(folder, "A"), [8])])
    verdicts = {v["tokens"]: v for v in found["verdict"]}  # engines are compared at the same time: in any order
    assert {tokens: v["passed"] for tokens, v in verdicts.items()} == {16: False, 8: True}
    assert "differs from the golden tensors" in verdicts[16]["error"]
    assert [(row["tokens"], row["speedup"]) for row in found["row"]] == [(8, None)]


def test_an_engine_that_does_not_start_is_reported_and_the_others_are_measured(measure):
    folder = measure.folder
    nowhere = Interpreter("/nowhere/python3.10")
    found = measure([(spec(folder, "A", interpreter=nowhere), [8]), (spec(folder, "B"), [8])])
    assert [row["engine"] for row in found["row"]] == ["B"]
    assert found["problem"][0]["engine"] == "A, filtered" and "/nowhere/python3.10" in found["problem"][0]["error"]


def test_nothing_is_measured_where_nothing_passed(measure):
    found = measure([(spec(measure.folder, "A"), [17])])
    assert found["row"] == [] and "17" in found["problem"][0]["error"]


class FakeEngine:
    """An engine process whose session has a loop of computations, or has none."""

    def __init__(self, ms, able=True):
        self.ms, self.able, self.asked = ms, able, 0

    def compute(self, batch, tokens, seconds):
        if not self.able:
            raise EngineError("measures calls with their transfers only.")
        self.asked += 1
        return Block([self.ms + 0.1], [(0.0, self.ms, 0.0, 0.0)])


def test_only_sessions_with_a_loop_of_computations_are_measured_so():
    cells = [Cell(spec(None, name), 8, 98) for name in ("A", "B")]
    engines = {"A, filtered": FakeEngine(2.0), "B, filtered": FakeEngine(1.0, able=False)}
    assert rounds._computable(engines, cells) == [cells[0]]
    assert ComputeOnly(engines["A, filtered"]).block(8, 98, 0.1).timings == [(0.0, 2.0, 0.0, 0.0)]


def test_compute_times_decide_speedup_and_efficiency(export_directory):
    card = load_manifest(export_directory).model

    def pair(role, tokens, end_to_end, compute):
        cell = Cell(spec(None, "A", role), 8, tokens, [Block([end_to_end], None)] * 6)
        return cell, Cell(cell.spec, 8, tokens, [Block([compute + 0.1], [(0.0, compute, 0.0, 0.0)])] * 5)

    full, half = pair("full", 16, 5.0, 3.0), pair("filtered", 8, 4.0, 1.5)
    row = rounds._row(half, [full, half], card, "A")
    assert row["speedup"]["compute"]["value"] == 2.0 and row["speedup"]["end_to_end"]["value"] == 1.25
    assert row["efficiency"] == 2.0 / row["mac_ratio"] and row["images_per_s"] == 8 / 1.5e-3
    assert row["host_ms"]["median"] == pytest.approx(1.6) and row["rounds"] == 6
