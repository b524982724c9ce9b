"""Precision, accumulation, mean weights and skipped steps of the training loop; identities of earlier versions."""

import hashlib
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from tokfilter.errors import DataError
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning
from tokfilter.train.loop import RunDir, TrainingPlan, loss_metrics, train
from tokfilter.train.recipe_file import recipe_from_source, values_from_texts
from tokfilter.train.run_checkpoint import load_plain
from tokfilter.train.tensor_dataset import TensorDataset, TensorImages

PLAN = TrainingPlan(6, batch=8, lr=1e-2)


class Stop(Exception):  # noqa: N818
    pass


def data():
    pixels = torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = TensorImages(tuple(map(str, range(20))), "0" * 64)
    return TensorDataset(images, None, pixels, torch.arange(20) % 3, torch.arange(20))


def trained(plan, run_dir=None, spoiled=()):
    """A small network and its losses. spoiled: passes whose loss is NaN."""
    torch.manual_seed(0)
    network, calls = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.GELU(), nn.Linear(8, 3)), []

    def loss(batch, share, generator):
        calls.append(len(batch.images))
        value = nn.functional.cross_entropy(network(batch.images).float(), batch.labels)
        return value * math.nan if len(calls) - 1 in spoiled else value

    losses = train("stage", network, data(), loss, plan, 0, "", run_dir or RunDir())
    return {name: value.clone() for name, value in network.state_dict().items()}, losses, calls


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_settings_of_earlier_versions_have_the_same_identity():
    filtering = {**asdict(FilterTraining()), "plan": FilterTraining().plan.identity()}
    digests = [hashlib.sha256(str(settings).encode()).hexdigest() for settings in (FineTuning().identity(), filtering)]
    assert digests == [
        "197d138b7f48bb53f4913dfc9b1e9cb00d0623d7f285800808d8b6fc24de5001",
        "9ef739af94044d3535c0e318a97f3db64e65e1f56ddaf97ae02e25256b57a4f8",
    ]
    assert FineTuning(replace(PLAN, ema=0.9)).identity()["plan"]["ema"] == 0.9


def test_accumulated_passes_have_the_losses_of_one():
    _, losses, calls = trained(PLAN)
    _, parts, more = trained(replace(PLAN, accumulate=4))
    assert calls == [8] * 6 and more == [2] * 24
    assert max(abs(a - b) for a, b in zip(losses, parts, strict=True)) < 1e-5
    with pytest.raises(DataError, match="the batch must be at least 10"):
        trained(replace(PLAN, accumulate=5))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_keeps_weights_in_fp32(precision):
    _, losses, _ = trained(PLAN)
    half, found, _ = trained(replace(PLAN, precision=precision))
    assert found != losses and max(abs(a - b) for a, b in zip(losses, found, strict=True)) < 0.05
    assert all(value.dtype == torch.float32 for value in half.values())
    with pytest.raises(DataError, match="one of fp32, bf16, fp16, got 'int8'"):
        TrainingPlan(1, precision="int8")


def test_the_stage_ends_with_the_mean_of_its_weights(tmp_path):
    weights, losses, _ = trained(PLAN)
    mean, found, _ = trained(replace(PLAN, ema=0.9), RunDir(tmp_path))
    assert found == losses and not same(mean, weights)
    again, _, calls = trained(replace(PLAN, ema=0.9), RunDir(tmp_path, resume=True))
    assert same(again, mean) and not calls
    assert same(load_plain(tmp_path / "stage.checkpoint.pt")["weights"], weights)


@pytest.mark.parametrize("plan", [replace(PLAN, precision="fp16", ema=0.9), replace(PLAN, accumulate=2)])
def test_an_interrupted_run_goes_on_with_equal_bits(tmp_path, plan):
    def stop(step, fraction):
        if fraction > 0.6:
            raise Stop

    with pytest.raises(Stop):
        trained(plan, RunDir(tmp_path, save_seconds=0.0, progress=stop), spoiled={1})
    resumed, losses, _ = trained(plan, RunDir(tmp_path, resume=True))
    whole, expected, _ = trained(plan, spoiled={1})
    assert same(resumed, whole) and str(losses) == str(expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_steps_without_finite_gradients_are_skipped_and_counted(precision):
    plan = replace(PLAN, precision=precision)
    weights, losses, _ = trained(plan, spoiled={2, 3})
    assert [math.isnan(loss) for loss in losses] == [False, False, True, True, False, False]
    assert all(value.isfinite().all() for value in weights.values())
    metrics = loss_metrics(losses)
    assert metrics == {"first_loss": losses[0], "last_loss": losses[-1], "skipped_steps": 2}
    assert "skipped_steps" not in loss_metrics(losses[:2])


def test_many_skipped_steps_in_a_row_end_the_training():
    with pytest.raises(DataError, match="stage: 25 steps in a row had no finite gradients .* Lower the learning rate"):
        trained(replace(PLAN, steps=40), spoiled=set(range(3, 40)))
    with pytest.raises(DataError, match="none of 6 steps had finite gradients"):
        loss_metrics(trained(PLAN, spoiled=set(range(6)))[1])


def test_recipes_name_the_settings():
    texts = ["finetune.precision=bf16", "filter.accumulate=3", "backbone.ema=0.99"]
    recipe = recipe_from_source("default", values_from_texts(texts))
    plans = [stage.plan(640) for stage in (recipe.finetune, recipe.filter, recipe.backbone)]
    assert [(plan.precision, plan.accumulate, plan.ema) for plan in plans] == [
        ("bf16", 1, 0.0), ("fp32", 3, 0.0), ("fp32", 1, 0.99)
    ]  # fmt: skip
