"""Checkpoints of a run: another weight, type or name than was written is never trained on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.errors import DataError
from tokfilter.train.checksums import content_sum
from tokfilter.train.run_checkpoint import restored, save_run


def parts():
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"weights": module, "optimizer": optimizer}


@pytest.fixture
def path(tmp_path):
    save_run(tmp_path / "x.checkpoint.pt", "me", [1.0, 0.5], parts())
    return tmp_path / "x.checkpoint.pt"


def test_a_checkpoint_is_read_back(path):
    written, module = parts()["weights"], torch.nn.Linear(3, 2)
    read = {"weights": module, "optimizer": torch.optim.AdamW(module.parameters())}
    assert restored(path, "me", read) == [1.0, 0.5] and torch.equal(module.weight, written.weight)
    assert restored(path.with_name("none"), "me", read) == []


def halved(content):
    content["weights"]["weight"] = content["weights"]["weight"].half()


def longer(content):
    content["losses"] = content["losses"] * 2


def moved(content):
    content["optimizer"]["state"][0]["exp_avg"][0, 0] += 1e-6


@pytest.mark.parametrize("alter", [halved, longer, moved])
def test_an_altered_checkpoint_is_refused(path, alter):
    content = torch.load(path, weights_only=True)
    alter(content)
    torch.save(content, path)
    with pytest.raises(DataError, match="its content has another checksum. Delete it"):
        restored(path, "me", parts())


def nested(content):
    content["optimizer"]["state"][0]["exp_avg"] = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(1)])


def on_no_device(content):
    content["weights"]["weight"] = torch.empty(2, 3, device="meta")


def repeated(content):
    content["weights"]["weight"] = torch.zeros(1).expand(10**12)


def doubled(content):
    for _ in range(30):
        content["losses"] = [content["losses"], content["losses"]]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("alter", [nested, on_no_device, repeated, doubled])
def test_a_checkpoint_without_values_of_its_own_is_refused(path, alter):
    content = torch.load(path, weights_only=True)
    alter(content)
    torch.save(content, path)
    with pytest.raises(DataError, match="is damaged: it (holds tensors that are not dense|must hold at most 4000000)"):
        restored(path, "me", parts())


def test_a_checkpoint_of_an_earlier_version_is_read(path):
    content = torch.load(path, weights_only=True)
    del content["sha256"]
    torch.save(content, path)
    assert restored(path, "me", parts()) == [1.0, 0.5]
    del content["optimizer"]
    torch.save(content, path)
    with pytest.raises(DataError, match="does not fit this run"):
        restored(path, "me", parts())


def test_a_flipped_bit_is_found(path):
    content = bytearray(path.read_bytes())
    place = content.find(parts()["weights"].weight.detach().numpy().tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        restored(path, "me", parts())


SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)
PLAIN = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(PLAIN, PLAIN)
def test_sums_differ_where_contents_do(one, other):
    assert (content_sum(one) == content_sum(other)) == (repr(_sorted(one)) == repr(_sorted(other)))


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=repr)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.bfloat16, torch.uint8, torch.bool])
def test_sums_hold_types_shapes_and_names(dtype):
    zeros = torch.zeros(2, 3)
    sums = {content_sum({"a": zeros}), content_sum({"a": zeros.T}), content_sum({"b": zeros})}
    assert len(sums | {content_sum({"a": zeros.to(dtype)})}) == 4
    assert content_sum({"a": zeros.T.contiguous().T}) == content_sum({"a": zeros})
    assert content_sum({}) != content_sum([]) and content_sum(torch.zeros(0)) != content_sum(torch.zeros(0, 2))
