"""The published results of label methods match their schema."""

import json

import jsonschema
import pytest
from paths import ROOT, SCHEMAS

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("label_methods_*.json"))


def test_there_are_results():
    assert RESULTS


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_fit_their_schema_and_exact_labels_agree_with_themselves(path):
    document = json.loads(path.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / "label_methods.json").read_text()))
    exact, *others = document["rows"]
    assert exact["name"] == "exact" and exact["spearman"]["value"] == pytest.approx(1)
    assert {row["method"] for row in others} == {"exact", "first-order", "grouped"}
    assert {row["precision"] for row in others} == {"fp32", "bf16", "fp16"}
