"""IdleViT against the paper's formulas in plain loops; what idles keeps its value and its place."""

import pytest
import timm
import torch

import tokfilter
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.reducers.idle import IdleViT, token_cut_loss

SHAPE = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5}


def model_of(family, stages, **changes):
    torch.manual_seed(0)
    model = tokfilter.patch(
        timm.create_model(family, **{**SHAPE, **changes}).eval(), reducer=ReducerConfig("idle", {"stages": stages})
    )
    for weight in model.parameters():  # timm's small weights make scores that are nearly equal
        torch.nn.init.normal_(weight, std=0.3)
    return model.requires_grad_(False)


def linear(layer, row):
    return torch.stack([layer.weight[i] @ row for i in range(len(layer.weight))]) + layer.bias


def idle_block(block, tokens, k, prefix):
    """One image through one block; tokens [T, C]. Returns the tokens and the patches that were chosen."""
    heads, size, width = block.attn.num_heads, block.attn.head_dim, block.attn.attn_dim
    split = [linear(block.attn.qkv, row).reshape(3, heads, size) for row in block.norm1(tokens)]
    logits = [sum(float(split[0][0, h] @ row[1, h]) for h in range(heads)) / heads for row in split]
    chosen = sorted(sorted(range(prefix, len(tokens)), key=lambda t: -logits[t])[:k])
    rows, result = [*range(prefix), *chosen], tokens.clone()
    for i in rows:
        sums = []
        for h in range(heads):
            weights = torch.stack([split[i][0, h] @ split[j][1, h] / size**0.5 for j in rows]).softmax(0)
            sums.append(sum(weight * split[j][2, h] for weight, j in zip(weights, rows, strict=True)))
        middle = tokens[i] + block.ls1(linear(block.attn.proj, torch.cat(sums).reshape(width)))
        result[i] = middle + block.ls2(block.mlp(block.norm2(middle)))
    return result, [token - prefix for token in chosen]


@pytest.mark.parametrize("family", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("k", [1, 7, 14])
def test_it_is_the_papers_formulas(family, k):
    model = model_of(family, [2, 4])
    images = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    logits = model(images, k)
    later = -(-k * k // 15)  # rounded up
    for image in range(2):
        tokens, chosen = model.backbone.blocks[0](model.last.tokens[image : image + 1])[0], []
        for block, count in zip(model.backbone.blocks[1:], (k, k, later), strict=True):
            tokens, rows = idle_block(block.block, tokens, count, model.prefix_tokens)
            chosen.append(rows)
        expected = model.backbone.forward_head(model.backbone.norm(tokens[None]))[0]
        torch.testing.assert_close(logits[image], expected, atol=1e-5, rtol=1e-5)
        assert [kept[image].tolist() for kept in (model.last.indices, *model.last.later)] == chosen
    assert model.last.places is None and model.forward_features(images, k).shape[1] == model.prefix_tokens + 15


def test_blocks_that_act_are_those_of_the_published_models():
    for depth, stages in ((12, (5, 8, 11)), (16, (5, 9, 13)), (20, (6, 11, 16)), (1, (1,))):
        backbone = timm.create_model("vit_tiny_patch16_224", **{**SHAPE, "embed_dim": 6, "depth": depth})
        reducer = tokfilter.patch(backbone, reducer="idle").drop
        assert reducer.stages == stages
        assert len(reducer.choices) == depth - stages[0] + 1 and reducer.choices == sorted(reducer.choices)
    blocks = tokfilter.patch(timm.create_model("vit_tiny_patch16_224", embed_dim=6), reducer="idle").drop.blocks(
        137, 12
    )
    assert [block.mlp - 1 for block in blocks] == [196] * 4 + [137] * 3 + [96] * 3 + [68] * 2
    assert all(block.attention == block.mlp for block in blocks)


def test_token_cut_is_the_published_loss():
    """Squares of what crosses between the groups, class token left out, and of what is missing within the chosen."""
    generator = torch.Generator().manual_seed(3)
    queries, keys = (torch.randn(2, 7, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    rows = torch.tensor([[0, 3], [2, 5]], dtype=torch.int32)
    total = 0.0
    for image in range(2):
        logits = sum(queries[image, :, h] @ keys[image, :, h].T for h in range(3)) / 3 * 0.5
        attention = logits.softmax(1)
        mask = [1.0 if i == 0 or i - 1 in rows[image].tolist() else 0.0 for i in range(7)]
        for i in range(7):
            crosses = sum(abs(mask[i] - mask[j]) * float(attention[i, j]) for j in range(1, 7))
            within = sum(mask[i] * mask[j] * float(attention[i, j]) for j in range(7))
            total += crosses**2 + (within - mask[i]) ** 2
    assert float(token_cut_loss(queries, keys, rows, 1, 0.5)) == pytest.approx(total / 14, abs=1e-12)


def test_token_cut_is_collected_and_trains_queries():
    model = model_of("vit_tiny_patch16_224", [2, 4]).train().requires_grad_(True)
    images = torch.randn(1, 3, 24, 40)
    expected = model(images, 7)
    with model.drop.token_cut() as losses:
        assert torch.equal(model(images, 7), expected)
    assert len(losses) == 3 and all(float(loss.detach()) > 0 for loss in losses)
    torch.stack(losses).mean().backward()
    assert model.backbone.blocks[3].block.attn.qkv.weight.grad[:24].abs().sum() > 0
    model(images, 7)
    assert len(losses) == 3


def test_gated_attention_and_dropout_go_through_timms_layers():
    model = model_of("vit_tiny_patch16_224", [1], depth=1, attn_drop_rate=1.0).train()
    model.backbone.blocks[0].block.attn.fused_attn = False
    attention = model.backbone.blocks[0].block.attn
    attention.gate = torch.nn.Linear(24, 24)
    torch.nn.init.constant_(attention.gate.bias, -1e9)  # a closed gate, and no weight is left by dropout
    torch.nn.init.constant_(attention.proj.bias, 0.0)
    seen = []
    model.backbone.blocks[0].block.norm2.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    model(torch.randn(1, 3, 24, 40), 14)
    kept = model.last.tokens[0, 1:][model.last.indices[0].long()]
    torch.testing.assert_close(seen[0][0, 1:], kept)


def test_refused_with_the_reason():
    with pytest.raises(
        UnsupportedModelError, match="idle ranks tokens by the class token, and this VisionTrans.* none"
    ):
        model_of("vit_tiny_patch16_224", [2], class_token=False, global_pool="avg")
    with pytest.raises(UnsupportedModelError, match="idle cannot act in Eva: its blocks rotate queries and keys"):
        tokfilter.patch(timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1), reducer="idle")
    with pytest.raises(UnsupportedModelError, match="idle acts at blocks 2, 9, and this model has 4 blocks"):
        model_of("vit_tiny_patch16_224", [2, 9])
    with pytest.raises(ValueError, match="the settings of idle are stages, got 'fuse'"):
        ReducerConfig("idle", {"fuse": True})


def test_settings_leave_the_default():
    model = model_of("vit_tiny_patch16_224", [3])
    assert isinstance(model.drop, IdleViT) and model.drop.config == ReducerConfig("idle", {"stages": [3]})
