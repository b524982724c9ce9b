"""Which images of a folder an accuracy is measured on: those that the model was not trained on, where that is known."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.split import Split
from tokfilter.errors import DataError
from tokfilter.train.data import (
    ImageList,
    Progress,
    checked,
    images_from_folder,
    splits_from_folder,
    with_keys,
)

__all__ = ["Choice", "EvaluatedPart", "listed_images", "part_from_images"]

Choice = Literal["held-out", "all"]


@dataclass(frozen=True)
class EvaluatedPart:
    """The images that are evaluated.

    part: test, held-out, untrained or all, as in accuracy.json
    trained: how many of them the model was trained on; None where its bundle does not say
    """

    images: ImageList
    part: str
    trained: int | None


def listed_images(bundle: Bundle, data: Path) -> tuple[ImageList, bool]:
    """Images by name, and whether the data have a test folder. No image is read. Images without classes are listed too.

    Raises DataError.
    """
    names = bundle.class_names or None
    divided = any((data / name).exists() for name in ("train", "train.tar", "training", "training.tar"))
    divided = divided and not {"train", "training"} & set(names or ())
    if divided:
        return splits_from_folder(data, names, need_classes=False).test, divided
    return images_from_folder(data, names, need_classes=False), divided


def part_from_images(
    listed: ImageList, divided: bool, split: Split | None, choice: Choice, progress: Progress,
    report: Callable[[str], None],
) -> EvaluatedPart:  # fmt: skip
    """The images to evaluate, damaged ones left out; ``report`` gets what the user should know about the choice.

    choice: all images, or those that were not trained on
    Raises DataError where no image is left.
    """
    if split is not None and choice == "held-out" and not divided:
        return _untrained(with_keys(listed, progress), split, progress, report)
    images = checked(listed, progress, report)
    if split is None:
        if not divided:
            report(
                f"note: the bundle does not record which images it was trained on: all {len(images)} are evaluated, "
                "and some may be training images."
            )
        return EvaluatedPart(images, "test" if divided else "all", None)
    return _with_warning(images, "test" if divided else "all", split, report)


def _untrained(images: ImageList, split: Split, progress: Progress, report: Callable[[str], None]) -> EvaluatedPart:
    """The images of an undivided folder that were not trained on."""
    assert images.keys is not None
    positions = split.testable(images.keys)
    if not positions:
        raise DataError(
            f"the model was trained on all {len(images)} images of {images.root}: give test images, or measure on "
            "training images with --part all."
        )
    if len(positions) < len(images):
        report(
            f"note: {len(positions)} of {len(images)} images are evaluated; the model was trained on the others "
            "(--part all takes them too)."
        )
    chosen = checked(images.subset(positions), progress, report)
    held_out = split.all_held_out(chosen.keys or ())
    return _with_warning(chosen, "held-out" if held_out else "untrained", split, report)


def _with_warning(images: ImageList, part: str, split: Split, report: Callable[[str], None]) -> EvaluatedPart:
    assert images.keys is not None
    trained = split.count_trained(images.keys)
    if trained:
        report(
            f"warning: the model was trained on {trained} of these {len(images)} images: its accuracy on new images "
            "is lower than what follows."
        )
    return EvaluatedPart(images, part, trained)
