import pytest
import torch
from torch import nn

from tokfilter.errors import DataError
from tokfilter.train.loop import RunDir, TrainingPlan, train
from tokfilter.train.parameter_groups import head_apart
from tokfilter.train.tensor_dataset import TensorDataset, TensorImages


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, images):
        return self.head(self.body(images.flatten(1)).relu())


def moved(factor):
    """How far body and head move in a step of AdamW, which is the learning rate for almost every weight."""
    torch.manual_seed(0)
    network = Network()
    before = {name: value.clone() for name, value in network.named_parameters()}
    pixels = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    images = TensorImages(tuple(map(str, range(8))), "0" * 64)
    data = TensorDataset(images, None, pixels, torch.arange(8) % 3, torch.arange(8))
    plan = TrainingPlan(1, batch=8, lr=1e-3, weight_decay=0.0, head_lr=factor)

    def loss(batch, share, generator):
        return nn.functional.cross_entropy(network(batch.images), batch.labels)

    train("stage", network, data, loss, plan, 0, "", RunDir())
    return {name: (value - before[name]).abs().max().item() for name, value in network.named_parameters()}


def test_the_head_moves_by_its_own_learning_rate():
    usual, faster = moved(1.0), moved(20.0)
    for name in usual:
        assert faster[name] == pytest.approx(usual[name] * (20 if name.startswith("head") else 1), rel=1e-3)


def test_every_parameter_that_trains_is_in_one_group():
    network = Network()
    network.body.bias.requires_grad_(False)
    groups = head_apart(network, 0.1, 5.0)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(p) for p in (network.body.weight, *network.head.parameters()))
    assert {(group["weight_decay"], group["lr_scale"]) for group in groups} == {(0.1, 1.0), (0.1, 5.0), (0.0, 5.0)}


def test_a_model_without_a_head_is_refused():
    with pytest.raises(DataError, match="this model has none: set head_lr to 1"):
        head_apart(nn.Linear(3, 2), 0.0, 5.0)
