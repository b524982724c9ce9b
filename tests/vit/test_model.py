import pytest
import torch

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import BudgetError, UnsupportedModelError
from tokfilter.vit.backbone import check_filterable, create_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.filter import TokenDropWithIndices

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5, "img_size": 64}
FAMILIES = {
    "vit with cls": ("vit_tiny_patch16_224", TINY, 1),
    "vit with average pooling": ("vit_medium_patch16_gap_240", {**TINY, "global_pool": "avg"}, 0),
    "deit": ("deit_tiny_patch16_224", TINY, 1),
    "deit distilled": ("deit_tiny_distilled_patch16_224", TINY, 2),
    "deit 3": ("deit3_small_patch16_224", TINY, 1),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {**TINY, "img_size": 70}, 5),
    "clip": ("vit_base_patch16_clip_224", TINY, 1),
    "siglip": ("vit_base_patch16_siglip_224", TINY, 0),
    "eva, rotary": ("eva02_tiny_patch14_224", {**TINY, "embed_dim": 48, "img_size": 70}, 1),
    "rotary, mixed": ("vit_small_patch16_rope_mixed_224", {**TINY, "embed_dim": 48}, 1),
    "dinov3, rotary": ("vit_small_patch16_dinov3", {**TINY, "embed_dim": 48}, 5),
}


@pytest.fixture(params=FAMILIES, ids=lambda name: name.replace(" ", "-"))
def family(request) -> FilteredViT:
    name, kwargs, prefix = FAMILIES[request.param]
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(Architecture(name, kwargs))).eval()
    assert model.prefix_tokens == prefix
    return model


def images_for(model: FilteredViT, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, *model.backbone.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_full_equals_timm(family):
    images = images_for(family)
    full = family(images, keep=1.0)
    assert family.last.indices is None
    assert family.last.scores is None
    slot = family.drop
    del family.backbone.patch_drop
    family.backbone.patch_drop = None if isinstance(slot, TokenDropWithIndices) else torch.nn.Identity()
    torch.testing.assert_close(family.backbone(images), full, rtol=0, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("keep", [1, 0.25, 0.5, 0.99])
def test_blocks_see_the_prefix_and_the_kept_tokens(family, keep):
    seen = []
    family.backbone.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits = family(images_for(family), keep=keep)
    k = tokens_from_keep(keep, family.num_patches)
    assert logits.shape == (3, 5)
    assert logits.isfinite().all()
    assert seen[0].shape[1] == family.prefix_tokens + k
    assert family.last.indices.shape == (3, k)
    best = family.last.scores.topk(k).indices.sort(dim=1).values
    assert torch.equal(best.int(), family.last.indices)


@torch.inference_mode()
def test_tokens_can_be_classified_apart_from_their_images(family):
    images = images_for(family)
    tokens = family.embed(images)
    full = family(images, keep=1.0)
    torch.testing.assert_close(family.last.tokens, tokens, rtol=0, atol=0)
    torch.testing.assert_close(family.classify_tokens(tokens, images), full)
    filtered = family(images, keep=0.5)
    rows = family.last.indices.long() + family.prefix_tokens
    rows = torch.cat([torch.arange(family.prefix_tokens).expand(3, -1), rows], dim=1)
    kept = tokens.gather(1, rows.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))
    torch.testing.assert_close(family.classify_tokens(kept, images, family.last.indices), filtered)
    torch.testing.assert_close(family(images, keep=1.0), full, msg="given tokens must not outlive their call")


def test_gradients_reach_the_backbone_but_not_the_filter(model):
    model.train()
    model(torch.randn(2, 3, 32, 32), keep=0.5).sum().backward()
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.scorer.parameters())


def test_the_default_budget_is_used(model):
    model(torch.randn(1, 3, 32, 32))
    assert model.last.indices.shape == (1, model.keep_tokens) == (1, 8)


@pytest.mark.parametrize("keep", [0, 17, -1, 0.0, 1.5, float("nan")])
def test_impossible_budgets(model, keep):
    with pytest.raises(BudgetError):
        model(torch.randn(1, 3, 32, 32), keep=keep)
    with pytest.raises(BudgetError):
        FilteredViT(model.backbone, keep=keep)


def test_last_wants_a_forward_pass(model):
    with pytest.raises(RuntimeError, match="forward pass first"):
        _ = model.last


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer cannot be filtered: .*windows"),
        ("resnet18", "ResNet cannot be filtered: it has no patch_drop slot"),
        ("cait_xxs24_224", "Cait cannot be filtered: .* its class token joins only behind the blocks"),
        ("samvit_base_patch16", "windows of the full grid"),
        ("beit_base_patch16_224", "relative position bias"),
        ("vit_relpos_small_patch16_224", "relative position bias"),
        ("naflexvit_base_patch16_gap", "only while training"),
        ("convnext_atto", "no patch_drop slot"),
        ("vit_tinny_patch16_224", "has no model 'vit_tinny_patch16_224'. Did you mean vit_tiny_patch16_224 or "),
        ("hf-hub:timm/vit_tiny_patch16_224", "has no model"),
    ],
)
def test_what_cannot_be_filtered_is_refused_by_name(name, words):
    with pytest.raises(UnsupportedModelError, match=words):
        create_backbone(Architecture(name))


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg", "cache_dir", "features_only", "weight_init"])
def test_arguments_that_do_more_than_shape_a_model_are_refused(argument):
    with pytest.raises(UnsupportedModelError, match=f"got {argument}"):
        create_backbone(Architecture("vit_tiny_patch16_224", {argument: "/etc/passwd"}))


def test_arguments_that_timm_refuses():
    with pytest.raises(UnsupportedModelError, match="timm refuses vit_tiny_patch16_224"):
        create_backbone(Architecture("vit_tiny_patch16_224", {"num_heads": 5}))


def test_a_pooling_with_positions_of_its_own_is_refused():
    backbone = create_backbone(Architecture("vit_base_patch16_siglip_224", TINY))
    backbone.attn_pool.pos_embed = torch.nn.Parameter(torch.zeros(16, 24))
    with pytest.raises(UnsupportedModelError, match="attention pooling adds a position embedding"):
        check_filterable(backbone)


def test_a_foreign_class_with_the_slot_is_refused():
    class Mine(torch.nn.Module):
        patch_drop = None

    with pytest.raises(UnsupportedModelError, match="was not examined"):
        check_filterable(Mine())
