"""Intervals of accuracies: the published ones follow from the published top-1."""

import json

import pytest

from tokfilter.benchmarks.accuracy_document import mean_and_half_width, row_from_members
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.train.evaluation import wilson


@pytest.mark.parametrize("name", ["accuracy-fashion-mnist", "accuracy-digits-in-scenes"])
def test_published_intervals_over_seeds(name):
    document = json.loads((RESULTS / f"{name}.json").read_text())
    rows = [row for row in document["rows"] if len(row["top1"]) > 1]
    assert len(rows) > 20
    for row in rows:
        members = [{"top1": top1} for top1 in row["top1"]]
        again = row_from_members(row["method"], row["tokens"], row["macs"], members, document["model"]["patches"])
        for key in ("mean", "low", "high"):
            assert again[key] == pytest.approx(row[key], abs=1e-14)


def test_published_intervals_over_images():
    document = json.loads((RESULTS / "trained_vit.json").read_text())
    images = document["data"]["images"]
    for row in document["rows"]:
        assert wilson(round(row["top1"] * images), images) == pytest.approx((row["low"], row["high"]), abs=1e-14)


def test_equal_seeds_have_an_interval_of_no_width():
    assert mean_and_half_width([0.5, 0.5, 0.5]) == (0.5, 0.0)


def test_a_single_seed_has_no_interval_over_seeds():
    assert mean_and_half_width([0.7]) == (0.7, None)
