"""fit with a frozen backbone: what is trained, what stays as it is, what is refused."""

import dataclasses

import pytest
import timm
import torch
from click.testing import CliRunner
from torch.utils.data import TensorDataset

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.commands.train import train
from tokfilter.errors import DataError, RecipeError, UnsupportedModelError
from tokfilter.train.built_in import BUILT_IN, FROZEN
from tokfilter.train.fit import fit
from tokfilter.train.recipe import Recipe, config_from_recipe
from tokfilter.train.recipe_file import recipe_for_backbone, text_from_recipe
from tokfilter.train.token_sets import Grouping, groups_of_tokens
from tokfilter.vit.model import FilteredViT

QUICK = {"filter.epochs": 1, "finetune.epochs": 1, "filter.batch": 8, "finetune.batch": 8, "labels.group_rounds": 2}


class Counting(torch.nn.Module):
    """A norm with a buffer that changes in training mode, as BatchNorm's statistics do."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, tokens):
        if self.training:
            self.calls += 1
        return self.norm(tokens)


def small(reducer=None, **options):
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10}
    backbone = timm.create_model("vit_tiny_patch16_224", **{**shape, **options})
    backbone.norm = Counting(backbone.norm)
    return FilteredViT(backbone, reducer=reducer)


def images(count=16):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 10)


def weights(model):
    return {name: value.clone() for name, value in model.backbone.state_dict().items() if "patch_drop" not in name}


def test_no_bit_of_the_backbone_changes_and_the_filter_and_its_context_do():
    model = small()
    before, settings = weights(model), []
    record = fit(model, images(), backbone="frozen", overrides=QUICK, progress=lambda step, _: settings.append(step))
    after = weights(model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert {"label", "filter", "finetune"} < record.keys() and "backbone" not in record
    assert len(record["frozen_backbone"]) == 64 and record["finetune"]["frozen"] and record["label"]["loss"] == "kl"
    summary = model.scorer.summary
    assert summary.expand.weight.any() and model.scorer.trained
    assert all(parameter.requires_grad for parameter in model.parameters()) and not model.training


def test_without_a_frozen_backbone_the_record_has_no_such_entry_and_weights_change():
    model = small()
    before = weights(model)
    record = fit(model, images(), overrides={**QUICK, "stages": ["finetune"]})
    assert "frozen_backbone" not in record
    assert not torch.equal(before["head.weight"], weights(model)["head.weight"])


@pytest.mark.parametrize(
    "changes",
    [{"finetune.batch": 1}, {"finetune.min_keep": 1.0}, {"finetune.accumulate": 4}, {"finetune.fixed_keep": 15}],
)
def test_no_step_is_without_a_dropped_token(changes):
    """With every token the context is not used, and a step would have no gradient at all."""
    model = small()
    fit(model, images(), backbone="frozen", overrides={**QUICK, **changes})
    assert model.scorer.summary.expand.weight.any()


@pytest.mark.parametrize("every", [1.0, 16])
def test_a_fixed_budget_of_every_token_is_refused_before_labels_are_made(every):
    started = []
    with pytest.raises(DataError, match="is every token of this model, with which nothing is trained"):
        fit(
            small(), images(), backbone="frozen", overrides={**QUICK, "finetune.fixed_keep": every},
            progress=lambda step, _: started.append(step),
        )  # fmt: skip
    assert not started


def test_the_model_keeps_the_shape_of_its_filter():
    model = small()
    model.drop.scorer = model.new_filter(FilterConfig(width=12, depth=3))
    fit(model, images(), backbone="frozen", overrides=QUICK)
    assert model.scorer.config == FilterConfig(width=12, depth=3, summary=64)


def test_labels_that_say_nothing_are_refused():
    """The head's logits are so small that each masked loss lies below the smallest that log-ridge knows."""
    model = small()
    with torch.no_grad():
        model.backbone.head.weight.mul_(1e-5)
    with pytest.raises(DataError, match="every token of each image has the same label"):
        fit(model, images(), backbone="frozen", overrides=QUICK)
    assert not model.scorer.trained


def test_a_run_that_was_not_frozen_is_not_resumed(tmp_path):
    quick = {**QUICK, "stages": ["finetune"], "filter.global_context": 4}
    torch.manual_seed(0)
    for frozen, resume in (("trained", False), ("frozen", True)):
        model = small()
        model.drop.scorer = model.new_filter(dataclasses.replace(model.scorer.config, summary=4))
        if not resume:
            fit(model, images(), recipe=FROZEN, backbone=None, folder=tmp_path, overrides={**quick, "frozen": False})
            continue
        with pytest.raises(
            DataError, match="belongs to a run with other data, settings or start weights, of another model"
        ):
            fit(model, images(), backbone=frozen, folder=tmp_path, resume=True, overrides=quick)


@pytest.mark.parametrize(
    ("reducer", "words"),
    [
        ("dynamic", "learns weights inside the blocks"),
        ("frequency", "learns weights inside the blocks"),
        ("tome", "learns nothing, so with a frozen backbone there is nothing to train"),
        ("evit", "learns nothing"),
        ("idle", "learns nothing"),
    ],
)
def test_other_reducers_are_refused_by_name(reducer, words):
    with pytest.raises(DataError, match=f"the reducer {reducer} {words}"):
        config_from_recipe(FROZEN, 10, ("finetune",), ReducerConfig(reducer))


def test_what_excludes_each_other_is_refused():
    with pytest.raises(RecipeError, match="the stage backbone trains the weights that a frozen backbone keeps"):
        fit(small(), images(), backbone="frozen", overrides={"stages": ["backbone", "label", "filter"]})
    with pytest.raises(RecipeError, match="the backbone is frozen or trained, got 'ice'"):
        fit(small(), images(), backbone="ice")
    with pytest.raises(RecipeError, match="the backbone is frozen, and the setting frozen says False"):
        fit(small(), images(), backbone="frozen", overrides={"frozen": False})
    with pytest.raises(DataError, match="this filter has none: set filter.global_context to 64"):
        fit(small(), images(), backbone="frozen", overrides={**QUICK, "filter.global_context": 0})
    with pytest.raises(UnsupportedModelError, match="a summary is added to the class token, and this"):
        fit(small(class_token=False, global_pool="avg"), images(), backbone="frozen", overrides=QUICK)


def test_the_option_takes_the_recipe_frozen_unless_another_is_given():
    assert recipe_for_backbone("default", {}, "frozen") == ("frozen", {"frozen": True})
    assert recipe_for_backbone(Recipe(), {}, "frozen")[0] == "frozen"
    assert recipe_for_backbone("mine.toml", {"seed": 1}, "frozen") == ("mine.toml", {"seed": 1, "frozen": True})
    assert recipe_for_backbone("frozen", {}, None) == ("frozen", {})
    assert BUILT_IN["frozen"] == FROZEN and config_from_recipe(FROZEN, 100).stages == ("label", "filter", "finetune")


def test_the_command_line_has_the_mode():
    printed = CliRunner().invoke(train, ["--frozen-backbone", "--print-recipe"])
    assert printed.exit_code == 0 and printed.output == text_from_recipe(FROZEN)
    refused = CliRunner().invoke(train, ["--frozen-backbone", "--set", "frozen=false", "--print-recipe"])
    assert isinstance(refused.exception, RecipeError)


@pytest.mark.parametrize("grid", [(2, 2), (7, 7), (3, 5)])
def test_groups_of_half_of_the_tokens_fit_every_grid(grid):
    patches = grid[0] * grid[1]
    groups = groups_of_tokens(grid, Grouping("random", 0, 3), torch.tensor([0, 5]))
    assert groups.shape[2] == patches // 2
    counts = torch.stack([torch.bincount(row.flatten(), minlength=patches) for row in groups])
    assert counts.min() >= 3
    assert all(len(set(group.tolist())) == patches // 2 for row in groups for group in row)
    with pytest.raises(DataError, match="groups need at least 2 tokens"):
        Grouping("block", 0, 1)
