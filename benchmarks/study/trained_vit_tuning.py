"""Short fine-tuning of the trained weights, the same for the filter and for baselines, with random budgets per step."""

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
    """The method's model with every weight except the scorer's fine-tuned on ``images``.

    An interrupted run continues from its checkpoint in ``folder``. Raises DataError for the checkpoint of another run.
    """
    model = model_of(method, bundle)
    model.requires_grad_(True)
    model.scorer.requires_grad_(False)
    dataset = ImageDataset(images, bundle.preprocessing, progress)
    run_dir = RunDir(folder / method, resume=True, save_seconds=120, progress=progress)
    train_elastic(model, dataset, TUNING, 0, run_dir)
    return model
