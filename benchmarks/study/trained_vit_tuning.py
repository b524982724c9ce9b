"""Fine-tuning of the trained weights, alike for the filter and for baselines: few steps, each with budgets drawn anew."""

from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.study.baseline_models import model_of
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.data import ImageList, Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.finetune import FineTuning, train_elastic
from tokfilter.train.loop import RunDir, TrainingPlan

__all__ = ["TUNED", "TUNING", "tuned_model"]

TUNED: Final = ("filter", "random", "centre")
TUNING: Final = FineTuning(TrainingPlan(200, batch=32, lr=5e-5), low=0.2, augmentation=Augmentation(flip=0.5))


def tuned_model(method: str, bundle: Bundle, images: ImageList, folder: Path, progress: Progress) -> Any:
    """The method's model, every weight but the scorer's fine-tuned on ``images``; goes on from what lies in ``folder``.

    Raises DataError when what lies there is another run's.
    """
    model = model_of(method, bundle)
    model.requires_grad_(True)
    model.scorer.requires_grad_(False)
    dataset = ImageDataset(images, bundle.preprocessing, progress)
    work = RunDir(folder / method, resume=True, save_seconds=120, progress=progress)
    train_elastic(model, dataset, TUNING, 0, work)
    return model
