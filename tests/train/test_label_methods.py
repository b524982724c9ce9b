import pytest
import torch
import torch.nn.functional as F

from tokfilter.artifacts.bundle import Architecture, Preprocessing
from tokfilter.errors import DataError
from tokfilter.train.labels import LabelConfig, delta_loss, settings_identity
from tokfilter.train.masking import MaskConfig, mask_tokens
from tokfilter.train.token_sets import Grouping, costs_of_tokens, groups_of_tokens, log_costs_of_tokens, single_tokens
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def model_and_data(batch=3):
    torch.manual_seed(0)
    backbone = create_backbone(Architecture("vit_tiny_patch16_224", SMALL))
    for parameter in backbone.parameters():  # freshly made models have silent heads and position embeddings
        torch.nn.init.normal_(parameter, std=0.2)
    model = FilteredViT(backbone).eval()
    generator = torch.Generator().manual_seed(1)
    return model, torch.randn(batch, 3, 32, 32, generator=generator), torch.arange(batch) % 5


GROUPINGS = [Grouping("block", 4, 1), Grouping("block", 4, 2), Grouping("random", 3, 2), Grouping("random", 5, 1)]


@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (2, 5), (3, 8)])
@pytest.mark.parametrize("config", GROUPINGS)
def test_every_token_gets_its_turns_and_no_set_holds_one_twice(grid, config):
    patches = grid[0] * grid[1]
    sets = groups_of_tokens(grid, config, torch.arange(3))
    assert sets.shape[0] == 3 and sets.shape[2] == config.size
    for groups in sets:
        assert torch.bincount(groups.flatten(), minlength=patches).min() >= config.rounds
        assert all(len(set(group)) == config.size for group in groups.tolist())


def test_blocks_are_squares_of_neighbours_shifted_from_round_to_round():
    sets = groups_of_tokens((4, 4), Grouping("block", 4, 2), torch.arange(1))[0].tolist()
    assert sets[0] == [0, 1, 4, 5] and [5, 6, 9, 10] in sets
    for a, b, c, d in sets:
        assert (b, c, d) == (a + 1, a + 4, a + 5)


def test_random_groups_depend_on_the_image_and_on_nothing_else():
    config = Grouping("random", 4, 2)
    several = groups_of_tokens((5, 5), config, torch.tensor([7, 8]))
    assert torch.equal(groups_of_tokens((5, 5), config, torch.tensor([8]))[0], several[1])
    assert not torch.equal(several[0], several[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("round", 4, 1), "block, random, got 'round'"),
        (("block", 1, 1), "use the method exact"),
        (("block", 6, 1), "square number of tokens"),
        (("block", 4, 3), "as many rounds as the block's side"),
        (("random", 4, 0), "1 round"),
        (("random", 4, 2, "median"), "mean, log-ridge, got 'median'"),
    ],
)
def test_groupings_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        Grouping(*arguments)


@pytest.mark.parametrize(("grid", "config"), [((2, 2), Grouping("random", 4)), ((2, 9), Grouping("block", 9, 1))])
def test_groups_that_do_not_fit_the_grid_are_refused(grid, config):
    with pytest.raises(DataError, match="do not fit the model's grid of 2 x"):
        groups_of_tokens(grid, config, torch.arange(1))


def test_the_cost_of_a_token_is_the_mean_over_its_sets():
    sets = torch.tensor([[[0, 1], [1, 2]]])
    found = costs_of_tokens(torch.tensor([[2.0, 6.0]]), sets, 3)
    assert found.tolist() == [[1.0, 2.0, 3.0]]
    alone = torch.randn(2, 7)
    assert torch.equal(costs_of_tokens(alone, single_tokens(2, 7), 7), alone)


def agreement(found, expected):
    """Correlation over the tokens of each image."""
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(found, expected, strict=True)])


@pytest.mark.parametrize(("tokens", "size", "rounds"), [(9, 4, 12), (49, 24, 25), (64, 16, 12), (16, 12, 20)])
def test_regression_finds_factors_of_the_loss(tokens, size, rounds):
    sets = groups_of_tokens((1, tokens), Grouping("random", size, rounds), torch.arange(20))
    factors = torch.rand(20, tokens, generator=torch.Generator().manual_seed(0)) ** 4
    losses = 0.01 * factors.gather(1, sets.flatten(1)).view(sets.shape).sum(2).exp()
    found = agreement(log_costs_of_tokens(losses, sets, tokens), factors)
    assert found.min() > 0.5 and found.mean() > agreement(costs_of_tokens(losses, sets, tokens), factors).mean()
    same = torch.full((20, sets.shape[1]), 0.3)
    assert log_costs_of_tokens(same, sets, tokens).abs().max() < 1e-5
    noise = torch.rand(20, sets.shape[1]) * 1e-6  # below what fp32 tells apart
    assert log_costs_of_tokens(noise, sets, tokens).abs().max() < 1e-5


def test_regression_does_not_depend_on_the_size_of_an_images_losses():
    """An image of which the model is sure has small losses, and they tell its tokens apart as well as large ones."""
    sets = groups_of_tokens((4, 4), Grouping("random", 8, 10), torch.arange(5))
    losses = torch.rand(5, sets.shape[1], generator=torch.Generator().manual_seed(0)) ** 6 + 0.01
    found = log_costs_of_tokens(losses, sets, 16)
    torch.testing.assert_close(log_costs_of_tokens(losses * 1e-2, sets, 16), found, atol=1e-3, rtol=1e-3)
    assert found.std(1).min() > 0.01


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_for_forward_passes_alone(half):
    sets = groups_of_tokens((4, 4), Grouping("random", 5, 6), torch.arange(4))
    losses = torch.rand(4, sets.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", half):
        found = log_costs_of_tokens(losses, sets, 16)
    assert torch.equal(found, log_costs_of_tokens(losses, sets, 16))


def test_more_tokens_than_sets_have_the_ridge_regressions_solution():
    sets = groups_of_tokens((7, 7), Grouping("random", 12, 2), torch.arange(3))
    losses = torch.rand(3, sets.shape[1], generator=torch.Generator().manual_seed(0)) + 0.1
    held = torch.zeros(3, sets.shape[1], 49).scatter_(2, sets, 1.0)
    held = (held - held.mean(1, keepdim=True)).double()
    logs = losses.log().double() - losses.log().double().mean(1, keepdim=True)
    moments = held.mT @ held
    penalty = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(49, dtype=torch.float64)
    expected = torch.linalg.solve(moments + penalty, held.mT @ logs[..., None])[..., 0]
    torch.testing.assert_close(log_costs_of_tokens(losses, sets, 49).double(), expected, atol=1e-4, rtol=1e-3)


def test_the_estimate_is_part_of_an_identity_only_where_it_is_not_the_earlier_one():
    preprocessing = Preprocessing((3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    groups = [
        settings_identity(preprocessing, LabelConfig(method="grouped", groups=Grouping("random", 4, 2, estimate)))
        for estimate in ("mean", "log-ridge")
    ]
    assert groups[0]["groups"] == {"shape": "random", "size": 4, "rounds": 2}
    assert groups[1]["groups"] == {"shape": "random", "size": 4, "rounds": 2, "estimate": "log-ridge"}


def test_exact_labels_have_no_estimate():
    model, images, labels = model_and_data()
    ridge = LabelConfig(groups=Grouping("random", 4, 2, "log-ridge"))
    assert torch.equal(delta_loss(model, images, labels, ridge)[0], delta_loss(model, images, labels, LabelConfig())[0])


@torch.inference_mode()
def brute_force(model, images, labels, sets, mask):
    """The cost of each set by one whole forward pass of one image."""
    found = torch.empty(sets.shape[:2])
    for i, (image, label) in enumerate(zip(images[:, None], labels[:, None], strict=True)):
        base, tokens = F.cross_entropy(model(image, 1.0), label), model.embed(image)
        masks = mask_tokens(model, image, tokens, mask)
        for s, places in enumerate(sets[i]):
            changed, positions = tokens.clone(), None
            changed[0, places + model.prefix_tokens] = masks[0, places]
            if mask.value == "removed":
                kept = [p for p in range(model.num_patches) if p not in places.tolist()]
                positions = torch.tensor([kept], dtype=torch.int32)
                changed = torch.cat([tokens[:, : model.prefix_tokens], tokens[:, model.prefix_tokens :][:, kept]], 1)
            found[i, s] = F.cross_entropy(model.classify_tokens(changed, image, positions), label) - base
    return found


@pytest.mark.parametrize("value", ["zero", "mean", "removed"])
@pytest.mark.parametrize("config", GROUPINGS)
def test_grouped_labels_are_what_masking_the_groups_one_by_one_gives(config, value):
    model, images, labels = model_and_data()
    mask, positions = MaskConfig(value), torch.tensor([4, 0, 9])
    found, base = delta_loss(model, images, labels, LabelConfig(mask, method="grouped", groups=config), 7, positions)
    sets = groups_of_tokens(model.grid, config, positions)
    expected = costs_of_tokens(brute_force(model, images, labels, sets, mask), sets, model.num_patches)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(base, F.cross_entropy(model(images, 1.0), labels, reduction="none").detach())


def test_labels_by_log_ridge_are_of_the_masked_loss_itself():
    model, images, labels = model_and_data()
    groups, positions = Grouping("random", 8, 5, "log-ridge"), torch.tensor([4, 0, 9])
    config = LabelConfig(MaskConfig("removed"), method="grouped", groups=groups)
    found, base = delta_loss(model, images, labels, config, 7, positions)
    sets = groups_of_tokens(model.grid, groups, positions)
    losses = brute_force(model, images, labels, sets, MaskConfig("removed")) + base[:, None]
    torch.testing.assert_close(found, log_costs_of_tokens(losses, sets, model.num_patches), atol=1e-4, rtol=1e-3)


def test_an_images_grouped_labels_do_not_depend_on_its_batch():
    model, images, labels = model_and_data(4)
    config = LabelConfig(method="grouped", groups=Grouping("random", 3, 1))
    positions = torch.tensor([3, 5, 8, 9])
    whole, _ = delta_loss(model, images, labels, config, positions=positions)
    last, _ = delta_loss(model, images[2:], labels[2:], config, positions=positions[2:])
    torch.testing.assert_close(last, whole[2:])


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("point", ["before", "after"])
def test_the_first_order_estimate_is_the_slope_towards_the_mask(value, point):
    model, images, labels = model_and_data()
    model, images, mask, step = model.double(), images.double(), MaskConfig(value, point), 1e-6
    found, base = delta_loss(model, images, labels, LabelConfig(mask, method="first-order"))
    with torch.inference_mode():
        tokens = model.embed(images)
        masks = mask_tokens(model, images, tokens, mask)
        torch.testing.assert_close(base, F.cross_entropy(model(images, 1.0).float(), labels, reduction="none"))
        for n in range(model.num_patches):
            changed, place = tokens.clone(), n + model.prefix_tokens
            changed[:, place] += step * (masks[:, n] - tokens[:, place])
            loss, plain = (
                F.cross_entropy(model.classify_tokens(t, images), labels, reduction="none") for t in (changed, tokens)
            )
            torch.testing.assert_close(found[:, n], (loss - plain) / step, atol=1e-4, rtol=1e-3)


def test_first_order_labels_leave_the_model_as_it_was_and_do_not_depend_on_the_chunk():
    model, images, labels = model_and_data(5)
    model.scorer.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    whole, _ = delta_loss(model, images, labels, LabelConfig(method="first-order"))
    parts, _ = delta_loss(model, images, labels, LabelConfig(method="first-order"), chunk=1)
    torch.testing.assert_close(parts, whole)
    assert not whole.requires_grad
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_methods_that_do_not_exist_or_do_not_fit_the_mask_are_refused():
    with pytest.raises(DataError, match="one of exact, first-order, grouped, got 'cheap'"):
        LabelConfig(method="cheap")
    with pytest.raises(DataError, match="zero or mean, got removed"):
        LabelConfig(MaskConfig("removed"), method="first-order")


@pytest.mark.parametrize("method", ["exact", "grouped", "first-order"])
@pytest.mark.parametrize(("half", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_halves_compute_in_halves_and_stay_as_near_as_their_rounding_lets_them(method, half, kind):
    near = 2 * torch.finfo(kind).eps  # in nats: losses here are about 1.6, and so are the logits
    model, images, labels = model_and_data()
    whole, whole_base = delta_loss(model, images, labels, LabelConfig(method=method))
    seen = set()
    hook = model.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
    found, base = delta_loss(model, images, labels, LabelConfig(method=method, precision=half), chunk=7)
    hook.remove()
    assert seen == {kind}
    assert found.dtype == base.dtype == torch.float32
    assert 0 < float((found - whole).abs().max()) < near
    assert 0 < float((base - whole_base).abs().max()) < near
    assert not torch.is_autocast_enabled("cpu")


def test_an_unknown_precision_is_refused():
    with pytest.raises(DataError, match="precision of labels is one of fp32, fp16, bf16, got 'int8'"):
        LabelConfig(precision="int8")
