"""A disk that is full while labels and checkpoints are written: an error of the operating system, nothing half-written.

The limit on the size of files gives the same failures as a full disk, without filling one.
"""

import resource
from contextlib import contextmanager

import pytest
import torch

from tokfilter.train.label_store import LabelStore, Shard
from tokfilter.train.run_checkpoint import save_run


class Files:
    files = tuple(f"{i:0200d}.png" for i in range(5))

    def __len__(self):
        return 5


@contextmanager
def full_disk():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # Python ignores SIGXFSZ: writing raises EFBIG
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_labels_on_a_full_disk(tmp_path):
    store = LabelStore(tmp_path, 2)
    with full_disk(), pytest.raises(OSError):
        store.open({"weights": "a"}, Files(), 3)
    assert list(tmp_path.iterdir()) == []
    store.open({"weights": "a"}, Files(), 3)
    with full_disk(), pytest.raises(OSError, match="disk may be full|too large"):
        store.write(Shard(0, torch.zeros(2, 3), torch.zeros(2)))
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]
    assert store.missing() == [range(2), range(2, 4), range(4, 5)]


def test_a_checkpoint_on_a_full_disk_leaves_the_old_one(tmp_path):
    module = torch.nn.Linear(3, 2)
    parts = {"weights": module, "optimizer": torch.optim.AdamW(module.parameters())}
    path = tmp_path / "x.checkpoint.pt"
    save_run(path, "me", [1.0], parts)
    old = path.read_bytes()
    with full_disk(), pytest.raises(OSError, match="disk may be full|too large"):
        save_run(path, "me", [1.0, 2.0], parts)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_bytes() == old
