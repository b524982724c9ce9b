"""two_processes.py FOLDER: trains in two gloo processes, of which one is killed in each stage; then goes on.

The processes are forked before torch has threads, so that torch is imported once. Each writes FOLDER/CASE.RANK.json.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from small_models import SMALL

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.errors import TokfilterError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import ImageList, quiet
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import context_from_torchrun
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.train.run_checkpoint import load_plain
from tokfilter.train.similarity import evaluate_similarity
from tokfilter.train.stages import run_stages
from tokfilter.train.tensor_dataset import TensorDataset, TensorImages
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT

STAGES = {"backbone": ("backbone",), "filter": ("label", "filter"), "finetune": ("finetune",)}
STEPS, KILLED_AFTER = 6, 3


def settings(stage):
    """One stage and what it needs. An odd batch gives the processes different numbers of images."""
    plan = TrainingPlan(STEPS, batch=11, lr=1e-3)
    augmentation = Augmentation(zoom=0.8, flip=0.5)
    return TrainConfig(
        stages=STAGES[stage],
        filter_config=FilterConfig(width=8, summary=4),
        backbone=FineTuning(plan, augmentation=augmentation),
        filter=FilterTraining(plan, objective="ranking"),
        finetune=FineTuning(plan, augmentation=augmentation, distill=0.5),
    )


def train(config, run_dir, folder=None):
    """Run the stages, on tensors or on the images of a folder. Returns losses and checksum of the last checkpoint."""
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(SMALL))
    model.drop.scorer = model.new_filter(config.filter_config)
    generator = torch.Generator().manual_seed(1)
    images = TensorImages(tuple(f"{i}" for i in range(37)), "0" * 64)
    pixels = torch.randn(37, 3, 32, 32, generator=generator)
    preprocessing = preprocessing_from_backbone(model.backbone)
    dataset = TensorDataset(images, preprocessing, pixels, torch.arange(37) % 5, torch.arange(37))
    if folder is not None:
        files = ImageList(folder, tuple(f"{i % 7}.png" for i in range(37)), tuple(i % 5 for i in range(37)), ())
        dataset = ImageDataset(files, preprocessing)
    run_stages(model, dataset, config, run_dir)
    checkpoint = load_plain(run_dir.path(config.stages[-1]))
    return {"losses": checkpoint["losses"], "sha256": checkpoint["sha256"]}


def both(case, folder, config, run_folder, resume=False, killed="", processes=2):
    """Train in two processes, or in one. Returns their exit statuses."""

    def trained(context):
        def progress(step, fraction):
            if context.rank == 1 and killed and step.startswith(f"{killed}: loss") and fraction * STEPS >= KILLED_AFTER:
                os.kill(os.getpid(), signal.SIGKILL)

        return train(config, RunDir(run_folder, resume, save_seconds=0.0, progress=progress, processes=context))

    return forked(case, folder, trained, processes)


def forked(case, folder, run, processes):
    """Write what ``run`` returns, called with the context, in each of some processes. Returns their exit statuses."""
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            _process(case, folder, rank, run, processes)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _process(case, folder, rank, run, processes):
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{case}.store", rank=rank, world_size=2)
    with context_from_torchrun() as context:
        try:
            result = run(context)
        except TokfilterError as error:
            result = {"error": str(error)}
    (folder / f"{case}.{rank}.json").write_text(json.dumps(result))
    os._exit(0)


def similarity(folder, context):
    """Rows of ``evaluate_similarity`` for 7 images, and how many images this process computed."""
    images = ImageList(folder, tuple(f"{i}.png" for i in range(7)), (0,) * 7, ())
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(SMALL))
    dataset = ImageDataset(images, preprocessing_from_backbone(model.backbone))
    computed = []
    model.register_forward_pre_hook(lambda _, arguments: computed.append(len(arguments[0])))
    rows = evaluate_similarity(model, dataset, (1.0, 4), quiet, batch=2, processes=context)
    return {"rows": [asdict(row) for row in rows], "computed": sum(computed)}


def changed(case, folder, processes):
    """Train by files that timm changes. Returns the exit statuses of the processes."""
    change = Augmentation(crop_scale=0.3, auto_augment="rand-m9-mstd0.5-inc1", jitter=0.3, erasing=0.5)
    config = replace(settings("backbone"), backbone=FineTuning(TrainingPlan(3, batch=11), augmentation=change))

    def trained(context):
        return train(config, RunDir(folder / f"work-{case}", processes=context), folder)

    return forked(case, folder, trained, processes)


def main(folder):
    """Every case; their exit statuses go to FOLDER/statuses.json."""
    statuses = {stage: both(stage, folder, settings(stage), folder / f"work-{stage}", killed=stage) for stage in STAGES}
    for stage in STAGES:
        for case, processes in ((f"one-{stage}", 1), (f"whole-{stage}", 2)):
            statuses[case] = both(case, folder, settings(stage), folder / f"work-{case}", processes=processes)
    backbone, finetune = settings("backbone"), settings("finetune")
    statuses["alone"] = both("alone", folder, backbone, folder / "work-backbone", resume=True, processes=1)
    statuses["resumed"] = both("resumed", folder, finetune, folder / "work-finetune", resume=True)
    few = replace(finetune, finetune=FineTuning(TrainingPlan(1, batch=2)))
    statuses["few"] = both("few", folder, few, folder / "work-few")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    for case, processes in (("similar", 2), ("similar-one", 1)):
        statuses[case] = forked(case, folder, lambda context: similarity(folder, context), processes)
    for case, processes in (("changed", 2), ("changed-one", 1)):
        statuses[case] = changed(case, folder, processes)
    (folder / "statuses.json").write_text(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
