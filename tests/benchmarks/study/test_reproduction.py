"""``study --check``: a retrained seed against a published study."""

import json
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner
from scipy import stats

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.study import command
from tokfilter.benchmarks.study.reproduction import check_published, lines_of_check, published_study
from tokfilter.benchmarks.study.tasks import DIGITS
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import header, write_json


def study(values, seeds, **settings):
    """A document of the study: ``values`` of the filter at 32 tokens, one for each seed."""
    row = {"method": "filter", "keep": 0.5, "tokens": 32, "macs": 10, "mean": 0, "low": 0, "high": 1}
    card = {"architecture": "vit", "input_size": [3, 64, 64], "patches": 64, "prefix_tokens": 1, "classes": 10}
    return {
        **header("accuracy", "a command"),
        "model": card,
        "data": {"name": "digits-in-scenes", "images": 1000, "classes": 10, "part": "test"},
        "settings": {"seeds": seeds, "interval": "t", **asdict(DIGITS.config), **settings},
        "rows": [{**row, "top1": values}],
    }


@pytest.mark.parametrize(("now", "inside"), [(0.9, True), (0.86, True), (0.94, True), (0.8, False), (1.0, False)])
def test_inside_is_where_one_more_seed_is_expected(now, inside):
    values = [0.89, 0.9, 0.91]
    check = check_published(study(values, [0, 1, 2]), study([now], [5]), "again")
    (row,) = check["rows"]
    # Student's t for a new observation: t s sqrt(1 + 1/n)
    reach = stats.t.ppf(0.975, 2) * 0.01 * (4 / 3) ** 0.5
    assert (row["low"], row["high"]) == (pytest.approx(0.9 - reach), pytest.approx(0.9 + reach))
    assert row["inside"] == check["inside"] == inside and row["images"] is None
    assert ("OUTSIDE" in "\n".join(lines_of_check(check))) != inside


def test_the_same_seed_is_compared_in_images():
    published = study([0.89, 0.9, 0.91], [0, 3, 2])
    check = check_published(published, study([0.897], [3]), "again")
    assert check["rows"][0]["images"] == -3
    check["of"]["versions"] = {**check["versions"], "torch": "2.0"}
    lines = lines_of_check(check)
    assert lines[0].startswith("torch: published with 2.0, now ") and "-3 images against the same seed" in lines[-1]


def test_rows_that_were_not_published_are_refused():
    with pytest.raises(DataError, match="one for each of its 3 seeds"):
        check_published(study([0.9, 0.9], [0, 1, 2]), study([0.9], [0]), "again")
    other = study([0.9], [0])
    other["data"]["images"] = 20
    with pytest.raises(DataError, match="of 1000 images, the new ones of 20"):
        check_published(study([0.9, 0.9], [0, 1]), other, "again")


def test_settings_of_the_document_are_taken_and_others_refused(tmp_path):
    path = tmp_path / "study.json"
    write_json(path, study([0.9, 0.8], [0, 1], finetune_steps=7))
    assert published_study(path)[1].config == replace(DIGITS.config, finetune_steps=7)
    write_json(path, study([0.9, 0.8], [0, 1], finetune_steps="7"))
    with pytest.raises(DataError, match="other types than the study's: finetune_steps"):
        published_study(path)
    write_json(path, study([0.9], [0]))
    with pytest.raises(DataError, match="two seeds or more"):
        published_study(path)


def test_the_exit_code_says_whether_the_seed_agrees(tmp_path, monkeypatch):
    path, work, trained = tmp_path / "published.json", tmp_path / "work", []
    write_json(path, study([0.89, 0.9, 0.91], [4, 1, 2], finetune_steps=7))

    def run(folder, tasks, seeds, methods, log):
        trained.append((folder, tasks[0].config.finetune_steps, seeds, methods))
        return {"digits-in-scenes": study([0.9], seeds)}

    monkeypatch.setattr(command, "run", run)
    done = CliRunner().invoke(command.main, [str(work), "--check", str(path)])
    assert done.exit_code == 0 and "inside, +10 images" in done.output, done.output
    assert trained == [(work / "check", 7, [4], ["filter"])]
    assert document_from_file(work / "digits-in-scenes-check.json", "tokfilter/study-check")["inside"]
    write_json(path, study([0.1, 0.1, 0.1], [4, 1, 2]))
    done = CliRunner().invoke(command.main, [str(work), "--check", str(path), "--seeds", "5", "--json"])
    assert done.exit_code == 1 and not json.loads(done.stdout)["inside"]
    assert trained[1][2] == [5]
    done = CliRunner().invoke(command.main, [str(work), "--check", str(path), "--seeds", "0,1"])
    assert done.exit_code == 2 and "one seed" in done.output
