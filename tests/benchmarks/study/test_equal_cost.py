"""Reducers get the filter's multiply-accumulates, never fewer, and every budget that they cannot have its reason."""

import pytest
import torch

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.benchmarks.study.equal_cost import (
    OTHER_REDUCERS,
    count,
    curve_budgets,
    equal_budgets,
    filtered_model,
    reduced_model,
)
from tokfilter.benchmarks.study.tasks import DIGITS
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.macs import macs
from tokfilter.vit.reducers import tome

BUDGETS = (44, 22, 9)


@pytest.fixture(scope="module")
def filtered():
    return filtered_model(DIGITS.architecture, FilterConfig(width=32))


@pytest.mark.parametrize("name", OTHER_REDUCERS)
def test_the_budget_is_the_smallest_that_costs_no_less_than_the_filter(name, filtered):
    model = reduced_model(DIGITS.architecture, name)
    own, absent = equal_budgets(model, filtered, BUDGETS)
    assert own.keys() | absent.keys() == set(BUDGETS) and not own.keys() & absent.keys()
    for k, budget in own.items():
        assert count(model, budget) >= count(filtered, k)
        assert budget == model.drop.smallest or count(model, budget - 1) < count(filtered, k)
    for k, reason in absent.items():
        assert count(model, model.drop.smallest) > count(filtered, k) and reason.startswith(f"{name} costs at least")
    assert 44 in own and 9 in absent


def test_random_weights_of_a_reducer_are_the_same_in_each_process():
    torch.manual_seed(1)
    one = reduced_model(DIGITS.architecture, "dynamic").drop.state_dict()
    torch.manual_seed(2)
    other = reduced_model(DIGITS.architecture, "dynamic").drop.state_dict()
    assert len(one) > 6 and all(torch.equal(value, other[name]) for name, value in one.items())


def test_counts_are_those_of_fake_tensors(filtered):
    for k in (*BUDGETS, 64):
        assert count(filtered, k) == macs(filtered, k)
    reduced = reduced_model(DIGITS.architecture, "idle")
    assert count(reduced, 30) == macs(reduced, 30)


def test_merging_is_counted_with_scattered_sums_and_similarities_between_its_two_sets(monkeypatch):
    def scattered(patches, sizes, partners, rows):
        kept = rows.shape[1]
        return patches[:, :kept] * sizes[:, :kept, None], sizes[:, :kept]

    def between(keys, prefix_tokens, pick):
        first, second = keys[:, prefix_tokens % 2 :: 2], keys[:, 1 - prefix_tokens % 2 :: 2]
        assert (first @ second.mT).numel() == (keys.shape[1] // 2) * (keys.shape[1] - keys.shape[1] // 2)
        return torch.zeros(keys.shape[:2]), torch.zeros(keys.shape[:2], dtype=torch.int64)

    model = reduced_model(DIGITS.architecture, "tome")
    counted = {k: count(model, k) for k in (32, 45, 64)}
    monkeypatch.setattr(tome, "merge_tokens", scattered)
    monkeypatch.setattr(tome, "match_tokens", between)
    assert counted == {k: macs(model, k, fake=False) for k in counted}


def test_a_curve_falls_from_nearly_every_token_to_the_smallest_that_is_trained():
    evit, tome = (curve_budgets(reduced_model(DIGITS.architecture, name)) for name in ("evit", "tome"))
    assert evit == sorted(set(evit), reverse=True) and (evit[0], evit[-1]) == (57, 8)
    assert tome == [k for k in evit if k >= 32]


def test_a_reduced_model_has_the_weights_that_it_is_given():
    torch.manual_seed(0)
    backbone = create_backbone(DIGITS.architecture).eval()
    images = torch.randn(1, 3, 64, 64)
    model = reduced_model(DIGITS.architecture, "frequency", backbone.state_dict())
    assert torch.equal(model(images, 64), backbone(images))
