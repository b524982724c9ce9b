"""Two contact sheets of kept tokens, by the filter on trained weights: photos, and images of the test set."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.images import image_from_bytes, open_image
from tokfilter.benchmarks.study.pretrained_vit import photo_files
from tokfilter.runtime.pictures import heat_picture, kept_picture, tiled
from tokfilter.runtime.preprocess import preprocess_from_fields
from tokfilter.vit.bundle import model_from_bundle

__all__ = ["sheet_from_images", "write_pictures"]

_TILE: Final = 84
_GAP: Final = 4
_COLOURS: Final = 96  # a palette cuts the size of a PNG of photos to a third


def write_pictures(bundle: Bundle, tests: Path, wheels: Path, folder: Path) -> list[Path]:
    """Write ``trained-vit-photos.png`` and ``trained-vit-fashion.png``. Returns the paths. Raises DataError.

    tests: folder with one subfolder per class; the first image of each is shown
    wheels: folder with the wheel foolbox; its photos are unlike the filter's training data
    """
    photos = [image_from_bytes(content, name) for name, content in photo_files(wheels).items()]
    clothes = [open_image(min(path.iterdir())) for path in sorted(tests.iterdir()) if path.is_dir()]
    sheets = {
        "trained-vit-photos.png": [sheet_from_images(bundle, photos[i : i + 10]) for i in range(0, len(photos), 10)],
        "trained-vit-fashion.png": [sheet_from_images(bundle, clothes)],
    }
    paths = []
    for name, parts in sheets.items():
        path = folder / name
        _stacked(parts).quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        paths.append(path)
    return paths


def sheet_from_images(
    bundle: Bundle, images: Sequence[Image.Image], keeps: Sequence[float] = (0.5, 0.25)
) -> Image.Image:
    """One column per image: its scores as a heat map, then the kept tokens at each budget."""
    transform = preprocess_from_fields(asdict(bundle.preprocessing))
    inputs = torch.from_numpy(np.stack([transform.input_from_view(transform.view(image)) for image in images]))
    model = model_from_bundle(bundle)
    with torch.inference_mode():
        scores = model.scorer(model.embed(inputs)[:, model.prefix_tokens :])
    order = scores.argsort(dim=1, descending=True, stable=True).numpy()
    columns = []
    for image, values, ranked in zip(images, scores.numpy(), order, strict=True):
        view = transform.view(image).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
        budgets = [tokens_from_keep(keep, model.num_patches) for keep in keeps]
        tiles = [heat_picture(view, values, model.grid)]
        columns.append([*tiles, *(kept_picture(view, ranked[:k], model.grid) for k in budgets)])
    return tiled(columns, _GAP)


def _stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """One sheet below the other."""
    height = sum(sheet.height for sheet in sheets) + 3 * _GAP * (len(sheets) - 1)
    whole, y = Image.new("RGB", (max(sheet.width for sheet in sheets), height), "white"), 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height + 3 * _GAP
    return whole
