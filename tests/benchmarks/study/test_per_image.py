"""Budgets per image: rules on given outputs, choice on one half and measurement on the other, published results."""

import json

import jsonschema
import numpy as np
import pytest
from paths import ROOT, SCHEMAS
from small_models import small_model

from tokfilter.benchmarks.records.per_image_tables import SHOWN, per_image_table
from tokfilter.benchmarks.study.image_outputs import ImageOutputs, scoring_macs
from tokfilter.benchmarks.study.image_rules import CASCADES, RULES, SCORE_RULES, applied, candidates, levels_of, oracle
from tokfilter.benchmarks.study.per_image import FIXED, rows_of_seed, rows_of_seeds
from tokfilter.vit.macs import macs


@pytest.fixture
def outputs():
    random = np.random.default_rng(0)
    levels = np.array(levels_of(20))
    return ImageOutputs(
        levels,
        random.normal(size=(60, len(levels), 3)).astype(np.float32),
        random.normal(size=(60, 20)).astype(np.float32),
        random.integers(0, 3, 60),
        100 * levels,
        np.array(7),
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_image_gets_a_level_and_pays_for_all_its_passes(outputs, rule):
    for settings in candidates(outputs, rule):
        found = applied(outputs, rule, settings)
        levels = settings["levels"]
        assert set(found.tokens) <= set(levels)
        if rule in SCORE_RULES:
            assert (found.macs == 100 * found.tokens + 7).all()
        else:
            passes = {level: 100 * sum(levels[: place + 1]) for place, level in enumerate(levels)}
            assert found.macs.tolist() == [passes[k] for k in found.tokens]
        columns = np.searchsorted(outputs.budgets, found.tokens)
        right = outputs.logits[np.arange(60), columns].argmax(1) == outputs.labels
        assert (found.correct == right).all()


@pytest.mark.parametrize("rule", CASCADES)
def test_a_higher_threshold_sends_more_images_on(outputs, rule):
    lowest, highest = (applied(outputs, rule, {"levels": [2, 20], "threshold": t}) for t in (-9, 9))
    assert (lowest.tokens == 2).all() and (highest.tokens == 20).all()
    assert (highest.macs == 2200).all()


def test_a_threshold_counts_the_scores_above_it_and_rounds_up_to_a_level(outputs):
    found = applied(outputs, "score threshold", {"levels": [2, 10, 20], "threshold": 0.0})
    needed = (outputs.scores > 0).sum(1)
    assert all(k >= n and (k == 2 or n > {10: 2, 20: 10}[k]) for k, n in zip(found.tokens, needed, strict=True))


def test_the_oracle_is_right_wherever_a_level_is(outputs):
    levels = levels_of(20)
    found = oracle(outputs, levels)
    assert (found.correct == outputs.correct.any(1)).all()
    assert (found.tokens[~found.correct] == levels[0]).all()


def test_the_fixed_budget_itself_is_always_among_what_is_chosen_from(outputs):
    rows = rows_of_seed(outputs, [20, 4])
    assert [row["tokens"] for row in rows if row["rule"] == FIXED] == [20, 4]
    assert all(row["cost"] is not None for row in rows if row["rule"] == FIXED)
    joined = rows_of_seeds([rows, rows])
    assert len(joined) == len(rows) == 2 * (1 + len(RULES)) + 1
    assert all(row["cost"] is None or len(row["cost"]) == 2 for row in joined)


def test_scoring_costs_what_the_model_spends_before_its_blocks():
    model = small_model()
    assert 0 < scoring_macs(model) < macs(model, 1, fake=False)


def test_the_published_results_fit_their_schema_and_make_a_table():
    document = json.loads((ROOT / "benchmarks" / "results" / "per_image.json").read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / "per-image.json").read_text()))
    shown = [row for one in document["sets"] for row in one["rows"] if row["rule"] in SHOWN]
    assert len(per_image_table(document).splitlines()) == len(shown) + 4
    assert all(min(row["cost"]) > 0 for row in shown if row["cost"] is not None)
