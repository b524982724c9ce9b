"""The published accuracy of int8 and fp8 matches its schema and meets the limits; its table says what was measured."""

import json

import jsonschema
import pytest
from paths import SCHEMAS

from tokfilter.benchmarks.records.int8_tables import int8_table
from tokfilter.benchmarks.study import int8_accuracy

DOCUMENT = json.loads(int8_accuracy.RESULT.read_text())


@pytest.mark.parametrize(
    ("result", "model"), [(int8_accuracy.RESULT, "digits in scenes"), (int8_accuracy.FASHION, "Fashion-MNIST")]
)
def test_the_published_figures_meet_the_limits(result, model):
    document = json.loads(result.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / int8_accuracy.RESULT.name).read_text()))
    rows = document["rows"]
    assert {row["model"] for row in rows} == {model}
    for row in rows:
        assert row["check_images"] == 1000 and row["calibration_images"] == 500
        assert row["drop"] <= 0.5 and row["same_tokens"] >= 0.98
        assert row["drop"] == pytest.approx(100 * (row["fp32_top1"] - row["top1"]))


def test_rows_are_those_of_the_manifest(export_directory):
    from dataclasses import replace
    from pathlib import Path

    from tokfilter.artifacts.manifest import load_manifest

    row = {"tokens": 8, "drop": 0.25}
    record = {"calibration_images": 40, "check_images": 30, "layers": 8, "in_fp32": ["blocks.0.mlp.fc2"]}
    manifest = load_manifest(export_directory)
    manifest = replace(manifest, verification={"quantization": {"int8": {**record, "budgets": [row]}}})
    case = int8_accuracy.Case("noise", Path(), Path(), Path())
    (found,) = int8_accuracy.rows_of(case, manifest)
    assert found == {
        "model": "noise",
        "architecture": "vit_tiny_patch16_224",
        "patches": 16,
        "precision": "int8",
        **record,
        **row,
    }


def test_the_table_has_a_line_per_budget_and_names_layers_in_fp32():
    rows = [
        {
            "model": "noise",
            "patches": 16,
            "precision": precision,
            "tokens": tokens,
            "fp32_top1": 0.9,
            "top1": 0.9 - lost / 100,
            "drop": lost,
            "drop_low": lost - 1,
            "drop_high": lost + 1,
            "check_images": 2000,
            "calibration_images": 500,
            "in_fp32": ["blocks.0.mlp.fc2"] if precision == "fp8" else [],
            "same_tokens": 1.0,
        }
        for precision, lost in (("int8", 0.25), ("fp8", 0.4))
        for tokens in (16, 8)
    ]
    text = int8_table({**DOCUMENT, "rows": rows})
    assert "| noise | 8 of 16 | 90.00 | 89.75 | 0.25 (-0.75 to 1.25) | 89.60 | 0.40 (-0.60 to 1.40) |" in text
    assert text.count("| noise |") == 2 and "Layers in fp32: fp8 blocks.0.mlp.fc2." in text
    assert "2,000 test images, calibrated on 500" in text and DOCUMENT["command"] in text
