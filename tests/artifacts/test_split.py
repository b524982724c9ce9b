import io

import numpy as np
import pytest
import torch

from tokfilter.artifacts.bundle import bundle_from_content, content_from_bundle
from tokfilter.artifacts.split import Split, content_from_split, key_from_file, keys_from_iterable, split_from_content
from tokfilter.errors import BundleError

SPLIT = Split(keys_from_iterable([5, -3, 5, 9]), keys_from_iterable([4, 9]))


def test_sets_of_keys():
    assert SPLIT.trained.tolist() == [-3, 5, 9] and keys_from_iterable([2], [1, 2], ()).tolist() == [1, 2]
    assert SPLIT.count_trained([5, 4, 9, 5]) == 3
    assert SPLIT.testable([5, 4, 9, 7, -3]) == [1, 2, 3]  # 9 is both: a held-out image with a twin
    assert SPLIT.all_held_out([4, 9]) and not SPLIT.all_held_out([4, 7])
    assert SPLIT.testable([]) == []


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 7])
def test_a_key_depends_on_the_bytes_alone(size):
    content = np.random.default_rng(size).bytes(size)
    key = key_from_file(io.BytesIO(content))
    assert -(2**63) <= key < 2**63
    archive = io.BytesIO(b"before" + content + b"after")
    archive.seek(6)
    assert key_from_file(archive, size) == key
    assert key_from_file(io.BytesIO(content + b"x")) != key


def test_it_comes_back_from_its_content():
    found = split_from_content(content_from_split(SPLIT))
    assert np.array_equal(found.trained, SPLIT.trained) and np.array_equal(found.held_out, SPLIT.held_out)
    empty = split_from_content(content_from_split(Split(keys_from_iterable([]), keys_from_iterable([]))))
    assert len(empty.trained) == len(empty.held_out) == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("key", "sha256", "keys of kind"),
        ("trained", torch.tensor([1, 1]), "ascending"),
        ("trained", torch.tensor([2, 1]), "ascending"),
        ("held_out", torch.tensor([1.0]), "int64"),
        ("held_out", torch.zeros(1, 1, dtype=torch.int64), "int64"),
        ("held_out", torch.zeros(1, dtype=torch.int64).expand(10), "int64"),
        ("held_out", [1, 2], "int64"),
        ("held_out", torch.zeros(2, dtype=torch.int64, device="meta"), "int64"),
    ],
)
def test_a_bundle_with_an_unsound_split_is_refused(bundle, name, value, words):
    content = content_from_bundle(bundle) | {"split": content_from_split(SPLIT) | {name: value}}
    with pytest.raises(BundleError, match=words):
        bundle_from_content(content, "model.pt")


@pytest.mark.parametrize("split", [None, 3, {}, {"key": "blake2b-64"}])
def test_a_bundle_with_something_else_in_its_place_is_refused(bundle, split):
    with pytest.raises(BundleError, match=r"model\.pt is not a sound bundle"):
        bundle_from_content(content_from_bundle(bundle) | {"split": split}, "model.pt")


def test_a_bundle_without_a_split_is_read(bundle):
    assert "split" not in content_from_bundle(bundle)
    assert bundle_from_content(content_from_bundle(bundle), "model.pt").split is None
