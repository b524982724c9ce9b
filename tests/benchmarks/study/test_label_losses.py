"""Labels that need no class: rows from those of every seed, the settings of each row, the published result."""

import json
from dataclasses import replace

import jsonschema
import pytest
from paths import SCHEMAS

from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.records.unlabelled_tables import label_losses_table
from tokfilter.benchmarks.study.label_losses import DEFAULT, rows_of_set
from tokfilter.benchmarks.study.methods import FILTER, FILTER_CONFIGS, LABEL_LOSSES
from tokfilter.benchmarks.study.tasks import DIGITS


def seed_rows(first, *points):
    rows = [{"method": "full", "tokens": 64, "top1": first}, {"method": FILTER, "tokens": 16, "top1": first - 0.1}]
    for tokens, point in zip((64, 16), points, strict=True):
        usual = {64: first, 16: first - 0.1}[tokens]
        rows.append({"method": "labels: KL", "tokens": tokens, "top1": usual + point / 100})
    return rows


def test_a_difference_is_that_of_the_same_seed():
    rows = rows_of_set([seed_rows(0.9, 1, -2), seed_rows(0.5, 0, 4)])
    assert [(row["method"], row["tokens"]) for row in rows] == [
        (FILTER, 64), (FILTER, 16), ("labels: KL", 64), ("labels: KL", 16),
    ]  # fmt: skip
    assert [row["points"] for row in rows[:2]] == [[0, 0], [0, 0]]
    assert rows[2]["points"] == pytest.approx([1, 0]) and rows[3]["points"] == pytest.approx([-2, 4])
    assert rows[0]["top1"] == [0.9, 0.5]


def test_each_row_changes_the_losses_alone():
    usual = replace(DIGITS.config.train_config(0), stages=("label", "filter", "finetune"))
    for name, (label, finetune) in {
        "labels: KL": ("kl", "cross-entropy"),
        "labels: cosine": ("feature", "cross-entropy"),
        "KL throughout": ("kl", "kl"),
    }.items():
        config = FILTER_CONFIGS[name](usual)
        assert (config.labels.loss, config.finetune.loss) == (label, finetune)
        assert config.filter == usual.filter and config.finetune.plan == usual.finetune.plan
    assert set(DEFAULT) <= set(LABEL_LOSSES)


def test_the_published_result_matches_its_schema_and_table():
    path = RESULTS / "label_losses.json"
    if not path.is_file():
        pytest.skip("not measured yet: python -m tokfilter.benchmarks label-losses WORK")
    document = json.loads(path.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / "label-losses.json").read_text()))
    seeds = len(document["settings"]["seeds"])
    assert all(len(row[key]) == seeds for one in document["sets"] for row in one["rows"] for key in ("top1", "points"))
    assert "| KL | cross-entropy |" in label_losses_table(document)
