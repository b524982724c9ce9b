"""digits-in-scenes: colour photographs with real handwritten digits pasted in, written as a folder of images per class.

All data come with scikit-learn: 1,797 handwritten digits of 8x8 pixels (UCI, Alpaydin and Kaynak 1998) and two
photographs. Training and test share no data: a digit instance belongs to one split, and so does every photo column
(training uses the left 70 % of each photograph, test the rest; no window crosses the border). Training's digits and
columns are divided once more, for choices that no test image may decide (``recipe_search.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

__all__ = ["SceneConfig", "scene_images", "segmented_scenes", "write_scenes"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SPLITS = ("train", "test", "fit", "held-out")
"""fit and held-out are parts of train. The place of a split is in its random seed, so new ones come last."""
_DIGITS = {"train": (0, 1297), "test": (1297, 1797), "fit": (0, 1037), "held-out": (1037, 1297)}
_COLUMNS = {"train": (0.0, 0.7), "test": (0.7, 1.0), "fit": (0.0, 0.5), "held-out": (0.5, 0.7)}
_INK = 15.9  # digits come in 0..16
_INSIDE = 0.5  # a pixel belongs to a digit that covers at least half of its colour


@dataclass(frozen=True)
class SceneConfig:
    """Appearance of the scenes. Lengths in pixels, brightness and contrast in grey levels of 255.

    size: height and width of a scene
    digits: possible side lengths of a pasted digit
    step: the digit's corner is at a multiple of it, so that 8,000 scenes and some minutes are enough for training
    jitter: largest distance from those multiples
    brightness: range of the factor on the photograph
    contrast: range of the grey levels by which a digit is brighter than its background
    tint: largest difference of a digit's colour channels from its grey level
    window: range of the side of the photo window behind a scene
    """

    size: int = 64
    digits: tuple[int, ...] = (24,)
    step: int = 8
    jitter: int = 0
    brightness: tuple[float, float] = (0.2, 0.7)
    contrast: tuple[float, float] = (80.0, 160.0)
    tint: float = 40.0
    window: tuple[int, int] = (64, 180)


def scene_images(
    split: str, count: int, seed: int, config: SceneConfig | None = None
) -> tuple[Pixels, NDArray[np.int64]]:
    """Draw ``count`` scenes of a split ("train", "test"; "fit" or "held-out", which are parts of "train").

    Returns images [count, size, size, 3] and their digits [count]; the same seed gives the same scenes.
    """
    images, _, classes = _scenes(split, count, seed, config)
    return images, classes


def segmented_scenes(split: str, count: int, seed: int, config: SceneConfig | None = None) -> tuple[Pixels, Pixels]:
    """The scenes of ``scene_images`` with a class for each pixel, known because the digits were pasted.

    Returns images [count, size, size, 3] and labels [count, size, size]: 0 for the background, 1 + digit for the digit.
    """
    images, inked, classes = _scenes(split, count, seed, config)
    return images, (inked * (1 + classes[:, None, None])).astype(np.uint8)


def _scenes(
    split: str, count: int, seed: int, config: SceneConfig | None
) -> tuple[Pixels, NDArray[np.bool_], NDArray[np.int64]]:
    """Images [count, size, size, 3], pixels of the digits [count, size, size], and digits [count]."""
    config = config or SceneConfig()
    rng = np.random.default_rng([seed, _SPLITS.index(split)])
    photos, (digits, classes) = _photos(split), _digits(split)
    drawn = rng.integers(len(digits), size=count)
    images, inked = zip(*(_scene(rng, photos, digits[i], config) for i in drawn), strict=True)
    return np.stack(images), np.stack(inked), classes[drawn]


def write_scenes(
    folder: Path,
    seed: int,
    train: int = 8000,
    test: int = 2000,
    config: SceneConfig | None = None,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
    splits: tuple[str, str] = ("train", "test"),
) -> Path:
    """Write scenes as PNG files, ``folder/{train,test}/<digit>/<number>.png``. Returns the folder. Raises OSError.

    train, test: numbers of scenes; 0 leaves a split out
    splits: which digits and photographs the two are made of
    """
    for split, source, count in zip(("train", "test"), splits, (train, test), strict=True):
        if not count:
            continue
        images, classes = scene_images(source, count, seed, config)
        for digit in set(classes.tolist()):  # no empty folder for a class without scenes
            (folder / split / str(digit)).mkdir(parents=True, exist_ok=True)
        for i, (image, digit) in enumerate(zip(images, classes, strict=True)):
            Image.fromarray(image).save(folder / split / str(digit) / f"{i:05d}.png", compress_level=1)
            if i % 100 == 0:
                progress(f"scenes: {split}", i / count)
    return folder


def _photos(split: str) -> list[Pixels]:
    parts = []
    for photo in load_sample_images().images:
        first, last = (int(photo.shape[1] * fraction) for fraction in _COLUMNS[split])
        parts.append(photo[:, first:last])
    return parts


def _digits(split: str) -> tuple[Floats, NDArray[np.int64]]:
    """Ink of each digit of a split, [n, 8, 8] in 0..1, and its class [n]."""
    values, classes = load_digits(return_X_y=True)
    # One fixed shuffle for all seeds: a training digit of one run is never a test digit of another.
    order = np.random.default_rng(0).permutation(len(values))
    chosen = order[slice(*_DIGITS[split])]
    return (values[chosen].reshape(-1, 8, 8) * _INK / 255).astype(np.float32), classes[chosen]


def _scene(
    rng: np.random.Generator, photos: list[Pixels], digit: Floats, config: SceneConfig
) -> tuple[Pixels, NDArray[np.bool_]]:
    canvas = _background(rng, photos, config)
    side = int(rng.choice(config.digits))
    ink = _resized((digit * 255).astype(np.uint8), side, Image.Resampling.BICUBIC) / 255
    row, column = (_corner(rng, side, config) for _ in range(2))
    place = canvas[row : row + side, column : column + side]
    tint = rng.uniform(-config.tint, config.tint, 3)
    colour = place.mean() + rng.uniform(*config.contrast) + tint - tint.mean()
    place += ink[..., None] * (colour - place)
    pixels: Pixels = canvas.clip(0, 255).astype(np.uint8)
    inked = np.zeros(canvas.shape[:2], dtype=np.bool_)
    inked[row : row + side, column : column + side] = ink >= _INSIDE
    return pixels, inked


def _background(rng: np.random.Generator, photos: list[Pixels], config: SceneConfig) -> Floats:
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(config.window[0], min(config.window[1], *photo.shape[:2])))
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    window = _resized(photo[top : top + side, left : left + side], config.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        window = window[:, ::-1]
    canvas: Floats = (window * rng.uniform(*config.brightness)).astype(np.float32)
    return canvas


def _corner(rng: np.random.Generator, side: int, config: SceneConfig) -> int:
    free = config.size - side
    corner = config.step * int(rng.integers(free // config.step + 1))
    corner += int(rng.integers(-config.jitter, config.jitter + 1))
    return min(free, max(0, corner))


def _resized(pixels: Pixels, side: int, how: Any) -> Floats:
    return np.asarray(Image.fromarray(pixels).resize((side, side), how), dtype=np.float32)
