"""Pictures of kept tokens: kept patches as they are, dropped ones grey and crossed out; or a heat map of the scores.

Pure functions of arrays and Pillow images; neither torch nor an engine is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokfilter.errors import DataError
from tokfilter.runtime.stages import Stage

__all__ = [
    "BudgetResult",
    "Grid",
    "Mask",
    "Numbers",
    "Picture",
    "enlarged",
    "heat_picture",
    "kept_mask",
    "kept_picture",
    "per_pixel",
    "scale_from_size",
    "sheet_from_pictures",
    "tiled",
]

Grid = tuple[int, int]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float32]

_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_SLATE: Final = np.array([40, 46, 58], dtype=np.float32)
_LINE: Final = np.array([140, 152, 172], dtype=np.float32)
_RIM: Final = 0.08 * _SLATE + 0.92 * 255
_SHADOW: Final = np.array([10, 11, 14], dtype=np.float32)
_VEIL: Final = 0.78  # opacity of the slate over a dropped patch
_FAINT: Final = 0.38  # opacity of grid and crosses
"""The look of benchmarks/page/static/js/draw.js."""

# Anchors of cividis, readable with every common colour vision (Nuñez, Anderton, Renslow 2018, arXiv 1712.01662).
_HEAT: Final = np.array(
    [(0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115), (138, 134, 120), (165, 156, 116),
     (195, 179, 105), (225, 204, 85), (254, 232, 56)],
    dtype=np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class BudgetResult:
    """A model's prediction for a picture at one budget.

    tokens: patch tokens kept
    predicted, probability: the most probable class, and its probability in 0..1
    indices: kept positions among the patches; None when every token was kept
    masks: the view under the colours of its classes, from a model that gives masks
    stages: what each choice does with the patches, of a model that reduces inside its blocks
    """

    tokens: int
    predicted: str
    probability: float
    indices: tuple[int, ...] | None = None
    masks: Image.Image | None = None
    stages: Sequence[Stage] = ()


@dataclass(frozen=True)
class Picture:
    """One image as the model's input, with the predictions for it at some budgets.

    view: resized and cropped to the model's input
    grid: (rows, columns) of patches
    truth: its class, where there is a label
    scores: [rows * columns], higher is more important
    """

    view: Image.Image
    grid: Grid
    choices: Sequence[BudgetResult]
    truth: str | None = None
    scores: Numbers | None = None


def kept_mask(indices: Sequence[int] | npt.NDArray[np.integer], grid: Grid) -> Mask:
    """Which patches are kept. indices: [k], positions among the patches, prefix tokens not counted.

    Returns bool [rows, columns]. Raises DataError for a position outside the grid or given twice.
    """
    rows, columns = grid
    positions = np.asarray(indices, dtype=np.int64).ravel()
    if positions.size and not (positions.min() >= 0 and positions.max() < rows * columns):
        raise DataError(
            f"a grid of {rows} x {columns} patches has positions 0 to {rows * columns - 1}, "
            f"got {positions.min()} to {positions.max()}."
        )
    if np.unique(positions).size != positions.size:
        raise DataError("kept positions must differ from each other, got one twice.")
    mask = np.zeros(rows * columns, dtype=np.bool_)
    mask[positions] = True
    return mask.reshape(grid)


def scale_from_size(size: tuple[int, int], wanted: int = 224) -> int:
    """Integer factor that makes the longer edge of (width, height) at least ``wanted`` pixels."""
    return max(1, math.ceil(wanted / max(size)))


def kept_picture(
    view: Image.Image, indices: Sequence[int] | npt.NDArray[np.integer], grid: Grid, scale: int = 1
) -> Image.Image:
    """The view with dropped patches grey and crossed out, and a bright rim around the kept ones.

    Dimming alone would not show on a dark picture. Kept pixels are unchanged.

    indices: [k], positions among the patches, prefix tokens not counted
    scale: each pixel becomes scale x scale pixels
    Raises DataError for a position outside the grid.
    """
    mask = kept_mask(indices, grid)
    pixels = enlarged(view, grid, scale)
    height, width = pixels.shape[:2]
    kept = per_pixel(mask, height, width)
    dropped = _VEIL * _SLATE + (1 - _VEIL) * (pixels @ _LUMINANCE)[..., None]
    ruled = _first_lines(height, grid[0])[:, None] | _first_lines(width, grid[1])[None, :]
    drawn = _FAINT * np.maximum(ruled, _crosses(height, width, grid))[..., None]
    dropped = (1 - drawn) * dropped + drawn * _LINE
    rim = max(1, min(round(min(height, width) / 130), height // grid[0] // 6, width // grid[1] // 6))
    dropped[_grown(kept, 2 * rim)] = _SHADOW
    dropped[_grown(kept, rim)] = _RIM
    return _image(np.where(kept[..., None], pixels, dropped))


def heat_picture(view: Image.Image, scores: npt.ArrayLike, grid: Grid, scale: int = 1) -> Image.Image:
    """The view in grey under the colours of its scores, from dark blue (lowest) to yellow (highest).

    scores: [rows * columns]; NaN counts as the lowest, as in the TokenSelect contract
    Raises DataError unless there is one score for each patch.
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    if values.size != grid[0] * grid[1]:
        raise DataError(f"a grid of {grid[0]} x {grid[1]} patches needs {grid[0] * grid[1]} scores, got {values.size}.")
    pixels = enlarged(view, grid, scale)
    height, width = pixels.shape[:2]
    anchors = np.linspace(0, 1, len(_HEAT))
    ranks = _ranked(values).reshape(grid)
    colours = np.stack([np.interp(ranks, anchors, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    grey = (pixels @ _LUMINANCE)[..., None]
    return _image(0.7 * per_pixel(colours, height, width) + 0.3 * grey)


def sheet_from_pictures(pictures: Sequence[Picture], budgets: Sequence[int], width: int = 112) -> Image.Image:
    """One column per picture: the image, its scores as a heat map, and the kept tokens at each budget.

    budgets: token counts, each among the choices of every picture
    width: of a tile, in pixels
    Raises DataError for a picture without scores or without a choice at one of the budgets.
    """
    return tiled([_column(picture, budgets, width) for picture in pictures])


def tiled(columns: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    """Columns of equally large tiles, side by side on white."""
    width, height = columns[0][0].size
    size = ((width + gap) * len(columns) - gap, (height + gap) * max(map(len, columns)) - gap)
    sheet = Image.new("RGB", size, "white")
    for x, column in enumerate(columns):
        for y, tile in enumerate(column):
            sheet.paste(tile, (x * (width + gap), y * (height + gap)))
    return sheet


def _column(picture: Picture, budgets: Sequence[int], width: int) -> list[Image.Image]:
    kept = {choice.tokens: choice.indices for choice in picture.choices if choice.indices is not None}
    missing = [k for k in budgets if k not in kept]
    if picture.scores is None or missing:
        raise DataError(f"a sheet of pictures needs scores and the kept tokens at {list(budgets)}, got {sorted(kept)}.")
    height = round(width * picture.view.height / picture.view.width)
    view = picture.view.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    tiles = [view, heat_picture(view, picture.scores, picture.grid)]
    return [*tiles, *(kept_picture(view, kept[k] or (), picture.grid) for k in budgets)]


def _ranked(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rank of each score in 0..1, equal scores with equal ranks: tokens are chosen by rank."""
    _, places = np.unique(np.where(np.isnan(values), -np.inf, values), return_inverse=True)
    ranks: npt.NDArray[np.float64] = places / max(1, places.max())
    return ranks


def enlarged(view: Image.Image, grid: Grid, scale: int) -> Numbers:
    """Enlarged pixels [height, width, 3]. Raises DataError when there are more patches than pixels along an edge."""
    if view.height * scale < grid[0] or view.width * scale < grid[1]:
        raise DataError(f"a picture of {view.width} x {view.height} pixels cannot show {grid[0]} x {grid[1]} patches.")
    pixels = np.asarray(view.convert("RGB"), dtype=np.float32)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _edges(length: int, parts: int) -> npt.NDArray[np.int64]:
    """Start and end of ``parts`` patches along an edge, to the nearest pixel. Returns [parts + 1]."""
    return np.rint(np.linspace(0, length, parts + 1)).astype(np.int64)


def _first_lines(length: int, parts: int) -> Mask:
    lines = np.zeros(length, dtype=np.bool_)
    lines[_edges(length, parts)[:-1]] = True
    return lines


def _crosses(height: int, width: int, grid: Grid) -> Numbers:
    """Opacity in 0..1 of a line from the lower left to the upper right corner of every patch; none on patches of a few
    pixels. Returns [height, width]."""
    if min(height // grid[0], width // grid[1]) < 6:
        return np.zeros((height, width), dtype=np.float32)
    down, right = (_within(length, parts) for length, parts in ((height, grid[0]), (width, grid[1])))
    distance = np.abs(down[:, None] + right[None, :] - 1) * min(height / grid[0], width / grid[1]) / math.sqrt(2)
    lines: Numbers = np.clip(1 - distance, 0, 1).astype(np.float32)
    return lines


def _within(length: int, parts: int) -> npt.NDArray[np.float64]:
    """Position of each pixel's centre inside its patch, 0..1. Returns [length]."""
    edges = _edges(length, parts)
    sizes = np.diff(edges)
    place: npt.NDArray[np.float64] = (np.arange(length) + 0.5 - edges[:-1].repeat(sizes)) / sizes.repeat(sizes)
    return place


def _grown(mask: Mask, pixels: int) -> Mask:
    """The mask dilated by ``pixels`` horizontally and vertically."""
    grown: Any = mask
    for axis in (0, 1):
        wide = np.pad(grown, [(pixels, pixels) if a == axis else (0, 0) for a in (0, 1)])
        grown = np.lib.stride_tricks.sliding_window_view(wide, 2 * pixels + 1, axis=axis).any(axis=-1)
    spread: Mask = grown
    return spread


def per_pixel(patches: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Spread one value per patch [rows, columns, ...] over its pixels [height, width, ...]."""
    rows, columns = (np.diff(_edges(n, parts)) for n, parts in ((height, patches.shape[0]), (width, patches.shape[1])))
    return patches.repeat(rows, axis=0).repeat(columns, axis=1)


def _image(pixels: npt.NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
