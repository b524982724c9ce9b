"""The comparison of forms and session options, on the small model; no figure is judged."""

import json
from importlib.resources import files

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from small_models import small_model

from tokfilter.benchmarks.cpu_forms import OPTIONS, measure, ratios
from tokfilter.benchmarks.records.cpu_form_tables import forms_table, options_table, profile_table
from tokfilter.errors import VerificationError
from tokfilter.export.cpu_form import STEPS
from tokfilter.runtime.measure.record import header


class Engine:
    def __init__(self, logits):
        self.logits, self.calls = np.array([logits], np.float32), 0

    def run(self, names, feeds):
        self.calls += 1
        return [self.logits]


@pytest.fixture(scope="module")
def document():
    taken = measure(small_model(), 1, 3, (1, 8))
    return {**header("cpu-forms", "tokfilter.benchmarks cpu-forms"), "architecture": "small", **taken}


def test_the_document_matches_its_schema(document):
    schema = json.loads(files("tokfilter.benchmarks").joinpath("schemas/cpu-forms.json").read_text())
    Draft202012Validator(schema).validate(document)
    assert document["tokens"] == {"full": 16, "half": 8}
    cases = {(row["tokens"], row["batch"], row["name"]) for row in document["forms"]}
    assert cases == {(t, b, name) for t in ("full", "half") for b in (1, 8) for name in ("traced", *STEPS)}
    assert {row["name"] for row in document["options"]} == {"defaults", *OPTIONS}
    assert [row["rows"] for row in document["products"]] == [1, 9, 17]
    assert all(row["ms"][kind] > 0 for row in document["profiles"] for kind in ("attention", "GELU", "copies", "rest"))


def test_the_tables_hold_every_row(document):
    assert forms_table(document).count("\n| + ") == len(STEPS)
    assert all(f"`{name}`" in options_table(document) for name in OPTIONS)
    assert "MAC ratio" in profile_table(document) and "| patch embedding |" in profile_table(document)


def test_each_engine_runs_once_a_round_and_once_before():
    clock = iter(range(1000))
    engines = {"a": Engine([1, 2]), "b": Engine([1, 2])}
    rows = ratios(engines, {}, 4, lambda: float(next(clock)))
    assert [engine.calls for engine in engines.values()] == [6, 5]
    assert [row["speedup"]["value"] for row in rows] == [1.0, 1.0]


def test_other_logits_are_not_timed():
    engines = {"a": Engine([1, 2]), "b": Engine([1, 3])}
    with pytest.raises(VerificationError, match="b: compared with a, "):
        ratios(engines, {}, 4, lambda: 0.0)
