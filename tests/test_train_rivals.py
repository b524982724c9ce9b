import pytest
import torch

from tokfilter.backbone import Architecture, create_backbone
from tokfilter.train.data import splits_from_folder
from tokfilter.train.evaluation import evaluate
from tokfilter.train.finetune import FineTuning, train_elastic
from tokfilter.train.loop import Plan, Work
from tokfilter.train.rivals import RIVALS, grid_from_tokens, rival_from_weights
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


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_begin_with_the_same_weights_and_train_repeatably(views, name):
    backbone = create_backbone(SMALL).eval()
    found = []
    for _ in range(2):
        rival = rival_from_weights(name, SMALL, backbone.state_dict(), seed=3)
        rival.eval()
        images = views.normalised(next(views.in_order(3)).images)
        torch.testing.assert_close(rival(images, 16), backbone(images))
        train_elastic(rival, views, FineTuning(Plan(5, batch=8)), 0, Work())
        found.append(evaluate(rival, views, [1.0, 5, 0.25], lambda what, share: None))
    assert found[0] == found[1]
    assert [row.tokens for row in found[0]] == [16, 5, 4]


@pytest.mark.parametrize("grid", [(8, 8), (7, 7), (4, 8)])
def test_the_smaller_grid_never_has_fewer_tokens(grid):
    for tokens in range(1, grid[0] * grid[1] + 1):
        rows, columns = grid_from_tokens(tokens, grid)
        assert rows * columns >= tokens and rows <= grid[0] and columns <= grid[1]
        assert rows * columns <= tokens + 2 * max(grid)
    assert grid_from_tokens(grid[0] * grid[1], grid) == grid
    assert grid_from_tokens(16, (8, 8)) == (4, 4)
