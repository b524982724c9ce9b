"""recall@1: by brute force, with and without classes, ties, awkward counts, and outputs without a direction."""

import numpy as np
import pytest

from tokfilter.artifacts import neighbours
from tokfilter.artifacts.neighbours import retrieval_of
from tokfilter.errors import DataError


def rows(count, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def nearest(outputs):
    """Index of the most similar other row, one pair at a time."""
    found = []
    for i, row in enumerate(outputs):
        cosines = [
            -2 if i == j else float(row @ other / np.linalg.norm(row) / np.linalg.norm(other))
            for j, other in enumerate(outputs)
        ]
        found.append(int(np.argmax(cosines)))
    return found


@pytest.mark.parametrize("count", [2, 3, 41])
@pytest.mark.parametrize("entries", [1, 100, 1 << 24])
def test_recall_is_what_comparing_pairs_gives(monkeypatch, count, entries):
    monkeypatch.setattr(neighbours, "_ENTRIES", entries)
    outputs, full = rows(count), rows(count, seed=1)
    labels = [i % 2 for i in range(count)]
    near, truth = nearest(outputs), nearest(full)
    plain = retrieval_of(outputs, full)
    assert plain.truth == "neighbours" and plain.queries == count
    assert plain.found == sum(a == b for a, b in zip(near, truth, strict=True))
    assert plain.same == pytest.approx(plain.found / count)
    counted = [i for i in range(count) if labels.count(labels[i]) > 1]
    by_class = retrieval_of(outputs, full, labels)
    if counted:
        assert by_class.truth == "classes" and by_class.queries == len(counted)
        assert by_class.found == sum(labels[near[i]] == labels[i] for i in counted)
        assert by_class.recall == by_class.found / len(counted)
    else:
        assert by_class == plain


def test_the_full_model_finds_its_own_neighbours_and_scale_does_not_count():
    full = rows(20)
    found = retrieval_of(full * np.arange(1, 21, dtype=np.float32)[:, None], full)
    assert (found.found, found.same) == (20, 1.0)
    assert found.cosine == pytest.approx(1.0)


def test_copies_of_an_image_are_equally_near():
    full = np.concatenate([rows(3)] * 3)
    shuffled = full + 1e-7 * rows(9, seed=2)
    assert retrieval_of(shuffled, full).same == 1.0


def test_one_image_and_outputs_without_direction_are_refused():
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        retrieval_of(rows(1), rows(1))
    for value, word in ((0.0, "zero"), (np.nan, "not finite")):
        broken = rows(4)
        broken[2] = value
        with pytest.raises(DataError, match=f"output for image 2 is {word}, so its cosine similarity is not defined"):
            retrieval_of(broken, rows(4))
