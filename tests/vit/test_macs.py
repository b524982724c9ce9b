import pytest

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import BudgetError
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT


def by_formula(tokens: int, width: int, depth: int) -> int:
    """A block is 12 t w^2 + 2 t^2 w (DESIGN of every ViT with MLP ratio 4)."""
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width)


@pytest.mark.parametrize(("name", "width"), [("deit_tiny_patch16_224", 192), ("deit_small_patch16_224", 384)])
def test_the_count_equals_the_formula(name, width):
    model = FilteredViT(create_backbone(Architecture(name)))
    around = 196 * 768 * width + 1000 * width
    assert macs(model) == by_formula(197, width, 12) + around
    hidden = model.scorer.config.width
    scorer = 196 * (width * hidden + hidden * hidden + hidden) + width * hidden
    assert macs(model, 0.5) == by_formula(99, width, 12) + around + scorer
    assert scorer / macs(model) < 0.01


def test_counting_changes_nothing(model):
    model.train()
    model.backbone.cls_token.requires_grad_(False)
    gradients = [weight.requires_grad for weight in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert macs(model, 4) < macs(model, 8) < macs(model, 1.0)
    assert model.training
    assert [weight.requires_grad for weight in model.parameters()] == gradients
    assert all((before[name] == value).all() for name, value in model.state_dict().items())


def test_impossible_budget(model):
    with pytest.raises(BudgetError):
        macs(model.train(), 99)
    assert model.training and all(weight.requires_grad for weight in model.parameters())
