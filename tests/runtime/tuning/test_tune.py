import shutil

import pytest
from schema_check import schema_errors

from tokfilter.artifacts.manifest import ModelCard, load_manifest
from tokfilter.errors import BudgetError, DataError
from tokfilter.runtime.comparison.rounds import BenchConfig
from tokfilter.runtime.measure.statistics import Interval
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.tuning.goals import Goal, TuningPoint
from tokfilter.runtime.tuning.tune import cost_points, drops_from_accuracy, few_budgets, tune

OPTIONS = SessionOptions(threads=1)
QUICK = BenchConfig(0.05, 0.0, 0.005)


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


def test_tuned_budget_is_the_default_of_sessions(copied):
    document = tune(copied, Goal("latency", 10_000.0), 1, OPTIONS, QUICK)
    assert schema_errors(document) == []
    assert document["choice"]["tokens"] == 15
    manifest = load_manifest(copied)
    assert manifest.choice["tokens"] == 15 and manifest.choice["threads"] == 1
    assert manifest.choice["goal"] == "at most 10000 ms"
    with open_session(copied, options=OPTIONS) as session:
        assert session.budgets.default == 15


def test_cost_model_is_recorded_with_the_points_of_every_batch(copied):
    document = tune(copied, Goal("latency", 10_000.0), 2, OPTIONS, QUICK, model_batches=(1, 8, 2))
    assert schema_errors(document) == []
    points = document["cost_model"]["model"]["points"]
    assert {point["batch"] for point in points} == {1, 2, 8}
    assert {point["tokens"] for point in points if point["batch"] == 8} == {1, 8, 15, 16}
    at_2 = {point["tokens"] for point in points if point["batch"] == 2}
    assert at_2 == {16, *(point["tokens"] for point in document["curve"])}
    assert document["cost_model"]["model"]["error"] >= 0 and document["cost_model"]["sentence"]


def test_one_batch_says_nothing_about_others(copied):
    cost = tune(copied, Goal("latency", 10_000.0), 1, OPTIONS, QUICK)["cost_model"]
    assert cost["pays_from"] is None
    with pytest.raises(DataError, match="at least one image, got 0"):
        tune(copied, Goal("latency", 1.0), 1, OPTIONS, QUICK, model_batches=(0,))


def test_points_use_the_speedup_so_that_clock_drift_does_not_count():
    card = ModelCard("vit", (3, 32, 32), 16, 1, 5, [], 8, {"full": 100, "4": 30, "8": 50, "12": 70}, {})
    curve = [TuningPoint(8, 5.0, 10.0, Interval(2.0, 2.0, 2.0)), TuningPoint(4, 10.0, 40.0, Interval(4.0, 4.0, 4.0))]
    full, eight, four = cost_points(card, {3: curve})
    assert (full.tokens, full.latency_ms, full.filtered, full.batch) == (16, 25.0, False, 3)
    assert (eight.latency_ms, four.latency_ms, four.macs) == (12.5, 6.25, 30)


def test_few_budgets_hold_both_ends_the_middle_and_the_chosen_one():
    assert few_budgets(range(1, 16), 3) == [1, 3, 8, 15]
    assert few_budgets([8], 8) == [8]


def test_failed_tune_leaves_the_manifest_unchanged(copied):
    before = (copied / "manifest.json").read_bytes()
    with pytest.raises(BudgetError, match="no budget meets the goal of at most 1e-06 ms"):
        tune(copied, Goal("latency", 1e-6), 1, OPTIONS, QUICK)
    with pytest.raises(DataError, match="at least one image"):
        tune(copied, Goal("latency", 1.0), 0, OPTIONS, QUICK)
    assert (copied / "manifest.json").read_bytes() == before


def accuracy(architecture="vit_tiny_patch16_224", patches=16, full=True):
    rows = [{"method": "filter", "tokens": k, "mean": mean} for k, mean in ((4, 0.7), (8, 0.79), (12, 0.81))]
    rows += [{"method": "random", "tokens": 8, "mean": 0.1}]
    rows += [{"method": "full", "tokens": 16, "mean": 0.8}] if full else []
    model = {"architecture": architecture, "patches": patches}
    return {"schema": "tokfilter/accuracy", "model": model, "rows": rows}


def test_drops_come_from_the_filters_rows(export_directory):
    drops = drops_from_accuracy(accuracy(), load_manifest(export_directory))
    assert drops == pytest.approx({4: 0.1, 8: 0.01, 12: -0.01})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (accuracy("resnet"), "is of resnet"),
        (accuracy(patches=49), "49 patches"),
        (accuracy(full=False), "no row of the full"),
    ],
)
def test_accuracy_of_another_model_is_refused(export_directory, document, message):
    with pytest.raises(DataError, match=message):
        drops_from_accuracy(document, load_manifest(export_directory))
