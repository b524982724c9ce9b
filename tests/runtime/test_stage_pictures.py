"""Pictures of choices: patches of their own are unchanged, the others not; one colour a token, one panel a choice."""

import numpy as np
from PIL import Image

from tokfilter.runtime.stage_pictures import stage_picture, stage_sheet
from tokfilter.runtime.stages import stages_from_outputs

CHOICES = [[1, 0], [3, 1]]


def rows(*numbers):
    return np.array(numbers, np.int32)


def stages(name, first, later, partners=None, **settings):
    return stages_from_outputs({"name": name, "settings": settings}, CHOICES, (2, 4), first, later, partners)


def view(height=32, width=64):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def unchanged(stage, scale=2):
    """Positions of patches whose middle is as in the view."""
    before = np.asarray(view()).repeat(scale, 0).repeat(scale, 1)
    after = np.asarray(stage_picture(view(), stage, (2, 4), scale))
    assert after.shape == before.shape
    size = 16 * scale
    found = []
    for position in range(8):
        row, column = divmod(position, 4)
        middle = slice(row * size + 6, (row + 1) * size - 6), slice(column * size + 6, (column + 1) * size - 6)
        if (after[middle] == before[middle]).all():
            found.append(position)
    return found


def test_patches_of_their_own_are_unchanged_and_no_others():
    first, later = rows(0, 2, 5, 7), rows(1, 3)
    partners = rows(1, 0, 1, 0, 5, 0, 7, 0, 1, 0, 0, 0)
    found = {
        "dynamic": stages("dynamic", first, later),
        "idle": stages("idle", first, later),
        "evit": stages("evit", first, later, fuse=True),
        "frequency": stages("frequency", first, later, windows=[2, 1]),
        "tome": stages("tome", rows(1, 3, 5, 7), later, partners),
    }
    for choices in found.values():
        for stage in choices:
            assert unchanged(stage) == stage.alone
    pictures = {name: stage_picture(view(), choices[0], (2, 4)).tobytes() for name, choices in found.items()}
    assert len(set(pictures.values())) == len(found)


def test_the_patches_of_a_token_have_one_colour_and_other_tokens_another():
    partners = rows(1, 0, 1, 0, 5, 0, 7, 0, 1, 0, 0, 0)
    grey = Image.new("RGB", (64, 32), (128, 128, 128))
    stage = stages("tome", rows(1, 3, 5, 7), rows(1, 3), partners)[0]
    after = np.asarray(stage_picture(grey, stage, (2, 4)))
    middles = [tuple(after[row * 16 + 8, column * 16 + 8].tolist()) for row in range(2) for column in range(4)]
    assert middles[0] == middles[1] == middles[2] and middles[3] == (128, 128, 128)
    assert middles[4] == middles[5] and middles[6] == middles[7]
    assert len({middles[0], middles[3], middles[4], middles[6]}) == 4
    line = tuple(after[8, 47].tolist())  # between patches 2 and 3
    assert line not in (middles[2], middles[3])


def test_a_sheet_has_one_panel_for_each_choice():
    found = stages("dynamic", rows(0, 2, 5, 7), rows(1, 3))
    one, two = (stage_sheet(view(), found[:count], (2, 4), 4) for count in (1, 2))
    assert one.height == two.height == 32 * 4 + 16 and two.width == 2 * one.width + 4
    stacked = stage_sheet(view(), found, (2, 4), 4, columns=1)
    assert stacked.width == one.width and stacked.height == 2 * one.height + 4
