"""Training in two processes: the losses of one process, whatever happens to one of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import two_processes
from click.testing import CliRunner

from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.cli import cli
from tokfilter.errors import DataError
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.fit import fit
from tokfilter.train.run_checkpoint import load_plain
from tokfilter.vit.bundle import load_bundle

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
REPEATABLE = {**ENVIRONMENT, "MKL_CBWR": "COMPATIBLE"}  # the order of sums does not depend on where the memory lies
SETTINGS = ["data.crop_pct=1", "data.zoom=0.8", "filter.objective=ranking", "filter.global_context=4"]
SETTINGS += ["finetune.distill=0.5", "labels.method=first-order"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with one.pt and two.pt, trained by one process and by two of torchrun; and what the two wrote."""
    folder = tmp_path_factory.mktemp("torchrun")
    write_scenes(folder / "data", 0, train=55, test=20, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    (folder / "data/train/3/broken.png").write_bytes(b"no image")
    arguments = ["train", str(folder / "data"), "--arch", "vit_tiny_patch16_224", "--epochs", "1", "--batch", "11"]
    for argument in ("img_size=32", "patch_size=8", "embed_dim=16", "depth=1", "num_heads=2"):
        arguments += ["--arch-arg", argument]
    for setting in SETTINGS:
        arguments += ["--set", setting]
    result = CliRunner().invoke(cli, [*arguments, "-o", str(folder / "one.pt")])
    assert result.exit_code == 0, result.output
    command = [*TORCHRUN, "tokfilter.cli", *arguments, "--json", "-o", str(folder / "two.pt")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Folder with what ``two_processes.py`` wrote."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, two_processes.__file__, str(folder)]
    done = subprocess.run(command, env=REPEATABLE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def said(folder, case, rank=0):
    return json.loads((folder / f"{case}.{rank}.json").read_text())


def farthest(one, other):
    assert len(one) == len(other)
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "tolerance"), [("backbone", 1e-5), ("filter", 1e-2), ("finetune", 1e-2)])
def test_two_processes_of_torchrun_have_the_losses_of_one(runs, stage, tolerance):
    """Later stages begin with weights and labels that differ by rounding; the next test compares them from the same."""
    one, two = (load_plain(runs[0] / f"{name}.pt.work" / f"{stage}.checkpoint.pt")["losses"] for name in ("one", "two"))
    assert farthest(one, two) < tolerance and len(one) == 5


@pytest.mark.slow
@pytest.mark.parametrize("stage", two_processes.STAGES)
def test_two_processes_have_the_losses_of_one(cases, stage):
    assert farthest(said(cases, f"whole-{stage}")["losses"], said(cases, f"one-{stage}")["losses"]) < 1e-5
    assert said(cases, f"whole-{stage}") == said(cases, f"whole-{stage}", rank=1)


@pytest.mark.slow
def test_two_processes_change_images_as_one_does(cases):
    both, one = said(cases, "changed"), said(cases, "changed-one")
    assert farthest(both["losses"], one["losses"]) < 1e-5 and both == said(cases, "changed", rank=1)


@pytest.mark.slow
def test_two_processes_write_one_bundle(runs):
    folder, done = runs
    one, two = (load_bundle(folder / f"{name}.pt") for name in ("one", "two"))
    for name, value in one.backbone.items():
        torch.testing.assert_close(value, two.backbone[name], rtol=0, atol=1e-4)
    assert (one.split.trained == two.split.trained).all() and (one.split.held_out == two.split.held_out).all()
    assert [row["images"] for row in two.training["accuracy"]] == [20, 20, 20]
    assert json.loads(done.stdout)["training"] == two.training  # one table
    assert done.stderr.count("skipped ") == 1 and "broken.png" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", two_processes.STAGES)
def test_a_process_that_is_killed_ends_the_other_with_a_sentence(cases, stage):
    assert json.loads((cases / "statuses.json").read_text())[stage] == [0, -signal.SIGKILL]
    assert said(cases, stage)["error"].startswith("worker 0 of 2 waited for a process that has died.")
    assert "`train` with --resume" in said(cases, stage)["error"]
    assert not list((cases / f"work-{stage}").glob(".*.part"))


@pytest.mark.slow
def test_killed_and_resumed_is_as_undisturbed(cases):
    assert said(cases, "resumed") == said(cases, "whole-finetune")
    assert len(said(cases, "resumed")["losses"]) == two_processes.STEPS


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed(cases):
    assert farthest(said(cases, "alone")["losses"], said(cases, "one-backbone")["losses"]) < 1e-5


@pytest.mark.slow
def test_a_step_of_fewer_images_than_passes_take_is_refused(cases):
    for rank in range(2):
        assert "a step of 2 images cannot be divided among 2 processes" in said(cases, "few", rank)["error"]


@pytest.mark.slow
def test_two_processes_divide_the_images_of_a_similarity(cases):
    """Two budgets of 7 images: 4 images in the first process, 3 in the second, and the same rows in both."""
    both, one = [said(cases, "similar", rank) for rank in range(2)], said(cases, "similar-one")
    assert [found["computed"] for found in both] == [8, 6] and one["computed"] == 14
    assert both[0]["rows"] == both[1]["rows"]
    for row, expected in zip(both[0]["rows"], one["rows"], strict=True):
        assert row == pytest.approx(expected, abs=1e-6)


def test_notes_come_from_the_first_process_only(tmp_path, capsys):
    from small_models import SMALL

    from tokfilter.commands.training_options import start_from_options
    from tokfilter.vit.backbone import create_backbone

    torch.save({"model": create_backbone(SMALL).state_dict()}, tmp_path / "weights.pt")
    arguments = [f"{name}={value!r}" for name, value in SMALL.kwargs.items() if name != "num_classes"]
    for rank in range(2):
        start = start_from_options(
            SMALL.name, arguments, tmp_path / "weights.pt", tuple("abcde"), None, DistContext(rank, 2)
        )
        assert start.notes and ("weights taken from" in capsys.readouterr().err) == (rank == 0)


def test_cores_are_divided_among_the_processes_of_a_machine(monkeypatch):
    from tokfilter.train import dataset

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    for processes, cores in (("1", 8), ("2", 4), ("3", 2), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert dataset._cores() == cores


def broken(message):
    def collective(*args, **options):
        raise RuntimeError(message)

    return collective


def test_errors_about_other_processes_become_a_sentence_and_no_others(monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", broken("[gloo/transport/tcp/pair.cc:545] Read error"))
    with pytest.raises(DataError, match="worker 1 of 2 waited for a process that has died"):
        DistContext(1, 2).barrier()
    monkeypatch.setattr(dist, "all_reduce", broken("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        DistContext(1, 2).barrier()
    assert SINGLE_PROCESS.sum(torch.ones(2)).tolist() == [1, 1]


def test_processes_that_differ_are_refused(monkeypatch):
    def all_reduce(values, operation, group):
        if operation == dist.ReduceOp.MAX:
            values += 1

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with pytest.raises(DataError, match="they differ"):
        DistContext(0, 2).check_same("text", "they differ")


def test_several_processes_need_a_folder(monkeypatch):
    from contextlib import nullcontext

    from small_models import small_model

    monkeypatch.setattr("tokfilter.train.fit.context_from_torchrun", lambda: nullcontext(DistContext(0, 2)))
    with pytest.raises(DataError, match="give fit a folder that all of them see"):
        fit(small_model(), Path("nowhere"))
