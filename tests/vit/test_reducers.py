"""Reducers: with every token timm's model, bit for bit; counts, costs, copies and refusals of each."""

import copy
import math
import pickle  # noqa: TID251  (of a model made here)
from functools import partial

import pytest
import timm
import torch

import tokfilter
from tokfilter.artifacts.bundle import bundle_from_content, content_from_bundle
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.errors import BudgetError, BundleError, UnreachableBudgetError, UnsupportedModelError
from tokfilter.vit.bundle import bundle_from_model, load_model, model_from_bundle, save_bundle
from tokfilter.vit.equal_macs import tokens_at_macs
from tokfilter.vit.macs import macs
from tokfilter.vit.reducers.counts import default_stages, stage_counts

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5}
FAMILIES = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {},
}
IN_BLOCK = sorted(set(REDUCERS) - {"filter"})


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def backbone_of(name="vit_tiny_patch16_224", **changes):
    torch.manual_seed(0)
    return timm.create_model(name, **{**SHAPE, **changes}).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reducer", sorted(REDUCERS))
def test_with_every_token_it_is_timms_model(family, reducer, images):
    backbone = backbone_of(family)
    expected = backbone(images)
    model = tokfilter.patch(backbone, reducer=reducer)
    assert torch.equal(model(images, 1.0), expected) and model.last.indices is None
    assert not torch.equal(model(images, 8), expected)
    assert model.last.indices.shape == (3, 8) and model.last.scores.shape == (3, 16)
    assert torch.equal(model.scores(images), model.last.scores)


@pytest.mark.parametrize("reducer", sorted(REDUCERS))
def test_the_tokens_of_each_block_are_those_that_it_states(reducer, images):
    model = tokfilter.patch(backbone_of(depth=6), reducer=reducer)
    seen = []
    for block in model.backbone.blocks:
        inner = getattr(block, "block", block)
        inner.attn.proj.register_forward_hook(lambda _m, _i, output: seen.append([output.shape[1]]))
        inner.norm2.register_forward_hook(lambda _m, _i, output: seen[-1].append(output.shape[1]))
    for k in (model.drop.smallest, 9, 15, 16):
        seen.clear()
        model(images, k)
        assert seen == [[row.attention, row.mlp] for row in model.drop.blocks(k, 6)]


@pytest.mark.parametrize("reducer", sorted(REDUCERS))
def test_copies_and_files_give_the_same(reducer, images, tmp_path):
    model = tokfilter.patch(backbone_of(), reducer=reducer)
    save_bundle(model, tmp_path / "model.pt")
    expected = model(images)
    read = load_model(tmp_path / "model.pt")
    assert read.drop.config == model.drop.config
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), read):
        assert torch.equal(other(images), expected)


@pytest.mark.parametrize("reducer", IN_BLOCK)
def test_it_compiles_as_one_graph(reducer, images):
    model = tokfilter.patch(backbone_of(depth=2), reducer=reducer)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(images, 8), model(images, 8))


@pytest.mark.parametrize("reducer", sorted(REDUCERS))
def test_weights_keep_the_names_of_timm(reducer):
    backbone = backbone_of()
    names = set(backbone.state_dict())
    model = tokfilter.patch(backbone, reducer=reducer)
    assert set(bundle_from_model(model).backbone) == names


def test_counts_are_published_ratios_rounded_up():
    assert stage_counts(137, 196, 3) == [137, 96, 68]
    assert stage_counts(196, 196, 3) == [196, 196, 196] and stage_counts(1, 196, 3) == [1, 1, 1]
    for k in range(1, 50):
        counts = stage_counts(k, 49, 4)
        assert counts == sorted(counts, reverse=True) and counts[0] == k and counts[-1] >= 1
    assert stage_counts(183, 196, 12, "constant") == [196 - 13 * stage for stage in range(1, 13)]  # r = 13
    assert stage_counts(16, 20, 5, "constant") == [16, 12, 8, 4, 2]  # half of them at most
    assert stage_counts(20, 20, 3, "constant") == [20, 20, 20]
    assert default_stages(12) == (4, 7, 10) and default_stages(24) == (7, 13, 19)
    assert default_stages(1) == (1,) and default_stages(2) == (1, 2)


@pytest.mark.parametrize("reducer", IN_BLOCK)
def test_a_budget_of_equal_cost_is_the_smallest(reducer):
    model = tokfilter.patch(backbone_of(img_size=16, depth=2), reducer=reducer)
    low, count = model.drop.smallest, partial(macs, fake=False)
    costs = {k: count(model, k) for k in range(low, 4)}
    assert [tokens_at_macs(model, cost, count) for cost in costs.values()] == list(costs)
    assert tokens_at_macs(model, costs[3] + 1, count) == 4 and tokens_at_macs(model, costs[3] - 1, count) == 3
    assert macs(model, 3) == costs[3]
    with pytest.raises(UnreachableBudgetError, match="choose a larger budget, or stages at earlier blocks"):
        tokens_at_macs(model, 1)


def test_refused_by_name_with_the_reason():
    with pytest.raises(UnsupportedModelError, match="evit cannot act in Eva: its blocks rotate queries and keys"):
        tokfilter.patch(backbone_of("eva02_tiny_patch14_224"), reducer="evit")
    with pytest.raises(
        UnsupportedModelError, match="evit ranks tokens by the class token, and this VisionTrans.* none"
    ):
        tokfilter.patch(backbone_of(class_token=False, global_pool="avg"), reducer="evit")
    with pytest.raises(UnsupportedModelError, match="evit acts at blocks 2, 9, and this model has 4 blocks"):
        tokfilter.patch(backbone_of(), reducer=ReducerConfig("evit", {"stages": (2, 9)}))
    with pytest.raises(UnsupportedModelError, match="a reducer is one of filter, evit.*, got 'magic'"):
        tokfilter.patch(backbone_of(), reducer="magic")
    with pytest.raises(UnsupportedModelError, match="filter= is the scorer of reducer='filter'"):
        tokfilter.patch(backbone_of(), filter=torch.nn.Identity(), reducer="evit")
    with pytest.raises(UnsupportedModelError, match="this model has no token filter: its reducer is evit"):
        _ = tokfilter.patch(backbone_of(), reducer="evit").scorer
    with pytest.raises(UnsupportedModelError, match="evit needs timm's Block with timm's Attention, got ResPostBlock"):
        tokfilter.patch(_res_post(), reducer="evit")


def _res_post():
    from timm.models.vision_transformer import ResPostBlock

    return backbone_of(block_fn=ResPostBlock)


def test_settings_are_a_closed_set():
    for settings, message in (
        ({"stages": [3, 2]}, "stages of evit must be 1 to 1000 block numbers that rise, from 1"),
        ({"stages": []}, "stages of evit"),
        ({"stages": [0]}, "stages of evit"),
        ({"stages": [True]}, "stages of evit"),
        ({"fuse": 1}, "fuse of evit must be true or false"),
        ({"schedule": "constant"}, "the settings of evit are stages, fuse, got 'schedule'"),
        ({"path": "/etc"}, "the settings of evit are stages, fuse, got 'path'"),
    ):
        with pytest.raises(ValueError, match=message):
            ReducerConfig("evit", settings)
    with pytest.raises(ValueError, match=r"schedule of tome must be ratio or constant, got \['ratio'\]"):
        ReducerConfig("tome", {"schedule": ["ratio"]})
    with pytest.raises(ValueError, match="settings of a reducer have names"):
        ReducerConfig("evit", [1])


def test_a_bundle_names_a_known_reducer():
    bundle = bundle_from_model(tokfilter.patch(backbone_of(), reducer="evit"))
    content = content_from_bundle(bundle)
    assert content["reducer"] == {"name": "evit", "settings": {"stages": [2, 3, 4], "fuse": True}}
    assert model_from_bundle(bundle_from_content(content, "it")).drop.name == "evit"
    for reducer, message in (
        ({"name": "magic", "settings": {}}, "a reducer is one of filter"),
        ({"name": "evit", "settings": {"stages": [1] * 2000}}, "stages of evit must be"),
        ({"name": "evit", "weights": {}}, "ReducerConfig"),
        ("evit", "must be a mapping"),
    ):
        with pytest.raises(BundleError, match=message):
            bundle_from_content({**content, "reducer": reducer}, "it")
    assert "reducer" not in content_from_bundle(bundle_from_model(tokfilter.patch(backbone_of())))


def test_a_budget_of_no_tokens_is_refused(images):
    model = tokfilter.patch(backbone_of(), reducer="evit")
    with pytest.raises(BudgetError, match="between 1 and this model's 16 patch tokens"):
        model(images, 17)


@torch.no_grad()
@pytest.mark.parametrize(("schedule", "k", "left"), [("ratio", 10, (10, 7)), ("constant", 12, (12, 8))])
def test_tome_merges_as_in_plain_loops(images, schedule, k, left):
    """Matching, merging and proportional attention of two blocks, against loops written from the paper."""
    model = tokfilter.patch(backbone_of(depth=2), reducer=("tome", {"schedule": schedule}))
    found = model.forward_features(images, k)
    expected, first = loops_of_tome(backbone_of(depth=2), images, left)
    assert torch.equal(model.last.indices, first)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert model.drop.sizes.value.sum(dim=1).tolist() == [16, 16, 16]


@torch.no_grad()
def loops_of_tome(backbone, images, counts):
    """Tokens behind the last block [B, 1+k', C], and the tokens that stay in the first block [B, k]."""
    outputs, first = [], []
    for image in images:
        tokens = backbone._pos_embed(backbone.patch_embed(image[None]))[0]
        sizes, count = [1.0] * 16, 16
        for block, left in zip(backbone.blocks, counts, strict=True):
            query, key, value = block.attn.qkv(block.norm1(tokens)).reshape(count + 1, 3, 3, 8).unbind(1)
            mixed = torch.zeros(count + 1, 3, 8)
            for head in range(3):
                logits = query[:, head] @ key[:, head].T / 8**0.5
                for token in range(count):
                    logits[:, 1 + token] += math.log(sizes[token])
                mixed[:, head] = logits.softmax(-1) @ value[:, head]
            tokens = tokens + block.attn.proj(mixed.flatten(1))
            metric = [key[1 + token].mean(dim=0) for token in range(count)]
            pairs = []
            for token in range(1, count, 2):  # the class token is the first of the first set
                cosines = {
                    other: float(torch.cosine_similarity(metric[token], metric[other], dim=0))
                    for other in range(0, count, 2)
                }
                partner = max(cosines, key=lambda other: cosines[other])
                pairs.append((cosines[partner], token, partner))
            merged = {token: partner for _, token, partner in sorted(pairs, reverse=True)[: count - left]}
            groups = {
                token: [token, *(one for one in merged if merged[one] == token)]
                for token in range(count)
                if token not in merged
            }
            means = [
                sum(sizes[one] * tokens[1 + one] for one in group) / sum(sizes[one] for one in group)
                for group in groups.values()
            ]
            sizes = [sum(sizes[one] for one in group) for group in groups.values()]
            if block is backbone.blocks[0]:
                first.append(list(groups))
            tokens = torch.stack([tokens[0], *means])
            tokens, count = tokens + block.mlp(block.norm2(tokens)), left
        outputs.append(backbone.norm(tokens))
    return torch.stack(outputs), torch.tensor(first, dtype=torch.int32)


def test_predictors_learn_from_the_loss_and_say_whether_they_are_trained(images, tmp_path):
    model = tokfilter.patch(backbone_of(), reducer="dynamic").train()
    before = [predictor.mlp[-1].weight.clone() for predictor in model.drop.predictors]
    optimizer = torch.optim.SGD(model.drop.parameters(), lr=1.0)
    torch.nn.functional.cross_entropy(model(images, 8), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    pairs = zip(model.drop.predictors, before, strict=True)
    assert all(not torch.equal(predictor.mlp[-1].weight, old) for predictor, old in pairs)
    assert model.last.indices.shape == (3, 8)
    save_bundle(model.eval(), tmp_path / "untrained.pt")
    assert not model.drop.trained and not load_model(tmp_path / "untrained.pt").drop.trained
    for predictor in model.drop.predictors:
        predictor.trained = True
    save_bundle(model, tmp_path / "trained.pt")
    assert load_model(tmp_path / "trained.pt").drop.trained


@torch.no_grad()
def test_evit_fuses_what_it_drops(images):
    """The sum of the dropped tokens, weighted by class attention, in plain loops."""
    config = ReducerConfig("evit", {"stages": (2,)})
    model = tokfilter.patch(backbone_of(), reducer=config)
    seen = {}
    block = model.backbone.blocks[1].block
    block.norm1.register_forward_hook(lambda _m, _i, output: seen.update(normed=output))
    block.norm2.register_forward_pre_hook(lambda _m, inputs: seen.update(after=inputs[0]))
    full = tokfilter.patch(backbone_of(), reducer=config)
    full.backbone.blocks[1].block.norm2.register_forward_pre_hook(lambda _m, inputs: seen.update(before=inputs[0]))
    model(images, 6)
    full(images, 1.0)
    query, key, _ = block.attn.qkv(seen["normed"]).reshape(3, 17, 3, 3, 8).unbind(2)
    for image in range(3):
        attention = torch.zeros(17)
        for head in range(3):
            logits = torch.stack([query[image, 0, head] @ key[image, token, head] for token in range(17)])
            attention += (logits / 8**0.5).softmax(0) / 3
        kept = sorted(sorted(range(1, 17), key=lambda token: -float(attention[token]))[:6])
        before, after = seen["before"][image], seen["after"][image]
        fused = sum(attention[token] * before[token] for token in range(1, 17) if token not in kept)
        torch.testing.assert_close(after, torch.stack([before[0], *before[kept], fused]), atol=1e-5, rtol=1e-5)
        assert model.last.indices[image].tolist() == [token - 1 for token in kept]
