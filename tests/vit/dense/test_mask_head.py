import pytest
import timm
import torch
from small_models import small_mask_model

import tokfilter
from tokfilter.artifacts.mask_config import FILLS, MaskHeadConfig, mask_config_from_fields
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.dense.fill import fill_from_name
from tokfilter.vit.dense.mask_head import MaskHead, masks_from_scores, masks_from_upsampled_features
from tokfilter.vit.macs import macs

GRID = (3, 5)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_positions(batch, kept, patches, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(patches, generator=generator)[:kept].sort().values for _ in range(batch)]
    return torch.stack(rows).int()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("grid", "size", "masks", "width"),
    [((1, 1), (7, 3), 1, 1), ((3, 5), (13, 17), 4, 7), ((8, 2), (5, 5), 2, 33), ((7, 7), (7, 7), 3, 16)],
)
def test_scoring_before_upsampling_is_the_dense_form(grid, size, masks, width, align_corners):
    features, queries = random(2, grid[0] * grid[1], width), random(masks, width, seed=1)
    quick = masks_from_scores(features @ queries.T, grid, size, align_corners)
    dense = masks_from_upsampled_features(features, queries, grid, size, align_corners)
    assert quick.shape == (2, masks, *size)
    torch.testing.assert_close(quick, dense, rtol=0, atol=1e-5 * max(1.0, float(dense.abs().max())))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kept", [1, 4, 14])
def test_kept_scores_go_back_to_their_places_and_every_place_is_filled(fill, kept):
    torch.manual_seed(0)
    rule = fill_from_name(fill, 6, 8, GRID)
    scores, positions, embedded = random(2, kept, 3), some_positions(2, kept, 15), random(2, 15, 6, seed=1)
    filled = rule(scores, positions, embedded, lambda features: features[..., :3])
    assert filled.shape == (2, 15, 3)
    for row in range(2):
        torch.testing.assert_close(filled[row, positions[row].long()], scores[row], rtol=0, atol=0)
    assert filled.isfinite().all()


def test_nearest_takes_the_nearest_kept_token_of_equal_ones_the_first():
    rule, positions = fill_from_name("nearest", 6, 8, (1, 5)), torch.tensor([[1, 3]])
    filled = rule(torch.tensor([[[1.0], [2.0]]]), positions, random(1, 5, 6), lambda features: features)
    assert filled.flatten().tolist() == [1, 1, 1, 2, 2]


def test_means_are_those_of_kept_and_of_dropped_tokens():
    scores, positions, embedded = random(1, 2, 8), torch.tensor([[0, 3]]), random(1, 4, 6, seed=1)
    kept = fill_from_name("kept-mean", 6, 8, (2, 2))(scores, positions, embedded, lambda features: features)
    torch.testing.assert_close(kept[0, 1], scores[0].mean(0))
    rule = fill_from_name("dropped-mean", 6, 8, (2, 2))
    dropped = rule(scores, positions, embedded, lambda features: features)
    torch.testing.assert_close(dropped[0, 2], rule.project(rule.norm(embedded[0, 1:3].mean(0))))


@pytest.mark.parametrize("fill", FILLS)
def test_every_token_needs_no_fill_and_all_tokens_by_position_give_the_same_masks(fill):
    torch.manual_seed(0)
    head = MaskHead(6, GRID, MaskHeadConfig(2, (6, 10), 4, fill))
    tokens, embedded = random(2, 15, 6), random(2, 15, 6, seed=1)
    everywhere = torch.arange(15).expand(2, -1)
    torch.testing.assert_close(head(tokens, everywhere, embedded), head(tokens, None, embedded), rtol=0, atol=0)


@pytest.mark.parametrize("keep", [1, 5, 16])
def test_a_model_with_a_head_gives_masks_and_trains_every_part(keep):
    model = small_mask_model().train()
    masks = model(random(2, 3, 32, 32), keep)
    assert masks.shape == (2, 3, 16, 16)
    masks.square().sum().backward()
    unused = {name for name, weight in model.mask_head.named_parameters() if weight.grad is None}
    assert all(name.startswith("fill.") for name in unused)
    assert bool(unused) == (keep == 16)


def test_masks_do_not_depend_on_the_order_in_which_a_reducer_hands_over_tokens():
    model = small_mask_model()
    tokens, embedded = random(1, 4, 24), random(1, 16, 24, seed=1)
    positions, shuffled = torch.tensor([[2, 5, 7, 11]]), [3, 0, 2, 1]
    before = model.mask_head(tokens, positions, embedded)
    after = model.mask_head(tokens[:, shuffled], positions[:, shuffled], embedded)
    torch.testing.assert_close(after, before)


def test_an_eva_model_with_rotary_positions_gives_masks():
    backbone = timm.create_model(
        "eva02_tiny_patch14_224", img_size=28, patch_size=7, embed_dim=24, depth=1, num_heads=2, num_classes=0
    )
    model = tokfilter.add_mask_head(tokfilter.patch(backbone), 2).eval()
    model.scorer.trained = True
    assert model(random(1, 3, 28, 28)).shape == (1, 2, 7, 7)


def test_tokens_given_by_position_are_filled_from_the_tokens_before():
    model, images = small_mask_model(), random(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(images, 5)
        embedded, kept = model.embed(images), model(images, 5) is not None and model.last.indices
        rows = torch.cat([torch.zeros(1, 1, dtype=torch.long), kept.long() + 1], dim=1)
        found = model.classify_tokens(embedded[:, rows[0]], images, kept, embedded)
    torch.testing.assert_close(found, expected)


def test_the_head_costs_what_its_matrices_cost():
    model = small_mask_model()
    plain = macs(model)
    model.mask_head = None
    head = 16 * 24 * 8 + 16 * 8 * 3  # projection and queries; the classifier of 5 classes is not run
    assert plain - macs(model) == head - 24 * 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"masks": 0}, "1 to 1048576 masks, got 0"),
        ({"fill": "best"}, "one of embedding, nearest.* got 'best'"),
        ({"size": 33}, "at most as large as the image, 32 x 32 pixels, got 33 x 33"),
        ({"size": 0}, "counts from 1"),
        ({"size": (16, 16, 16)}, "size \\(height, width\\)"),
    ],
)
def test_a_head_that_cannot_be_is_refused_with_the_reason(model, change, words):
    with pytest.raises(UnsupportedModelError, match=words):
        tokfilter.add_mask_head(model, **{"masks": 3, **change})
    assert model.mask_head is None


def test_an_image_that_patches_do_not_cover_is_refused():
    backbone = timm.create_model("vit_tiny_patch16_224", img_size=30, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    with pytest.raises(UnsupportedModelError, match="30 x 30 pixels are no whole number of patches of 8 x 8"):
        tokfilter.add_mask_head(tokfilter.patch(backbone), 3)


def test_a_reducer_in_blocks_that_drops_tokens_gives_their_places_and_one_that_adds_tokens_is_refused():
    def evit(fuse):
        backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=0
        )
        return tokfilter.patch(backbone, reducer=ReducerConfig("evit", {"stages": [1, 3], "fuse": fuse})).eval()

    model = tokfilter.add_mask_head(evit(fuse=False), 2)
    assert model(random(2, 3, 32, 32), 0.5).shape == (2, 2, 8, 8)
    features = model.backbone.forward_features(random(2, 3, 32, 32))
    places = model.last.places
    assert places.shape == (2, features.shape[1] - 1)
    assert (places.diff() > 0).all()
    assert set(places[0].tolist()) < set(model.last.indices[0].tolist())
    with pytest.raises(UnsupportedModelError, match="reducer evit adds tokens that have none"):
        tokfilter.add_mask_head(evit(fuse=True), 2)


def test_an_unpatched_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="Call model = tokfilter.patch"):
        tokfilter.add_mask_head(torch.nn.Identity(), 3)


def test_a_config_of_an_unknown_head_is_refused():
    fields = MaskHeadConfig(2, (4, 4), 8).fields()
    assert mask_config_from_fields(fields) == MaskHeadConfig(2, (4, 4), 8)
    with pytest.raises(ValueError, match="one of token-mask, got 'maskformer'"):
        mask_config_from_fields({**fields, "kind": "maskformer"})
