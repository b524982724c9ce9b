import pytest
import torch

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.vit.scorers import CentreScorer, NormScorer, RandomScorer, TokenFilter


def test_the_joined_feature_is_what_the_two_halves_compute():
    scorer = TokenFilter(6, FilterConfig(width=4, depth=1))
    patches = torch.randn(2, 5, 6)
    normed = scorer.norm(patches)
    joined = torch.cat([normed, normed.mean(1, keepdim=True).expand_as(normed)], dim=-1)
    weight = torch.cat([scorer.local_feature.weight, scorer.global_feature.weight], dim=1)
    expected = scorer.mlp(joined @ weight.T + scorer.local_feature.bias).squeeze(-1)
    torch.testing.assert_close(scorer(patches), expected)


def test_without_a_global_feature_a_token_is_scored_alone():
    scorer = TokenFilter(6, FilterConfig(global_feature="none"))
    patches = torch.randn(2, 5, 6)
    torch.testing.assert_close(scorer(patches)[:, :2], scorer(patches[:, :2]))
    assert not torch.allclose(TokenFilter(6)(patches)[:, :2], TokenFilter(6)(patches[:, :2]))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_shapes(depth, activation):
    assert TokenFilter(6, FilterConfig(depth=depth, activation=activation))(torch.randn(2, 5, 6)).shape == (2, 5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0}, "from 1 to"),
        ({"depth": 0}, "from 1 to"),
        ({"activation": "x"}, "gelu"),
        ({"global_feature": "x"}, "mean"),
    ],
)
def test_filters_that_do_not_exist(fields, words):
    with pytest.raises(ValueError, match=words):
        FilterConfig(**fields)


def test_centre_prefers_the_middle():
    scores = CentreScorer((3, 5))(torch.zeros(2, 15, 4))
    assert scores.shape == (2, 15)
    assert scores.argmax(dim=1).tolist() == [7, 7]
    assert sorted(scores[0].topk(2, largest=False).indices.tolist()) in (
        [0, 4],
        [0, 10],
        [0, 14],
        [4, 10],
        [4, 14],
        [10, 14],
    )


def test_random_is_seeded_and_changes_between_passes():
    patches = torch.zeros(2, 7, 3)
    one, two = RandomScorer(3), RandomScorer(3)
    first = one(patches)
    assert torch.equal(first, two(patches))
    assert not torch.equal(first, one(patches))


def test_norm():
    patches = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    assert NormScorer()(patches).tolist() == [[5.0, 1.0]]
