"""Pickles that ask for more time or memory than their bytes, and those that torch writes."""

import io
import pickle  # noqa: TID251  (to write hostile ones)
import pickletools
import time

import pytest
import torch

from tokfilter.artifacts import pickle_check
from tokfilter.artifacts.pickle_check import check_pickles
from tokfilter.artifacts.torch_file import read_torch_file


def doubled(depth):
    """A tuple of itself twice, so deep: its hash takes 2^depth steps."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def test_pickles_of_plain_values_are_taken():
    shared = ["a", 1.5, (2, 3), {"x": None}]
    content = {"names": shared, "again": shared, ("a", 1): {4, 5}, "deep": (((1,), 2), 3), 7: b"bytes", "big": 1 << 99}
    for protocol in range(5):
        check_pickles(pickle.dumps(content, protocol))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_writes_is_taken(tmp_path, legacy):
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    content = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "size": model.weight.shape}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    found = read_torch_file(tmp_path / "x.pth", legacy=True)
    assert torch.equal(found["state_dict"]["weight"], model.weight)


def test_a_tuple_that_names_others_many_times_is_refused_at_once(tmp_path):
    """torch.load would hash it for hours."""
    torch.save({doubled(3): 1}, tmp_path / "fine.pth")
    assert read_torch_file(tmp_path / "fine.pth") == {doubled(3): 1}
    value = doubled(60)
    content = pickle.dumps([value], 2).replace(b"]", b"}", 1)
    before = time.process_time()
    with pytest.raises(ValueError, match="a tuple in it must hold at most 10000 values"):
        check_pickles(content)
    with (tmp_path / "legacy.pth").open("wb") as file:
        file.write(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + content)
    with pytest.raises(ValueError, match="a tuple in it must hold"):
        read_torch_file(tmp_path / "legacy.pth", legacy=True)
    assert time.process_time() - before < 5


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_pickle_that_is_cut_short_is_refused(cut):
    whole = pickle.dumps({"a": (1, 2, [3])}, 2)
    with pytest.raises(ValueError):
        check_pickles(whole[: -min(cut, len(whole))])


@pytest.mark.parametrize("content", [b"\x86.", b"t.", b"s.", b"]e.", b"q\x00."])
def test_instructions_without_values_are_refused(content):
    with pytest.raises(ValueError, match="damaged"):
        check_pickles(content)


def test_more_instructions_than_the_limit_are_refused(monkeypatch):
    content = pickle.dumps(list(range(1000)), 2)
    count = sum(1 for _ in pickletools.genops(io.BytesIO(content)))
    monkeypatch.setattr(pickle_check, "MAX_PICKLE_STEPS", count)
    check_pickles(content)
    monkeypatch.setattr(pickle_check, "MAX_PICKLE_STEPS", count - 1)
    with pytest.raises(ValueError, match="instructions"):
        check_pickles(content)
