"""The study of the frozen mode: its published result, and its intervals."""

import json

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from paths import SCHEMAS

from tokfilter.benchmarks.records.label_tables import frozen_table
from tokfilter.benchmarks.study import frozen
from tokfilter.errors import DataError


def test_the_published_result_matches_its_schema_and_table():
    if not frozen.RESULT.is_file():
        pytest.skip("not measured yet: python -m tokfilter.benchmarks frozen WORK")
    document = json.loads(frozen.RESULT.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / "frozen.json").read_text()))
    assert {row["method"] for row in document["rows"]} == set(frozen.METHODS)
    for row in document["rows"]:
        assert row["correct"] == round(row["top1"] * document["data"]["images"])
    assert document["data"]["images"] >= 2000 and "frozen mode minus token merging" in frozen_table(document)


def test_the_interval_of_a_paired_difference_counts_the_images_on_which_two_methods_differ():
    ours, theirs = np.array([1, 1, 1, 0] * 100), np.array([1, 0, 1, 1] * 100)
    assert frozen.paired_interval(ours, ours) == [0, 0, 0]
    value, low, high = frozen.paired_interval(ours, theirs)
    assert value == 0 and high == -low == pytest.approx(1.96 * (0.5 / 400) ** 0.5)
    assert frozen.paired_interval(ours, np.zeros(400))[0] == pytest.approx(ours.mean())


def test_options_reach_the_settings_and_two_names_for_one_are_refused(tmp_path, monkeypatch):
    seen = []

    def measure(folder, wheels, progress, run):
        seen.append(run)
        raise DataError("enough")

    monkeypatch.setattr(frozen, "measure", measure)
    arguments = [str(tmp_path / "work"), "--labelled", "7", "--tuned", "9", "--precision", "bf16"]
    CliRunner().invoke(frozen.main, [*arguments, "--set", "finetune.epochs=6", "--set", "labels.precision=fp16"])
    (run,) = seen
    assert (run.sizes.labelled, run.sizes.tuned, run.sizes.test) == (7, 9, frozen.SIZES.test)
    assert run.changes["finetune.epochs"] == 6 and run.changes["labels.precision"] == "fp16"
    assert run.changes["filter.precision"] == "bf16"
    for given, words in (("labels.limit=3", "give that one"), ("labels.limits=3", "no setting")):
        result = CliRunner().invoke(frozen.main, [*arguments, "--set", given])
        assert result.exit_code != 0 and words in f"{result.output} {result.exception}"
    assert len(seen) == 1
