import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.benchmarks.study.tome_baseline import merge_tokens


@given(st.integers(2, 33), st.integers(1, 3), st.data())
@settings(deadline=None, max_examples=60)
def test_merging_conserves_sizes_and_weighted_sums(n, batch, data):
    merges = data.draw(st.integers(0, n // 2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    patches, keys = (torch.randn(batch, n, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    sizes = torch.randint(1, 6, (batch, n), generator=generator).double()
    found, found_sizes = merge_tokens(patches, sizes, keys, merges)
    assert found.shape == (batch, n - merges, 5)
    torch.testing.assert_close(found_sizes.sum(1), sizes.sum(1))
    weighted = (found * found_sizes[..., None]).sum(1)
    torch.testing.assert_close(weighted, (patches * sizes[..., None]).sum(1))


def slowly_merged(patches, sizes, keys, merges):
    """Reference for one image, pair by pair."""
    n = len(patches)
    unit = keys / keys.norm(dim=-1, keepdim=True)
    partner = {i: max(range(1, n, 2), key=lambda j: float(unit[i] @ unit[j])) for i in range(0, n, 2)}
    by_similarity = sorted(partner, key=lambda i: -float(unit[i] @ unit[partner[i]]))
    groups = {j: [j] for j in range(1, n, 2)}
    for i in by_similarity[:merges]:
        groups[partner[i]].append(i)
    members = [[i] for i in sorted(by_similarity[merges:])] + [groups[j] for j in range(1, n, 2)]
    means = [sum(sizes[i] * patches[i] for i in group) / sum(sizes[i] for i in group) for group in members]
    return torch.stack(means), torch.stack([sizes[group].sum() for group in members])


@pytest.mark.parametrize(("n", "merges"), [(2, 1), (9, 4), (16, 5), (16, 8), (7, 0)])
def test_merging_equals_a_slow_reference(n, merges):
    generator = torch.Generator().manual_seed(n)
    patches, keys = (torch.randn(2, n, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    sizes = torch.randint(1, 4, (2, n), generator=generator).double()
    found, found_sizes = merge_tokens(patches, sizes, keys, merges)
    for image in range(2):
        expected, expected_sizes = slowly_merged(patches[image], sizes[image], keys[image], merges)
        torch.testing.assert_close(found[image], expected)
        torch.testing.assert_close(found_sizes[image], expected_sizes)
