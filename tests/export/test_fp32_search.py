"""The search on sets that are known beforehand."""

import math
from itertools import combinations

import pytest

from tokfilter.export.fp32_search import NoFp32SetError, smallest_fp32_set
from tokfilter.export.layer_groups import Group


def groups(count):
    return [Group(f"group {i}", (f"node {i}", f"other {i}")) for i in range(count)]


def search(count, needed, probes=1000):
    """Result of the search where ``needed`` must be in fp32, and the sets that were tried."""
    tried = []

    def passes(chosen):
        tried.append([group.name for group in chosen])
        return {f"group {i}" for i in needed} <= set(tried[-1])

    found, minimal = smallest_fp32_set(groups(count), passes, probes)
    return {int(group.name.removeprefix("group ")) for group in found}, minimal, tried


@pytest.mark.parametrize("count", [1, 2, 3, 7, 26])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_set_is_found_within_the_bound_and_is_minimal(count, size):
    for needed in combinations(range(count), size):
        found, minimal, tried = search(count, needed)
        assert (found, minimal) == (set(needed), True)
        assert len(tried) <= 1 + size * (math.ceil(math.log2(count)) + 1)
        assert len({tuple(sorted(names)) for names in tried}) == len(tried), "no set is built twice"


def test_the_last_set_that_passed_is_the_one_returned():
    """The model of that probe need not be built again."""
    for probes in range(1, 15):
        tried = []

        def passes(chosen, tried=tried):
            ok = {"group 3", "group 17"} <= {group.name for group in chosen}
            tried.append((ok, list(chosen)))
            return ok

        found, _ = smallest_fp32_set(groups(26), passes, probes)
        assert len(tried) <= probes
        assert found == [chosen for ok, chosen in tried if ok][-1]


@pytest.mark.parametrize("probes", range(1, 12))
def test_few_probes_give_a_set_that_passes_and_is_not_called_minimal(probes):
    found, minimal, tried = search(26, (5, 20), probes)
    assert {5, 20} <= found and len(tried) <= probes
    assert minimal is (len(found) == 2 and len(tried) < probes) or not minimal


def test_no_set_at_all():
    with pytest.raises(NoFp32SetError):
        search(5, (7,))
    with pytest.raises(NoFp32SetError):
        search(0, ())
