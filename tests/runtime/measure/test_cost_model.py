"""The cost model recovers machines with known costs, measures its own error, and says nothing where it does not fit."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from scipy.optimize import nnls

from tokfilter.artifacts.manifest import ModelCard
from tokfilter.runtime.measure.cost_document import LARGEST_ERROR, cost_document, cost_point
from tokfilter.runtime.measure.cost_model import CostPoint, fit_cost_model, pays_from
from tokfilter.runtime.measure.least_squares import nonnegative_least_squares

PATCHES = 196
MACS = {"full": 4598882304, "137": 3169598720, "98": 2256302336, "68": 1572843776}
CARD = ModelCard("deit", (3, 224, 224), PATCHES, 1, 10, [], 98, MACS, {})
BUDGETS = (196, 137, 98, 68)


def machine(launches=2.0, filter_ms=0.5, image=0.1, token=1e-3, gmac=0.05, overlap=False, noise=0.0, seed=0):
    """latency(batch, tokens) of a synthetic machine, in milliseconds."""
    random = np.random.default_rng(seed)

    def latency(batch, tokens):
        macs = cost_point(CARD, batch, tokens, 1.0).macs
        call = launches + (filter_ms if tokens < PATCHES else 0)
        rest = batch * (image + token * (tokens + 1) + gmac * macs / 1e9)
        return (max(call, rest) if overlap else call + rest) * np.exp(random.normal(0, noise))

    return latency


def measured(latency, batches=(1, 8, 32, 128), budgets=BUDGETS):
    return [cost_point(CARD, batch, tokens, latency(batch, tokens)) for batch in batches for tokens in budgets]


def at(points, tokens):
    return next(point for point in points if point.tokens == tokens)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 12))
def test_coefficients_equal_scipys(seed, columns, rows):
    random = np.random.default_rng(seed)
    matrix, target = random.normal(size=(rows, columns)), random.normal(size=rows)
    found, (_, least) = nonnegative_least_squares(matrix, target), nnls(matrix, target)
    assert (found >= 0).all()
    assert np.linalg.norm(matrix @ found - target) == pytest.approx(least, abs=1e-9, rel=1e-9)


def test_coefficients_of_columns_without_values_are_zero():
    assert nonnegative_least_squares(np.array([[0.0, 2.0], [0.0, 4.0]]), np.array([1.0, 2.0])).tolist() == [0.0, 0.5]
    assert nonnegative_least_squares(np.ones((3, 2)), np.full(3, -1.0)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("overlap", [False, True])
def test_known_costs_are_recovered(overlap):
    points = measured(machine(overlap=overlap))
    model = fit_cost_model(points)
    assert model.form == ("overlap" if overlap else "sum")
    # With overlap one point alone shows the full model's launches: left out, it is predicted from the others.
    assert model.error < (0.1 if overlap else 1e-6)
    np.testing.assert_allclose(model.predicted_ms, [p.latency_ms for p in points], rtol=1e-9)
    if not overlap:
        np.testing.assert_allclose(model.coefficients, (2.0, 0.5, 0.1, 1e-3, 0.05), rtol=1e-5)
    unseen = machine(overlap=overlap)
    for batch, tokens in ((3, 98), (64, 196), (500, 68)):
        point = cost_point(CARD, batch, tokens, 1.0)
        assert model.latency_ms(point) == pytest.approx(unseen(batch, tokens), rel=1e-6)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_batch_from_which_filtering_pays_is_that_of_the_machine(overlap):
    latency = machine(filter_ms=1.0, image=0.05, token=2e-4, gmac=0.02, overlap=overlap)
    points = measured(latency)
    truth = next(b for b in range(1, 1025) if all(latency(c, 98) < latency(c, 196) for c in range(b, b + 300)))
    assert truth > 3
    found = pays_from(fit_cost_model(points), points, at(points, 196), at(points, 98))
    assert found.batch == found.low == found.high == truth


def test_noise_widens_the_interval_and_shows_in_the_error():
    widths, errors = [], []
    for noise in (0.01, 0.04):
        points = measured(machine(filter_ms=1.0, image=0.05, token=2e-4, gmac=0.02, noise=noise))
        model = fit_cost_model(points)
        found = pays_from(model, points, at(points, 196), at(points, 98))
        widths.append(found.high - found.low)
        errors.append(model.error)
    assert 0 < widths[0] < widths[1]
    assert 0.002 < errors[0] < errors[1] / 2 < 0.1
    again = pays_from(model, points, at(points, 196), at(points, 98))
    assert again == found  # the bootstrap is seeded


def test_a_filter_that_costs_nothing_pays_at_every_batch():
    document = cost_document(CARD, measured(machine(filter_ms=0.0)), 98)
    assert document["pays_from"] == {"tokens": 98, "batch": 1, "low": 1, "high": 1}
    assert document["sentence"].endswith("98 of 196 tokens are faster than the full model at every batch.")


def test_a_machine_that_gains_nothing_never_pays():
    document = cost_document(CARD, measured(machine(token=0.0, gmac=0.0)), 98)
    assert document["fits"] and document["pays_from"]["batch"] is None
    assert "at no batch up to 1024" in document["sentence"]


def test_equal_latencies_are_a_call_that_costs_the_same():
    document = cost_document(CARD, measured(lambda batch, tokens: 5.0), 98)
    assert document["fits"] and document["model"]["coefficients"]["call_ms"] == pytest.approx(5.0)
    assert document["pays_from"]["batch"] is None


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "0 points are too few"),
        (measured(machine(), (1,), (98,)), "1 points are too few"),
        (measured(machine(), (4,), (98,)) * 20, "1 points are too few"),  # one place, measured often
        (measured(machine(), (1, 8), (196, 98)), "4 points are too few"),
    ],
)
def test_too_few_points_give_no_model(points, words):
    document = cost_document(CARD, points, 98)
    assert document["model"] is None and words in document["sentence"]


def test_one_batch_gives_a_curve_and_no_batch():
    budgets = (196, 137, 120, 98, 80, 68, 40, 20)
    points = measured(machine(), (8,), budgets)
    document = cost_document(CARD, points, 98)
    assert document["fits"] and document["pays_from"] is None
    assert "one batch size was measured, so from which batch on filtering pays is not known" in document["sentence"]
    for point in document["model"]["points"]:
        assert point["predicted_ms"] == pytest.approx(point["latency_ms"], rel=1e-6)


def test_a_machine_of_another_kind_does_not_fit_and_is_said_to():
    random = np.random.default_rng(3)
    document = cost_document(CARD, measured(lambda batch, tokens: float(random.uniform(1, 10))), 98)
    assert not document["fits"] and document["pays_from"] is None and document["model"]["error"] > LARGEST_ERROR
    assert "nothing is said about other batches" in document["sentence"]


def test_budgets_without_macs_are_left_out():
    card = ModelCard("deit", (3, 224, 224), PATCHES, 1, 10, [], 98, {"full": 9}, {})
    assert cost_point(card, 1, 98, 2.0) is None
    assert cost_document(card, [None] * 20, 98)["model"] is None


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_latencies(bad):
    with pytest.raises(ValueError, match="positive, finite"):
        fit_cost_model([CostPoint(1, 98, True, 10, bad)])


def record(name):
    """Points of a measured comparison among the results of this repository."""
    document = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return [cost_point(CARD, row["batch"], row["tokens"], row["latency_ms"]["median"]) for row in document["rows"]]


def test_a_measured_gpu_is_bound_by_launches_at_small_batches_and_not_well_enough_described():
    """deit_small in fp16 on an H200, with images from pageable memory (docs/gpu.md): nothing may be said."""
    document = cost_document(CARD, record("gpu-onnx-fp16"), 98)
    assert document["model"]["form"] == "overlap"
    assert LARGEST_ERROR < document["model"]["error"] < 0.13
    assert not document["fits"] and document["pays_from"] is None


def test_a_measured_cpu_has_too_few_points():
    comparison = json.loads((ROOT / "benchmarks" / "results" / "runtime.json").read_text())["comparisons"][0]
    points = [cost_point(CARD, row["batch"], row["tokens"], row["latency_ms"]["median"]) for row in comparison["rows"]]
    assert cost_document(CARD, points, 98)["model"] is None
