from dataclasses import replace

import pytest

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.study.accuracy import demo_study, run
from tokfilter.benchmarks.study.methods import ABLATIONS, FILTER, LONGER, MAIN, SPECIALISTS
from tokfilter.benchmarks.study.seed_run import DRAWS, SeedRun
from tokfilter.benchmarks.study.tasks import DIGITS, StudyConfig
from tokfilter.errors import DataError
from tokfilter.train.loop import generator_from
from tokfilter.vit.bundle import load_bundle

SMALL = StudyConfig(train=64, test=20, backbone_steps=2, labelled=8, filter_steps=2, finetune_steps=2)
GROUPED = "labels: grouped"
METHODS = [*MAIN, *LONGER, GROUPED, SPECIALISTS]


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
    for method in ("filter", "random", "centre", "norm", "resolution", "evit"):
        assert {tokens for name, tokens in cells if name == method} == budgets
    assert ("tome", 32) in cells and ("tome", 9) not in cells  # four blocks can only halve so often
    assert {row["method"] for row in document["ablations"]} == {FILTER, GROUPED, SPECIALISTS}
    assert {row["method"] for row in document["longer"]} == set(LONGER)
    assert document["command"].endswith("--data digits-in-scenes --seeds 0,1 --longer")
    assert ("filter, distilled, with summary", 9) in cells


def test_baselines_inside_the_blocks_cost_what_the_filter_costs(study):
    _, document = study
    macs = {(row["method"], row["tokens"]): row["macs"] for row in document["rows"]}
    for (method, tokens), count in macs.items():
        if method in ("evit", "tome"):
            assert macs["filter", tokens] <= count <= 1.1 * macs["filter", tokens]


def test_an_interrupted_study_continues(task, study, tmp_path):
    """Rows of another run are read, missing ones are measured again, with the same result."""
    folder, document = study
    (folder / "digits-in-scenes/seed-1/rows/norm.json").unlink()
    (folder / "digits-in-scenes/seed-1/rows/labels--grouped.json").unlink()
    assert run(folder, [task], [0, 1], methods=METHODS)["digits-in-scenes"]["rows"] == document["rows"]


def test_a_folder_of_another_study_is_refused(task, study):
    folder, _ = study
    with pytest.raises(DataError, match="another seed, size or version"):
        run(folder, [replace(task, config=replace(SMALL, finetune_steps=3))], [0], methods=["filter"])


def test_every_ablation_changes_one_setting(tmp_path):
    config = SeedRun(DIGITS, SMALL, 0, tmp_path, tmp_path, silent).train_config
    for name, change in ABLATIONS.items():
        changed = change(config)
        differing = [key for key, value in vars(config).items() if vars(changed)[key] != value]
        assert len(differing) == 1, name


def test_baselines_draw_as_they_did_for_the_published_rows():
    assert generator_from(0, f"{DRAWS}norm", "step", 0).initial_seed() == 68992513100658028
