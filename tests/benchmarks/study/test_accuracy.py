from dataclasses import replace

import pytest

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.study import accuracy
from tokfilter.benchmarks.study.accuracy import demo_study, run
from tokfilter.benchmarks.study.baseline_speed import SpeedConfig
from tokfilter.benchmarks.study.methods import ABLATIONS, BEFORE, BEST, FILTER, LONGER, SPECIALISTS
from tokfilter.benchmarks.study.seed_run import DRAWS, SeedRun
from tokfilter.benchmarks.study.tasks import DIGITS, StudyConfig
from tokfilter.errors import DataError
from tokfilter.train.loop import generator_from
from tokfilter.vit.bundle import load_bundle

SMALL = StudyConfig(train=64, test=20, backbone_steps=2, labelled=8, filter_steps=2, finetune_steps=2)
GROUPED = "labels: grouped"
LONG = (LONGER[1], "longer: token merging")
METHODS = [BEFORE, FILTER, BEST, "random", "norm", "evit", "tome", *LONG, GROUPED, SPECIALISTS]
"""A method for each way that rows are made in; the demo's study has the other baselines."""


def silent(stage, fraction):
    pass


def test_the_demo_study_writes_data_model_and_rows_and_repeats_nothing(tmp_path):
    document = demo_study(tmp_path, 0, silent, SMALL)
    assert document_from_file(tmp_path / "accuracy.json", "tokfilter/accuracy") == document
    methods = {row["method"] for row in document["rows"]}
    assert methods == {"full", "filter", "random", "centre", "norm", "resolution"}
    assert all(len(row["top1"]) == 1 for row in document["rows"])
    assert load_bundle(tmp_path / "model.pt").keep == 0.25
    assert (tmp_path / "data/train/0").is_dir()
    stages = []
    again = demo_study(tmp_path, 0, lambda stage, fraction: stages.append(stage), SMALL)
    assert again["rows"] == document["rows"] and not stages


@pytest.fixture(scope="module")
def task():
    return replace(DIGITS, config=SMALL)


@pytest.fixture(scope="module")
def study(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, run(folder, [task], [0, 1], jobs=2, methods=METHODS)["digits-in-scenes"]


def test_rows_of_all_seeds_get_an_interval(study):
    folder, document = study
    assert document_from_file(folder / "digits-in-scenes.json", "tokfilter/accuracy") == document
    for row in document["rows"] + document["longer"] + document["ablations"]:
        one, other = row["top1"]
        assert row["mean"] == pytest.approx((one + other) / 2)
        half = 12.706 * abs(one - other) / 2  # Student's t of one degree of freedom
        assert row["low"] == pytest.approx(max(0, row["mean"] - half), abs=1e-4)
        assert row["high"] == pytest.approx(min(1, row["mean"] + half), abs=1e-4)
    assert document["settings"]["seeds"] == [0, 1] and len(document["settings"]["full_before_fine_tuning"]) == 2


def test_every_method_has_its_rows(study):
    _, document = study
    budgets = {44, 32, 22, 16, 9}
    cells = {(row["method"], row["tokens"]) for row in document["rows"]}
    for method in ("filter", "random", "norm"):
        assert {tokens for name, tokens in cells if name == method} == budgets
    for method, reached in (("evit", {44, 32}), ("tome", {44, 32, 22})):
        missing = {row["tokens"]: row["reason"] for row in document["absent"] if row["method"] == method}
        assert {tokens for name, tokens in cells if name == method} == reached == budgets - missing.keys()
        assert all("costs at least" in reason for reason in missing.values())
    assert {row["method"] for row in document["ablations"]} == {FILTER, GROUPED, SPECIALISTS}
    assert {row["method"] for row in document["longer"]} == set(LONG)
    assert document["command"].endswith("--data digits-in-scenes --seeds 0,1 --longer")
    assert (BEST, 9) in cells


def test_reducers_cost_what_the_filter_costs_and_have_a_curve_of_their_own_budgets(study):
    _, document = study
    macs = {(row["method"], row["tokens"]): row for row in document["rows"]}
    for (method, tokens), row in macs.items():
        assert ("budget" in row) == (method in ("evit", "tome"))
        if "budget" in row:
            assert macs["filter", tokens]["macs"] <= row["macs"] <= 1.1 * macs["filter", tokens]["macs"]
    curve = {(row["method"], row["tokens"]): row for row in document["curve"]}
    assert {method for method, _ in curve} == {"evit", "tome"} and len(curve) == len(document["curve"])
    for method in ("evit", "tome"):
        budgets = sorted(tokens for name, tokens in curve if name == method)
        assert budgets[-1] == 64 and budgets[0] == {"evit": 8, "tome": 32}[method]
        for tokens in (44, 32):
            at = macs[method, tokens]
            assert curve[method, at["budget"]]["top1"] == at["top1"]


def test_rates_are_added_to_rows_that_are_there_and_nothing_is_trained(task, study, monkeypatch):
    folder, _ = study
    asked = []

    def measured(path, keeps, config, command, methods, log):
        asked.append(methods)
        rows = [("full", 64, 10.0), ("filter", 32, 20.0), ("evit", 57, 12.0)]
        found = [
            {"runtime": "openvino", "method": m, "tokens": k, "images_per_s": rate, "speedup": {"value": rate / 10}}
            for m, k, rate in rows
        ]
        return {"settings": {"batch": 2}, "rows": found}

    monkeypatch.setattr(accuracy, "speed_from_bundle", measured)
    methods = [name for name in METHODS if name not in LONGER]
    for _ in range(2):
        found = run(folder, [task], [0, 1], 1, methods, None, SpeedConfig(), False)["digits-in-scenes"]
    assert len(asked) == 1 and "evit" in asked[0] and "random" not in asked[0]
    rates = {(r["method"], r["tokens"]): r["images_per_s"]["openvino"] for r in found["rows"] if "images_per_s" in r}
    assert rates["full", 64] == 10.0  # as every checkpoint with every token
    assert {cell: rate for cell, rate in rates.items() if cell[1] != 64} == {("filter", 32): 20.0}
    assert {(r["method"], r["tokens"]) for r in found["curve"] if "speedup" in r} == {
        ("evit", 57), ("evit", 64), ("tome", 64),
    }  # fmt: skip
    assert found["settings"]["speed"] == {"batch": 2}
    with pytest.raises(DataError, match=r"no rows of 'idle' yet: run the study without --speed-only"):
        run(folder, [task], [0, 1], 1, ["idle"], None, SpeedConfig(), False)


def test_an_interrupted_study_continues(task, study, tmp_path):
    """Rows of another run are read, missing ones are measured again, with the same result."""
    folder, document = study
    (folder / "digits-in-scenes/seed-1/rows/norm.json").unlink()
    (folder / "digits-in-scenes/seed-1/rows/labels--grouped.json").unlink()
    assert run(folder, [task], [0, 1], methods=METHODS)["digits-in-scenes"]["rows"] == document["rows"]


def test_a_folder_of_another_study_is_refused(task, study):
    folder, _ = study
    with pytest.raises(DataError, match="other settings or of another version"):
        run(folder, [replace(task, config=replace(SMALL, finetune_steps=3))], [0], methods=["filter"])


def test_every_ablation_changes_one_setting(tmp_path):
    config = SeedRun(DIGITS, SMALL, 0, tmp_path, tmp_path, silent).train_config
    for name, change in ABLATIONS.items():
        changed = change(config)
        differing = [key for key, value in vars(config).items() if vars(changed)[key] != value]
        assert len(differing) == 1, name


def test_baselines_draw_as_they_did_for_the_published_rows():
    assert generator_from(0, f"{DRAWS}norm", "step", 0).initial_seed() == 68992513100658028
