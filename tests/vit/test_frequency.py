"""Frequency-aware reduction against its formulas in plain loops; DC tokens are means of what was dropped."""

import pytest
import timm
import torch

import tokfilter
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.bundle import load_model, save_bundle
from tokfilter.vit.reducers.frequency import window_weights

SHAPE = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5}
ROWS, COLUMNS = 3, 5


def model_of(family="vit_tiny_patch16_224", stages=(1, 3), windows=(2, 1), **changes):
    torch.manual_seed(0)
    config = ReducerConfig("frequency", {"stages": list(stages), "windows": list(windows)})
    model = tokfilter.patch(timm.create_model(family, **{**SHAPE, **changes}).eval(), reducer=config)
    for weight in model.parameters():  # timm's small weights make scores that are nearly equal
        torch.nn.init.normal_(weight, std=0.3)
    return model.requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))


def attention(block, tokens, means, w1, w2):
    """The re-weighted attention map of each head, and its layers; tokens [T, C], the last ``means`` of them DC."""
    heads, size, count = block.attn.num_heads, block.attn.head_dim, len(tokens)
    qkv = block.attn.qkv(block.norm1(tokens)).reshape(count, 3, heads, size)
    low, sums = torch.full((count, count), 1 / count), []
    for h in range(heads):
        map_ = torch.stack([(qkv[:, 1, h] @ qkv[i, 0, h] / size**0.5).softmax(0) for i in range(count)])
        columns = torch.tensor([1.0] * (count - means) + [1 + float(w2[h])] * means)
        sums.append((low + (1 + w1[h]) * (map_ - low)) * columns @ qkv[:, 2, h])
    return tokens + block.ls1(block.attn.proj(torch.cat(sums, 1))), qkv


def window(place, side):
    return place // COLUMNS * side // ROWS * side + place % COLUMNS * side // COLUMNS


def in_loops(model, tokens, counts):
    """One image, in loops. tokens: [P+N, C] before the first block. Returns them behind the last, and kept places."""
    drop, prefix = model.drop, model.prefix_tokens
    places, dropped, side, kept_places = list(range(ROWS * COLUMNS)), {}, 0, []
    for number, wrapped in enumerate(model.backbone.blocks, 1):
        if number < drop.stages[0]:
            tokens = wrapped(tokens[None])[0]
            continue
        block, index = wrapped.block, number - drop.stages[0]
        tokens, qkv = attention(block, tokens, len(dropped), drop.w1[index], drop.w2[index])
        if number in drop.stages:
            stage = drop.stages.index(number)
            total = qkv[:, 0].sum(0)
            scores = [float((total * qkv[prefix + i, 1]).sum()) for i in range(len(places))]
            best = sorted(sorted(range(len(places)), key=lambda i: -scores[i])[: counts[stage]])
            rest = [i for i in range(len(places)) if i not in best]
            old, before, side = dropped, side, drop.windows[stage]
            dropped = {}
            for target in range(side * side):
                values = [(1, tokens[prefix + i]) for i in rest if window(places[i], side) == target]
                inside = [
                    (n, tokens[prefix + len(places) + w]) for w, n in old.items() if _merged(w, before, side) == target
                ]
                weighted = [(n, value) for n, value in values + inside if n]
                fallback = inside or [(1, tokens[prefix + i]) for i in rest]
                parts = weighted or [(1, value) for _, value in fallback]
                mean = sum(n * value for n, value in parts) / sum(n for n, _ in parts)
                dropped[target] = (sum(n for n, _ in weighted), mean)
            means = [mean for _, mean in dropped.values()]
            dropped = {w: n for w, (n, _) in dropped.items()}
            tokens = torch.stack([*tokens[:prefix], *(tokens[prefix + i] for i in best), *means])
            places = [places[i] for i in best]
            kept_places.append(best)
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return tokens, kept_places


def _merged(window_before, before, side):
    return window_before // before * side // before * side + window_before % before * side // before


@pytest.mark.parametrize(
    ("family", "stages", "windows", "k"),
    [
        ("vit_tiny_patch16_224", (1, 3), (2, 1), 9),
        ("vit_tiny_patch16_224", (2, 3, 4), (2, 2, 1), 1),
        ("vit_tiny_patch16_224", (2, 4), (3, 3), 14),
        ("vit_small_patch14_reg4_dinov2", (2, 4), (3, 1), 12),
    ],
)
def test_it_is_the_papers_formulas(family, stages, windows, k, images):
    model = model_of(family, stages, windows)
    features = model.forward_features(images, k)
    counts = model.drop.counts(k)
    for image in range(2):
        tokens, rows = in_loops(model, model.last.tokens[image], counts)
        torch.testing.assert_close(features[image], model.backbone.norm(tokens), atol=1e-5, rtol=1e-5)
        assert [kept[image].tolist() for kept in (model.last.indices, *model.last.later)] == rows
    assert features.shape[1] == model.drop.blocks(k, 4)[-1].mlp == model.prefix_tokens + counts[-1] + windows[-1] ** 2


def test_it_needs_no_class_token(images):
    model = model_of(class_token=False, global_pool="avg")
    assert model(images, 5).shape == (2, 5) and model.prefix_tokens == 0


@pytest.mark.parametrize("drops", [(3, 5), (1, 1), (14, 1), (5, 0)])
def test_means_of_means_are_the_mean_of_all(drops):
    """Two stages without blocks between: each DC token is the mean of all dropped tokens of its window."""
    generator = torch.Generator().manual_seed(drops[0])
    tokens = torch.randn(1, 15, 4, generator=generator)
    order = torch.randperm(15, generator=generator)
    fine, coarse = (
        torch.tensor([[float(window(i, side) == w) for w in range(side**2)] for i in range(15)]) for side in (2, 1)
    )
    first, second = (torch.zeros(1, 15) for _ in range(2))
    first[0, order[: drops[0]]], second[0, order[drops[0] : sum(drops)]] = 1, 1
    weights, counts = window_weights(fine[None], first, None, None)
    torch.testing.assert_close(weights.sum(2), torch.ones(1, 4))
    assert counts.sum() == drops[0]
    for w in range(4):
        inside = [i for i in range(15) if first[0, i] and fine[i, w]] or [i for i in range(15) if first[0, i]]
        torch.testing.assert_close((weights @ tokens)[0, w], tokens[0, inside].mean(0))
    joined = torch.cat([tokens, weights @ tokens], 1)
    last, counts = window_weights(coarse[None], second, torch.ones(4, 1), counts)
    torch.testing.assert_close((last @ joined)[0, 0], tokens[0, order[: sum(drops)]].mean(0))
    assert counts.tolist() == [[sum(drops)]]


def test_weights_of_heads_are_trained_and_saved(images, tmp_path):
    model = model_of()
    model.requires_grad_(True)(images, 6).sum().backward()
    grads = model.drop.w1.grad, model.drop.w2.grad
    assert (grads[0] != 0).all() and (grads[1][1:] != 0).all() and (grads[1][0] == 0).all()
    save_bundle(model, tmp_path / "model.pt")
    assert torch.equal(load_model(tmp_path / "model.pt")(images, 6), model.eval()(images, 6))


def test_refused_with_the_reason():
    with pytest.raises(UnsupportedModelError, match="frequency cannot act in Eva: .* a window has no position"):
        tokfilter.patch(timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1), reducer="frequency")
    with pytest.raises(UnsupportedModelError, match="windows for each of its 2 stages, at most 3 x 3 .* got 4, 2"):
        model_of(windows=(4, 2))
    with pytest.raises(UnsupportedModelError, match="windows for each of its 2 stages, .* got 2"):
        model_of(windows=(2,))
    for windows in ([], [2, 4], [3, 2], [0], [True], "2", [1] * 2000):
        with pytest.raises(ValueError, match="windows of frequency must be 1 to 1000 numbers of windows per side"):
            ReducerConfig("frequency", {"windows": windows})


def test_default_windows_fit_the_grid():
    narrow = timm.create_model("vit_tiny_patch16_224", **{**SHAPE, "embed_dim": 6, "img_size": (8, 40), "depth": 12})
    assert tokfilter.patch(narrow, reducer="frequency").drop.config.settings == {
        "stages": [4, 7, 10],
        "windows": [1, 1, 1],
    }
    model = tokfilter.patch(timm.create_model("vit_tiny_patch16_224", embed_dim=6), reducer="frequency")
    assert model.drop.windows == (2, 1, 1) and model.drop.largest == 195
    assert [block.mlp for block in model.drop.blocks(137, 12)] == [197] * 3 + [142] * 3 + [98] * 3 + [70] * 3
