"""Parts of a scene of objects-in-photographs: the object, and distractors of no class.

A canvas is [size, size, 3], float32, in grey levels of 255; parts are drawn into it. Boxes are (top, left, bottom,
right) in pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tokfilter.benchmarks.study.photo_sources import Pixels, Shape

__all__ = ["Box", "Look", "draw_blob", "draw_line", "draw_noise", "draw_piece", "draw_shape", "window_of_photograph"]

Box = tuple[int, int, int, int]
Floats = NDArray[np.float32]

_LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_VISIBLE: Final = 0.25  # of the opacity: the least that counts as a part of a shape
_WORK: Final = 4  # a shape is turned at this many times its size of 28 pixels


@dataclass(frozen=True)
class Look:
    """Appearance of what is drawn.

    contrast: least difference in grey levels between a part and what is behind it
    opacity: range; the rest shows what is behind
    turn: largest angle of a shape, in degrees
    shading: largest relative change of the brightness from one side of a shape to the other
    """

    contrast: float = 40.0
    opacity: tuple[float, float] = (0.8, 1.0)
    turn: float = 15.0
    shading: float = 0.4


def window_of_photograph(
    rng: np.random.Generator, photograph: Pixels, size: int, smallest: int, brightness: tuple[float, float]
) -> Floats:
    """A random square window of at least ``smallest`` pixels, mirrored at random, [size, size, 3]."""
    height, width = photograph.shape[:2]
    side = int(rng.integers(min(smallest, height, width), min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    window = _resized(photograph[top : top + side, left : left + side], size, size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        window = window[:, ::-1]
    canvas: Floats = (window * rng.uniform(*brightness)).astype(np.float32)
    return canvas


def draw_shape(
    rng: np.random.Generator, canvas: Floats, shape: Shape, side: int, look: Look, part: float | None = None
) -> Box:
    """Draw a shape whose longer visible side has ``side`` pixels, anywhere. Returns its box.

    part: fraction of the height and width of a piece that is cut out of it, in place of the whole; then the piece's box
    """
    alpha, shade = _cut_out(rng, shape, side, look)
    if part is not None:
        height, width = (max(2, round(part * length)) for length in alpha.shape)
        top, left = (int(rng.integers(a - b + 1)) for a, b in zip(alpha.shape, (height, width), strict=True))
        alpha, shade = (x[top : top + height, left : left + width] for x in (alpha, shade))
    return _place(rng, canvas, alpha, shade, look)


def draw_blob(rng: np.random.Generator, canvas: Floats, side: int, look: Look) -> Box:
    """A smooth closed form of one colour that is no shape of a class."""
    angles, spread = rng.uniform(0, 2 * math.pi, 4), rng.uniform(0, 0.22, 4)
    rows, columns = np.mgrid[0:side, 0:side] / (side - 1) * 2 - 1
    columns = columns / rng.uniform(0.5, 1.0)
    theta = np.arctan2(rows, columns)
    edge = 0.75 + sum(s * np.cos((k + 2) * theta + a) for k, (a, s) in enumerate(zip(angles, spread, strict=True)))
    distance = (edge - np.hypot(rows, columns)) * side / 4
    alpha = np.clip(distance + 0.5, 0, 1).astype(np.float32)
    return _place(rng, canvas, alpha, np.ones_like(alpha), look)


def draw_noise(rng: np.random.Generator, canvas: Floats, side: int, look: Look) -> Box:
    """A rectangle of coloured noise with cells of one to four pixels."""
    height, width = side, max(2, round(side * rng.uniform(0.4, 1.0)))
    cell = int(rng.integers(1, 5))
    cells = rng.uniform(0, 255, (-(-height // cell), -(-width // cell), 3))
    noise = np.repeat(np.repeat(cells, cell, axis=0), cell, axis=1)[:height, :width]
    return _blend(rng, canvas, noise, np.full((height, width), rng.uniform(*look.opacity)))


def draw_piece(
    rng: np.random.Generator, canvas: Floats, photographs: Mapping[str, Pixels], side: int, look: Look
) -> tuple[Box, str]:
    """A rectangle of another photograph. Returns its box and the photograph's name."""
    name = list(photographs)[int(rng.integers(len(photographs)))]
    piece = window_of_photograph(rng, photographs[name], side, 3 * side, (0.6, 1.1))
    height, width = side, max(2, round(side * rng.uniform(0.4, 1.0)))
    alpha = np.full((height, width), rng.uniform(*look.opacity))
    return _blend(rng, canvas, piece[:height, :width], alpha), name


def draw_line(rng: np.random.Generator, canvas: Floats, look: Look) -> None:
    """A straight line from one border of the canvas to another, so that it is no digit 1."""
    size = len(canvas)
    mask = Image.new("L", (size, size))
    ends = rng.uniform(-0.2, 1.2, 2) * size
    points = [(0.0, ends[0]), (float(size), ends[1])]
    if rng.random() < 0.5:
        points = [(y, x) for x, y in points]
    ImageDraw.Draw(mask).line([tuple(map(float, point)) for point in points], fill=255, width=int(rng.integers(1, 6)))
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255 * rng.uniform(*look.opacity)
    canvas += alpha * (rng.uniform(0, 255, 3).astype(np.float32) - canvas)


def _cut_out(rng: np.random.Generator, shape: Shape, side: int, look: Look) -> tuple[Floats, Floats]:
    """Opacity and brightness, both 0..1, of a shape that is turned, cut to what is visible and resized."""
    grey = shape.grey
    ink = np.minimum(grey.astype(np.float32) * (255 / 48), 255).astype(np.uint8) if shape.solid else grey
    angle = float(rng.uniform(-look.turn, look.turn))
    large = [_turned(layer, angle) for layer in (ink, grey)]
    rows, columns = (np.flatnonzero((large[0] >= _VISIBLE * 255).any(axis=axis)) for axis in (1, 0))
    large = [layer[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for layer in large]
    height, width = large[0].shape
    factor = side / max(height, width)
    size = (max(2, round(height * factor)), max(2, round(width * factor)))
    alpha, level = (_resized(layer, *size, Image.Resampling.BICUBIC) / 255 for layer in large)
    shade = 0.35 + 0.65 * level if shape.solid else np.ones_like(level)
    return alpha.astype(np.float32), shade.astype(np.float32)


def _turned(layer: Pixels, angle: float) -> Pixels:
    """A layer at _WORK times its size, turned; what was outside is 0."""
    large = Image.fromarray(layer).resize([_WORK * n for n in layer.shape[::-1]], Image.Resampling.BICUBIC)
    return np.asarray(large.rotate(angle, Image.Resampling.BICUBIC, expand=True))


def _place(rng: np.random.Generator, canvas: Floats, alpha: Floats, shade: Floats, look: Look) -> Box:
    """Draw a form in a colour that differs from what is behind it, with a gradient of its brightness."""
    height, width = alpha.shape
    top, left = (int(rng.integers(len(canvas) - length + 1)) for length in alpha.shape)
    behind = canvas[top : top + height, left : left + width].mean(axis=(0, 1))
    usual = float((shade * alpha).sum() / max(alpha.sum(), 1e-6))
    colour = _colour(rng, behind, usual, look.contrast)
    direction = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:height, 0:width]
    along = (rows / height - 0.5) * math.sin(direction) + (columns / width - 0.5) * math.cos(direction)
    light = shade * (1 + rng.uniform(0, look.shading) * along)
    return _blend(rng, canvas, colour * light[..., None], alpha * rng.uniform(*look.opacity), (top, left))


def _blend(
    rng: np.random.Generator, canvas: Floats, pixels: Any, alpha: Any, corner: tuple[int, int] | None = None
) -> Box:
    """Blend pixels [h, w, 3] with opacity [h, w] into the canvas, anywhere or with their corner at (top, left)."""
    height, width = alpha.shape
    top, left = corner or (int(rng.integers(len(canvas) - length + 1)) for length in alpha.shape)
    place = canvas[top : top + height, left : left + width]
    place += (alpha[..., None] * (pixels - place)).astype(np.float32)
    return top, left, top + height, left + width


def _colour(rng: np.random.Generator, behind: Floats, usual: float, contrast: float) -> Floats:
    """A random colour that differs by ``contrast`` in brightness; usual: mean factor on it."""
    dark = float(behind @ _LUMA)
    for _ in range(30):
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        if abs(float(colour @ _LUMA) * usual - dark) >= contrast:
            return colour
    return np.full(3, 255.0 if dark < 128 * usual else 0.0, dtype=np.float32)


def _resized(pixels: Pixels, height: int, width: int, how: Any) -> Floats:
    return np.asarray(Image.fromarray(pixels).resize((width, height), how), dtype=np.float32)
