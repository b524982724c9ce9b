"""Pictures of what a choice does with patches: kept as they are, dropped grey, idle blue, one colour for each token."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from tokfilter.runtime.pictures import Grid, Mask, Numbers, enlarged, kept_picture, per_pixel
from tokfilter.runtime.stages import Stage

__all__ = ["stage_picture", "stage_sheet"]

# Okabe and Ito 2008, readable with every common colour vision; without black.
_COLOURS: Final = np.array(
    [(230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (86, 180, 233), (0, 114, 178)],
    dtype=np.float32,
)
_TINT: Final = 0.45  # opacity of a group's colour
_IDLE: Final = np.array([52, 92, 160], dtype=np.float32)
_REST: Final = 0.6  # opacity of the blue over an idle patch
_TITLE: Final = 16  # pixels
_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def stage_picture(view: Image.Image, stage: Stage, grid: Grid, scale: int = 1) -> Image.Image:
    """The view as one choice leaves it.

    Patches that are tokens of their own are unchanged, dropped ones grey and crossed out, idle ones blue. Patches that
    stand in one token have one colour and a line around them.

    scale: each pixel becomes scale x scale pixels
    """
    drawn = np.asarray(kept_picture(view, stage.alone, grid, scale), dtype=np.float32).copy()
    pixels = enlarged(view, grid, scale)
    height, width = pixels.shape[:2]
    idle = per_pixel(stage.idle.reshape(grid), height, width)
    grey = np.repeat((pixels @ _LUMINANCE)[..., None], 3, axis=-1)
    drawn[idle] = (_REST * _IDLE + (1 - _REST) * grey)[idle]
    group = np.full(grid[0] * grid[1], -1)
    for number, members in enumerate(stage.groups):
        group[members] = number
    groups = per_pixel(group.reshape(grid), height, width)
    inside = groups >= 0
    colours = _COLOURS[groups % len(_COLOURS)]
    drawn[inside] = (_TINT * colours + (1 - _TINT) * pixels)[inside]
    line = inside & _edges_of(groups, max(1, min(height, width) // 150))
    drawn[line] = colours[line]
    return Image.fromarray(np.clip(np.rint(drawn), 0, 255).astype(np.uint8))


def stage_sheet(
    view: Image.Image, stages: Sequence[Stage], grid: Grid, scale: int = 1, columns: int = 4
) -> Image.Image:
    """One panel for each choice, in its order, each with its block and numbers above. columns: most panels in a row."""
    panels = [_titled(stage_picture(view, stage, grid, scale), stage.summary) for stage in stages]
    width, height = max(panel.width for panel in panels), panels[0].height
    across, gap = min(columns, len(panels)), 4
    down = -(-len(panels) // across)
    sheet = Image.new("RGB", ((width + gap) * across - gap, (height + gap) * down - gap), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place % across * (width + gap), place // across * (height + gap)))
    return sheet


def _titled(picture: Image.Image, title: str) -> Image.Image:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(picture.width, int(draw.textlength(title)) + 4)
    panel = Image.new("RGB", (width, picture.height + _TITLE), "white")
    ImageDraw.Draw(panel).text((2, 2), title, fill=(20, 22, 28))
    panel.paste(picture, (0, _TITLE))
    return panel


def _edges_of(groups: Numbers, thickness: int) -> Mask:
    """Pixels within ``thickness`` of a pixel of another group. groups: [height, width]."""
    edges = np.zeros(groups.shape, np.bool_)
    for axis in (0, 1):
        length = groups.shape[axis]
        for shift in range(1, min(thickness, length - 1) + 1):
            first = np.take(groups, np.arange(length - shift), axis)
            second = np.take(groups, np.arange(shift, length), axis)
            differs = first != second
            pad = [(0, shift) if a == axis else (0, 0) for a in (0, 1)]
            edges |= np.pad(differs, pad) | np.pad(differs, [pair[::-1] for pair in pad])
    return edges
