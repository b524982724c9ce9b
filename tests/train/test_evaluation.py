import pytest
import torch

from tokfilter.train.evaluation import evaluate, wilson
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import RandomScorer


def test_wilson_agrees_with_a_textbook_and_stays_in_range():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == 1
    with pytest.raises(ValueError, match="correct <= images"):
        wilson(1, 0)


def test_evaluation_counts_right_answers(scene_dataset, ten_classes):
    model = FilteredViT(create_backbone(ten_classes), RandomScorer(1))
    one = evaluate(model, scene_dataset, [1.0, 0.5], lambda what, fraction: None, batch=7, seed=4)
    with torch.no_grad():
        images = scene_dataset.normalised(next(scene_dataset.in_order(40)).images)
        expected = model(images, 1.0).argmax(1) == scene_dataset.labels
    assert one[0].correct == int(expected.sum()) and one[0].images == 40
    assert evaluate(model, scene_dataset, [0.5, 1.0], lambda what, fraction: None, batch=7, seed=4) == one
