import pytest
import torch

from tokfilter.benchmarks.study.baselines import TOKEN_BASELINES, baseline_from_weights, grid_from_tokens
from tokfilter.train.evaluation import evaluate
from tokfilter.train.finetune import FineTuning, train_elastic
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.vit.backbone import create_backbone


@pytest.mark.parametrize("name", TOKEN_BASELINES)
def test_baselines_start_from_the_same_weights_and_training_is_repeatable(scene_dataset, ten_classes, name):
    backbone = create_backbone(ten_classes).eval()
    found = []
    for _ in range(2):
        baseline = baseline_from_weights(name, ten_classes, backbone.state_dict(), seed=3)
        baseline.eval()
        images = scene_dataset.normalised(next(scene_dataset.in_order(3)).images)
        torch.testing.assert_close(baseline(images, 16), backbone(images))
        train_elastic(baseline, scene_dataset, FineTuning(TrainingPlan(5, batch=8)), 0, RunDir())
        found.append(evaluate(baseline, scene_dataset, [1.0, 5, 0.25], lambda stage, fraction: None))
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
