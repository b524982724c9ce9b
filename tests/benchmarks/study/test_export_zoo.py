"""The published export of 30 timm models matches its schema, and every model passed."""

import json

import jsonschema
from paths import SCHEMAS

from tokfilter.benchmarks.study import export_zoo


def test_the_zoo_passed():
    document = json.loads(export_zoo.RESULT.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / export_zoo.RESULT.name).read_text()))
    assert [row["model"] for row in document["models"] if not row["passed"]] == []
    assert {(row["model"], row["image_size"]) for row in document["models"]} <= {row[1:] for row in export_zoo.ZOO}


def test_the_zoo_is_of_thirty_models_of_all_families():
    assert len(export_zoo.ZOO) == len({row[1:] for row in export_zoo.ZOO}) == 30
    assert len({family for family, _, _ in export_zoo.ZOO}) > 12


def test_a_failed_model_is_in_the_table_with_its_reason():
    passed = {
        "family": "ViT",
        "model": "vit_tiny",
        "image_size": None,
        "passed": True,
        "input_size": [3, 224, 224],
        "patches": 196,
        "prefix_tokens": 1,
        "relative_error": 3e-7,
        "cpu_seconds": {"trace": 5.2, "verify": 2.0, "build": 6.1},
        "peak_memory_bytes": 1.5e9,
    }
    failed = {"family": "Odd", "model": "odd_vit", "image_size": 96, "passed": False, "reason": "it is odd"}
    table = export_zoo.table_from_document({"models": [passed, failed]})
    assert "| ViT | vit_tiny | 224 | 1+196 | 3.0e-07 | 5 | 2 | 6 | 1.5 |" in table
    assert "| Odd | odd_vit | 96 | ✗ it is odd |" in table
    assert "1 of 2 passed" in table
