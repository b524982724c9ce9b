"""Labelling processes that are really killed, alone and under torchrun; every later run ends with the same labels."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.train.label_store import LabelStore
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model

pytestmark = pytest.mark.slow

SMALL = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10},
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# One thread each, and no GPU, so that the same sums are added in the same order whoever works.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Folder with data/ and model.pt: 96 training images of 16 tokens."""
    folder = tmp_path_factory.mktemp("labelled")
    write_scenes(folder / "data", 0, 96, 20, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(SMALL)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    backbone, scorer = weights_from_model(model)
    preprocessing = Preprocessing((3, 32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    golden, names = golden_from_model(model, torch.randn(1, 3, 32, 32), [0.5]), [str(n) for n in range(10)]
    bundle = Bundle(SMALL, backbone, FilterConfig(), scorer, 0.5, preprocessing, names, golden, {})
    save_bundle(bundle, folder / "model.pt")
    return folder


def label(scene, output, launcher=(), chunk=1):
    """The command line of a run; a chunk of 1 makes it last a few seconds."""
    verb = ["-m", "tokfilter.cli", "label", str(scene / "data"), str(scene / "model.pt"), "-o", str(output)]
    return [sys.executable, *launcher, *verb, "--shard", "2", "--set", f"labels.chunk={chunk}"]


@pytest.fixture(scope="module")
def undisturbed(scene):
    subprocess.run(label(scene, scene / "undisturbed"), check=True, env=ENVIRONMENT)
    return LabelStore(scene / "undisturbed").read()


def same(folder, labels):
    found = LabelStore(folder).read()
    return torch.equal(found.delta, labels.delta) and torch.equal(found.base, labels.base)


def shards(folder):
    return sorted(folder.glob("shard-*.safetensors"))


def started(command, folder, whole):
    """A running process that has finished some shards, in a process group of its own."""
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(shards(folder)) < whole and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    return process


def test_killed_and_resumed_is_as_undisturbed(scene, undisturbed, tmp_path):
    process = started(label(scene, tmp_path), tmp_path, whole=3)
    process.kill()
    process.communicate()
    done = shards(tmp_path)
    assert process.returncode == -signal.SIGKILL and 3 <= len(done) < 48
    half = done[1].read_bytes()
    done[1].write_bytes(half[: len(half) // 2])
    (tmp_path / ".shard-000000090.safetensors.x.part").write_bytes(half)  # what a kill while writing leaves
    kept = done[0].stat().st_mtime_ns
    subprocess.run(label(scene, tmp_path), check=True, env=ENVIRONMENT)
    assert same(tmp_path, undisturbed)
    assert done[0].stat().st_mtime_ns == kept  # whole shards are not done again
    assert not list(tmp_path.glob(".*.part"))


def test_a_worker_that_is_killed_ends_the_run_and_the_next_two_label_as_one_does(scene, undisturbed, tmp_path):
    process = started(label(scene, tmp_path, TORCHRUN), tmp_path, whole=3)
    os.kill(_worker(process.pid, rank=1), signal.SIGKILL)
    _, log = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in log and "rank      : 1" in log
    assert len(shards(tmp_path)) < 48
    subprocess.run(label(scene, tmp_path, TORCHRUN), check=True, env=ENVIRONMENT, capture_output=True)
    assert same(tmp_path, undisturbed)


def test_several_processes_refuse_labels_of_other_settings_and_leave_them_whole(scene, undisturbed):
    command = [*label(scene, scene / "undisturbed", TORCHRUN), "--set", "labels.mask=mean"]
    process = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert process.returncode != 0
    assert "were made with other mask than this run's" in process.stderr
    assert same(scene / "undisturbed", undisturbed)


def _worker(launcher, rank):
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no worker {rank}")
