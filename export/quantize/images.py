"""Images for calibration, and other images for the gate: chosen with a fixed seed, kept as 8-bit pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.artifacts.images import open_image
from tokfilter.artifacts.pixels import Floats, Pixels, normalise, pixels_from_normalised
from tokfilter.errors import DataError
from tokfilter.export.reference import SUFFIXES, transform_of

__all__ = ["LEAST_CALIBRATION", "MOST_CALIBRATION", "MOST_CHECK", "ImagePool", "Pools", "pools_from_folders"]

LEAST_CALIBRATION: Final = 32
MOST_CALIBRATION: Final = 500
MOST_CHECK: Final = 1000
"""Most images of the gate: among them a paired difference of 0.5 points is resolved where fp32 and the quantised graph
differ in correctness on less than 0.65 % of the images."""


@dataclass(frozen=True)
class ImagePool:
    """Images in one place.

    folder: where they were
    pixels: [M, 3, H, W]
    classes: index of each image's class, [M]; None without labels
    damaged: names of files that could not be read, which were left out
    """

    folder: Path
    pixels: Pixels
    classes: NDArray[np.int64] | None
    damaged: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, preprocessing: Preprocessing, size: int) -> Iterator[Floats]:
        """Normalised images [<= size, 3, H, W] in order."""
        for start in range(0, len(self), size):
            yield normalise(self.pixels[start : start + size], preprocessing.mean, preprocessing.std)


@dataclass(frozen=True)
class Pools:
    """Images for calibration, and those of the gate: no image is in both."""

    calibration: ImagePool
    check: ImagePool

    def as_dict(self) -> dict[str, Any]:
        """What the manifest says of them."""
        return {
            "calibration_images": len(self.calibration),
            "check_images": len(self.check),
            "labelled": self.check.classes is not None,
            "damaged": [*self.calibration.damaged, *self.check.damaged],
        }


def pools_from_folders(
    calibrate: Path, check: Path | None, preprocessing: Preprocessing, class_names: Sequence[str], classes: int
) -> Pools:
    """Up to 500 images of ``calibrate`` for calibration; up to 1000 others of it, or of ``check``, for the gate.

    class_names, classes: of the model; images in one subfolder per class are labelled
    Raises DataError: no folder, too few images, images of one class, a subfolder that is no class of the model.
    """
    files, labels = _files(calibrate, "--calibrate", class_names, classes)
    if check is None:
        first = min(MOST_CALIBRATION, max(LEAST_CALIBRATION, len(files) // 2))
        parts = files[:first], files[first : first + MOST_CHECK]
        check_labels = labels
    else:
        others, check_labels = _files(check, "--check-images", class_names, classes)
        calibration = files[:MOST_CALIBRATION]
        used = {path.resolve() for path in calibration}
        parts = calibration, [path for path in others if path.resolve() not in used][:MOST_CHECK]
    calibration_pool = _pool(calibrate, parts[0], None, preprocessing)
    if len(calibration_pool) < LEAST_CALIBRATION:
        raise DataError(
            f"--calibrate requires {LEAST_CALIBRATION} images or more, better {MOST_CALIBRATION}, and {calibrate} has "
            f"{len(calibration_pool)} that can be read{_besides(calibration_pool.damaged)}. Give more images."
        )
    check_pool = _pool(check or calibrate, parts[1], check_labels, preprocessing)
    if not len(check_pool):
        raise DataError(
            f"the gate needs images besides the {len(calibration_pool)} of the calibration, and {check or calibrate} "
            f"has none{_besides(check_pool.damaged)}. Give more images, or another folder with --check-images."
        )
    return Pools(calibration_pool, check_pool)


def _besides(damaged: Sequence[str]) -> str:
    return f"; {len(damaged)} are damaged, first {damaged[0]}" if damaged else ""


def _files(
    folder: Path, option: str, class_names: Sequence[str], classes: int
) -> tuple[list[Path], dict[Path, int] | None]:
    """Image files in a random order that is the same in every run, and their classes where they are labelled."""
    if not folder.is_dir():
        raise DataError(f"{option} must be a folder of images, but there is none at {folder}.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(
            f"{option} must be a folder of images, but {folder} holds none of {', '.join(sorted(SUFFIXES))}."
        )
    labels = _labels(folder, option, paths, class_names, classes)
    return [paths[row] for row in np.random.default_rng(0).permutation(len(paths))], labels


def _labels(
    folder: Path, option: str, paths: Sequence[Path], class_names: Sequence[str], classes: int
) -> dict[Path, int] | None:
    """Path -> class, from subfolders named as the model's classes; None for images without subfolders."""
    inside = [path.relative_to(folder).parts for path in paths]
    if any(len(parts) == 1 for parts in inside):
        return None
    found = sorted({parts[0] for parts in inside})
    names = list(class_names) or (found if len(found) == classes else [])
    unknown = [name for name in found if name not in names]
    if unknown and class_names:
        raise DataError(
            f"{option} has subfolders that are no class of this model, first {unknown[0]!r}: labelled images lie in "
            "one subfolder per class, images without labels in the folder itself."
        )
    if unknown:
        return None
    if len(found) == 1 and classes > 1:
        raise DataError(
            f"{option} requires images of several classes, and all images of {folder} are of class {found[0]!r}: "
            "neither ranges nor top-1 of one class hold for the others."
        )
    return {path: names.index(parts[0]) for path, parts in zip(paths, inside, strict=True)}


def _pool(
    folder: Path, paths: Sequence[Path], labels: dict[Path, int] | None, preprocessing: Preprocessing
) -> ImagePool:
    transform = transform_of(preprocessing)
    pixels: list[Pixels] = []
    classes: list[int] = []
    damaged: list[str] = []
    for path in paths:
        try:
            image = transform(open_image(path)).numpy()
        except DataError:
            damaged.append(str(path.relative_to(folder)))
            continue
        pixels.append(pixels_from_normalised(image, preprocessing.mean, preprocessing.std))
        if labels is not None:
            classes.append(labels[path])
    stacked = np.stack(pixels) if pixels else np.zeros((0, *preprocessing.input_size), np.uint8)
    return ImagePool(folder, stacked, None if labels is None else np.array(classes, np.int64), tuple(damaged))
