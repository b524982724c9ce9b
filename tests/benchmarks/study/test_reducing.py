import copy
import dataclasses
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.benchmarks.study.baselines import MAC_BASELINES, baseline_from_weights
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.errors import BudgetError, UnreachableBudgetError, UnsupportedModelError
from tokfilter.train.data import splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.evaluation import evaluate
from tokfilter.train.finetune import FineTuning, train_elastic
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import TokenFilter

NAMES = list(MAC_BASELINES)
SHAPES = [(4, 4, 32), (4, 7, 48), (4, 8, 64), (6, 16, 64), (12, 14, 192)]
"""(blocks, patches along an edge, channels)"""


def architecture(depth=4, edge=4, width=32, **kwargs):
    shape = {"img_size": 4 * edge, "patch_size": 4, "embed_dim": width, "depth": depth, "num_heads": 2}
    return Architecture("vit_tiny_patch16_224", {**shape, "num_classes": 5, **kwargs})


@cache
def shared_baseline(name, shape):
    """For tests that do not change it."""
    return baseline_of(name, shape, FilterConfig(width=16))


def baseline_of(name, shape=(), config=None, **kwargs):
    torch.manual_seed(0)
    backbone = create_backbone(architecture(*shape, **kwargs)).eval()
    return baseline_from_weights(
        name, architecture(*shape, **kwargs), backbone.state_dict(), 0, config
    ).eval(), backbone


def counted_macs(baseline, keep):
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
    ):
        baseline(torch.empty(1, 3, *baseline.backbone.patch_embed.img_size), keep)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_with_every_token_it_is_the_full_model(name, shape):
    baseline, backbone = shared_baseline(name, shape)
    images = torch.randn(3, 3, *backbone.patch_embed.img_size)
    with torch.no_grad():
        expected = backbone(images)
        for keep in (1.0, baseline.num_patches, None):
            torch.testing.assert_close(baseline(images, keep), expected, rtol=0, atol=1e-5)
    assert baseline.macs(1.0) == macs(FilteredViT(copy.deepcopy(backbone)), 1.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cost_is_the_filters_and_at_most_one_token_more(name, shape):
    baseline, backbone = shared_baseline(name, shape)
    filtered = FilteredViT(copy.deepcopy(backbone), TokenFilter(backbone.embed_dim, FilterConfig(width=16)))
    full = baseline.macs(1.0)
    for k in (baseline.min_tokens, (baseline.min_tokens + baseline.num_patches) // 2):
        target = macs(filtered, k)
        assert baseline.costs.filtered(k) == target
        assert baseline.macs(k) == counted_macs(baseline, k)
        assert min(target, full) <= baseline.macs(k) <= full
        between = [s for family in baseline.families() for s in family if target <= baseline.cost(s) < baseline.macs(k)]
        if name == "tome":
            assert not between
        one_token = baseline.costs.depth * (
            baseline.costs.attention(baseline.num_patches) - baseline.costs.attention(baseline.num_patches - 1)
        )
        one_token += baseline.costs.depth * (baseline.costs.mlp(1) - baseline.costs.mlp(0))
        assert baseline.macs(k) - target < one_token


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_schedules_only_lose_tokens_and_grow_with_the_budget(name, shape):
    baseline, _ = shared_baseline(name, shape)
    assert baseline.schedule(1.0) == (baseline.num_patches,) * shape[0]
    costs = []
    for k in range(baseline.min_tokens, baseline.num_patches + 1):
        schedule = baseline.schedule(k)
        assert len(schedule) == shape[0] and min(schedule) >= 1
        assert list(schedule) == sorted(schedule, reverse=True) and schedule[0] <= baseline.num_patches
        if name == "tome":
            assert all(2 * after >= before for before, after in pairwise((baseline.num_patches, *schedule)))
        else:
            assert len(set(schedule) - {baseline.num_patches}) <= 1
        costs.append(baseline.macs(k))
    assert costs == sorted(costs)


def test_the_pruning_block_is_that_of_the_docstring():
    def place(baseline, keep):
        return sum(n == baseline.num_patches for n in baseline.schedule(keep)) + 1

    deep = shared_baseline("evit", (12, 14, 192))[0]
    assert [place(deep, keep) for keep in (0.7, 0.5, 0.25, 0.15)] == [4, 4, 2, 1]
    assert place(shared_baseline("evit", (4, 8, 64))[0], 0.7) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_below_the_smallest_is_refused_and_raised_in_training(name):
    baseline, _ = baseline_of(name)
    assert 1 < baseline.min_tokens < baseline.num_patches
    with pytest.raises(UnreachableBudgetError, match=f"a budget of at least {baseline.min_tokens} tokens"):
        baseline(torch.zeros(1, 3, 16, 16), baseline.min_tokens - 1)
    cheapest = min(baseline.cost(s) for f in baseline.families() for s in f)
    assert baseline.costs.filtered(baseline.min_tokens - 1) < cheapest
    with pytest.raises(BudgetError, match="keep must be"):
        baseline.schedule(17)
    images = torch.randn(2, 3, 16, 16)
    baseline.train()
    torch.testing.assert_close(baseline(images, 1), baseline(images, baseline.min_tokens))


def test_merging_equal_patches_changes_nothing():
    """Attention to a merged token of n equal patches equals attention to the n patches."""
    baseline, backbone = baseline_of("tome", class_token=True)
    backbone.pos_embed.data[:, 1:] = 0
    baseline.backbone.pos_embed.data[:, 1:] = 0
    images = torch.randn(2, 3, 4, 4).repeat(1, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(baseline(images, 0.5), backbone(images), rtol=0, atol=1e-5)
    assert baseline.sizes.shape[1] == baseline.schedule(0.5)[-1]
    assert torch.equal(baseline.sizes.sum(1), torch.full((2,), 16.0))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_weight(name):
    baseline, _ = baseline_of(name)
    baseline.train()
    baseline(torch.randn(2, 3, 16, 16), 0.6).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in baseline.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_keeps_no_state(name):
    baseline, _ = baseline_of(name)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = baseline(images, 0.6)
        baseline(images[:1], 0.8)
        assert torch.equal(baseline(images, 0.6), before)
        assert torch.equal(copy.deepcopy(baseline)(images, 0.6), before)
    assert all(block.step.keys is None for block in baseline.backbone.blocks)


@pytest.fixture(scope="module")
def scenes_of_16_pixels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 0, train=48, test=20, config=SceneConfig(size=16, digits=(8,), window=(40, 60)))
    backbone = create_backbone(architecture())
    preprocessing = preprocessing_from_backbone(backbone, crop_pct=1.0)
    return ImageDataset(splits_from_folder(folder).train, preprocessing)


class Interrupted(Exception):  # noqa: N818  (a signal, not an error)
    pass


@pytest.mark.parametrize("name", NAMES)
def test_elastic_training_is_repeatable_and_resumes(name, scenes_of_16_pixels, tmp_path):
    def quiet(stage, fraction):
        pass

    def stop(stage, fraction):
        if fraction > 0.5:
            raise Interrupted

    def trained(run_dir):
        baseline, _ = baseline_of(name, num_classes=10)
        train_elastic(baseline, scenes_of_16_pixels, FineTuning(TrainingPlan(8, batch=8)), 0, run_dir, name=name)
        return evaluate(baseline, scenes_of_16_pixels, [1.0, 0.7], quiet), baseline.state_dict()

    whole, weights = trained(RunDir())
    with pytest.raises(Interrupted):
        trained(RunDir(tmp_path, save_seconds=0.0, progress=stop))
    again, weights_again = trained(RunDir(tmp_path, resume=True))
    assert whole == again
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)


@pytest.mark.parametrize("name", NAMES)
def test_models_without_a_class_token_are_refused(name):
    for kwargs in ({"global_pool": "avg"}, {"class_token": False, "global_pool": "avg"}):
        plain = architecture(**kwargs)
        with pytest.raises(UnsupportedModelError, match="classifies by its class token"):
            baseline_from_weights(name, plain, create_backbone(plain).state_dict(), 0)
    rotary = Architecture("eva02_tiny_patch14_224", {"depth": 1})
    with pytest.raises(UnsupportedModelError, match="need timm's VisionTransformer, got Eva"):
        baseline_from_weights(name, rotary, create_backbone(rotary).state_dict(), 0)


@pytest.mark.parametrize("name", NAMES)
def test_registers_and_layer_scale_are_supported(name):
    kwargs = {"reg_tokens": 2, "init_values": 1e-2, "qk_norm": True}
    baseline, backbone = baseline_of(name, **kwargs)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(baseline(images, 1.0), backbone(images), rtol=0, atol=1e-5)
        assert baseline(images, 0.6).isfinite().all()
    assert dataclasses.asdict(baseline.costs)["prefix"] == 3
    assert baseline.macs(0.6) == counted_macs(baseline, 0.6)
