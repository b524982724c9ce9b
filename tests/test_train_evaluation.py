import pytest
import torch

from tokfilter.backbone import Architecture, create_backbone
from tokfilter.model import FilteredViT
from tokfilter.scorers import RandomScorer
from tokfilter.train.data import splits_from_folder
from tokfilter.train.evaluation import evaluate, wilson
from tokfilter.train.scenes import SceneConfig, write_scenes
from tokfilter.train.views import Views, preprocessing_from_backbone

SMALL = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10},
)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 0, train=40, test=40, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    preprocessing = preprocessing_from_backbone(create_backbone(SMALL), crop_pct=1.0)
    return Views(splits_from_folder(folder).test, preprocessing)


def test_wilson_agrees_with_a_textbook_and_stays_in_range():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == 1
    with pytest.raises(ValueError, match="correct <= images"):
        wilson(1, 0)


def test_evaluation_counts_right_answers(views):
    model = FilteredViT(create_backbone(SMALL), RandomScorer(1))
    one = evaluate(model, views, [1.0, 0.5], lambda what, share: None, batch=7, seed=4)
    with torch.no_grad():
        expected = model(views.normalised(next(views.in_order(40)).images), 1.0).argmax(1) == views.labels
    assert one[0].correct == int(expected.sum()) and one[0].images == 40
    assert evaluate(model, views, [0.5, 1.0], lambda what, share: None, batch=7, seed=4) == one
