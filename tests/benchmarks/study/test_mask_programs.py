"""The programs mask-head and segmentation, their documents and tables."""

import json

import pytest
import torch
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from tokfilter.benchmarks.records.paths import RESULTS, SCHEMAS
from tokfilter.benchmarks.records.segmentation_tables import mask_head_table, segmentation_table
from tokfilter.benchmarks.study import mask_head, segmentation
from tokfilter.errors import VerificationError

PROGRAMS = {"mask_head": ("mask-head", mask_head_table), "segmentation": ("segmentation", segmentation_table)}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_published_document_matches_its_schema_and_gives_a_table(name):
    path, (schema, table) = RESULTS / f"{name}.json", PROGRAMS[name]
    if not path.is_file():
        pytest.skip(f"not measured yet: python -m tokfilter.benchmarks {schema}")
    document = json.loads(path.read_text())
    Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_text())).validate(document)
    assert table(document).count("\n|") >= len({row.get("method", row.get("masks")) for row in document["rows"]})


def test_the_published_head_reaches_its_goals():
    path = RESULTS / "mask_head.json"
    if not path.is_file():
        pytest.skip("not measured yet: python -m tokfilter.benchmarks mask-head")
    rows = [row for row in json.loads(path.read_text())["rows"] if (row["image"], row["masks"]) == (512, 21)]
    assert rows and all(row["goals"] == mask_head.GOALS and row["reached"] for row in rows)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_row_compares_both_forms(align_corners, monkeypatch, one_thread):
    monkeypatch.setattr(mask_head, "_peak_in_new_process", lambda case, form, threads: {"tokens": 1, "dense": 5}[form])
    row = mask_head.measure(mask_head.HeadCase(48, 16, 3, 8, 6, 2, align_corners), rounds=2)
    assert row["difference"] < 1e-5 and row["memory_ratio"] == 5 and row["reached"] is None


def test_forms_that_differ_are_not_timed(monkeypatch, one_thread):
    monkeypatch.setattr(mask_head, "masks_from_upsampled_features", lambda *args: torch.ones(1, 3, 48, 48))
    with pytest.raises(VerificationError, match="so they are not timed"):
        mask_head.measure(mask_head.HeadCase(48, 16, 3, 8, 6), rounds=2)


def test_segmentation_measures_each_fill_and_random_tokens_and_goes_on_from_its_checkpoints(tmp_path, one_thread):
    config = segmentation.SegmentationConfig(6, 4, steps=1, labelled=1, filter_steps=1, finetune_steps=1, batch=4)
    rows = list(segmentation.seed_rows(config, 0, tmp_path, fills=("nearest",)))
    assert [row["method"] for row in rows] == ["full"] + 5 * ["nearest"] + 5 * ["random tokens"]
    assert [row["tokens"] for row in rows[1:6]] == [144, 100, 72, 50, 36]
    assert all(0 <= row["low"] <= row["high"] <= 1 for row in rows)
    assert (tmp_path / "model.pt").is_file()
    again = list(segmentation.seed_rows(config, 0, tmp_path, fills=("nearest",)))
    assert [row["miou"] for row in again] == [row["miou"] for row in rows]


def test_the_programs_write_documents_of_their_schemas(tmp_path, monkeypatch, one_thread):
    row = {"method": "full", "seed": 3, "fine_tuned": False, "tokens": 144, "images": 4, "miou": 0.5, "low": 0.4}
    row |= {"high": 0.6, "iou": [0.5, None], "macs": 7}
    monkeypatch.setattr(segmentation, "seed_rows", lambda *args: iter([row]))
    monkeypatch.setattr(mask_head, "_peak_in_new_process", lambda case, form, threads: {"tokens": 1, "dense": 5}[form])
    for name, program, options in (
        ("mask-head", mask_head.main, ["--image", "64", "--masks", "2", "--rounds", "2"]),
        ("segmentation", segmentation.main, ["--seeds", "3"]),
    ):
        result = CliRunner().invoke(program, [*options, "-o", str(tmp_path / name)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        document = json.loads((tmp_path / name).read_text())
        Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text())).validate(document)
        assert PROGRAMS[name.replace("-", "_")][1](document).count("\n|") >= 2
