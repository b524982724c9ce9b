"""Pictures of kept tokens: kept pixels are unchanged, dropped ones are not, on any grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import DataError
from tokfilter.runtime.pictures import (
    BudgetResult,
    Picture,
    heat_picture,
    kept_mask,
    kept_picture,
    scale_from_size,
    sheet_from_pictures,
)
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT


def view(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[..., 0] = 255  # red: no dropped pixel can look the same
    return Image.fromarray(pixels)


@st.composite
def scenes(draw):
    grid = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    height, width = (n + draw(st.integers(0, 30)) for n in grid)
    patches = grid[0] * grid[1]
    indices = draw(st.lists(st.integers(0, patches - 1), unique=True, max_size=patches))
    return view(height, width), indices, grid, draw(st.integers(1, 4))


def cell(position, grid, height, width):
    """The pixels of a patch, by the rule that every pixel belongs to one patch and edges go to the nearest pixel."""
    row, column = divmod(position, grid[1])
    rows, columns = (
        [round(i * n / parts) for i in range(parts + 1)] for n, parts in ((height, grid[0]), (width, grid[1]))
    )
    return slice(rows[row], rows[row + 1]), slice(columns[column], columns[column + 1])


@given(scenes())
@settings(max_examples=100, deadline=None)
def test_kept_pixels_are_unchanged_and_dropped_ones_are_not(scene):
    image, indices, grid, scale = scene
    before = np.asarray(image).repeat(scale, 0).repeat(scale, 1)
    after = np.asarray(kept_picture(image, indices, grid, scale))
    assert after.shape == before.shape
    for position in range(grid[0] * grid[1]):
        where = cell(position, grid, *before.shape[:2])
        same = (after[where] == before[where]).all(axis=-1)
        assert same.all() if position in indices else not same.any()


@pytest.mark.parametrize("light", [0, 12, 45, 52, 128, 255])
def test_dropped_patches_show_on_any_photo(light):
    """The kept patch in the middle has a bright rim with a dark edge, and the others a cross, in grey."""
    flat = Image.new("RGB", (96, 96), (light,) * 3)
    drawn = np.asarray(kept_picture(flat, [4], (3, 3), scale=2)).astype(int)
    row = drawn[96, :, 0]  # through the middle, from the left
    assert (row[65:127] == light).all()
    assert row[63] > 230 and row[62] < 20, "rim and its dark edge"
    corner = drawn[:60, :60].mean(axis=-1)
    assert corner.max() - corner.min() >= 20, "a cross that can be seen"
    assert np.ptp(drawn[:60, :60], axis=-1).max() <= 24, "almost grey"


def test_order_of_indices_does_not_matter():
    image, indices = view(20, 30), [5, 0, 3]
    assert kept_picture(image, indices, (2, 3)) == kept_picture(image, np.array(sorted(indices)), (2, 3))


def test_all_kept_is_the_view_itself():
    image = view(28, 28)
    assert kept_picture(image, range(4), (2, 2)) == image


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2), ("vit_dpwee_patch16_reg1_gap_256", 1)],
)
def test_prefix_tokens_do_not_shift_the_picture(name, prefix):
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 5}
    model = FilteredViT(create_backbone(Architecture(name, small))).eval()
    assert model.prefix_tokens == prefix
    wanted = [2, 3, 9, 15]

    class Wants(torch.nn.Module):
        def forward(self, patches):
            scores = torch.zeros(patches.shape[:2])
            scores[:, wanted] = 1.0
            return scores

    model.drop.scorer = Wants()
    model(torch.zeros(1, 3, 32, 32), keep=len(wanted))
    assert kept_mask(model.last.indices[0].numpy(), model.grid).ravel().nonzero()[0].tolist() == wanted


@pytest.mark.parametrize("indices", [[-1], [6], [0, 7]])
def test_positions_outside_the_grid_are_refused(indices):
    with pytest.raises(DataError, match="2 x 3 patches has positions 0 to 5"):
        kept_picture(view(20, 30), indices, (2, 3))


def test_a_position_twice_is_refused():
    with pytest.raises(DataError, match="got one twice"):
        kept_mask([1, 1], (2, 3))


def test_more_patches_than_pixels_are_refused():
    with pytest.raises(DataError, match="1 x 1 pixels cannot show 2 x 2 patches"):
        kept_picture(view(1, 1), [0], (2, 2))
    assert kept_picture(view(1, 1), [0], (2, 2), scale=2).size == (2, 2)


def test_heat_depends_on_the_order_of_scores_only():
    image, scores = view(24, 24), np.array([0.1, 5.0, -3.0, 0.2])
    assert heat_picture(image, scores, (2, 2)) == heat_picture(image, np.exp(scores), (2, 2))


def test_the_highest_score_is_yellow_and_nan_counts_as_lowest():
    grey = Image.new("RGB", (20, 20), (128, 128, 128))
    found = np.asarray(heat_picture(grey, [np.nan, 2.0, 1.0, 0.0], (2, 2))).astype(int)
    corners = [found[y, x] for y in (0, 15) for x in (0, 15)]
    warmth = [red - blue for red, _, blue in corners]
    assert np.argsort(warmth).tolist() == [0, 3, 2, 1]


def test_one_score_is_needed_for_each_patch():
    with pytest.raises(DataError, match="needs 4 scores, got 3"):
        heat_picture(view(8, 8), [1, 2, 3], (2, 2))


def test_equal_scores_share_a_colour():
    found = np.asarray(heat_picture(Image.new("RGB", (8, 8), "grey"), np.zeros(4), (2, 2)))
    assert (found == found[0, 0]).all()


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 1000))
def test_enlarged_enough_and_no_more(width, height, wanted):
    scale, longest = scale_from_size((width, height), wanted), max(width, height)
    assert scale * longest >= wanted
    assert scale == 1 or (scale - 1) * longest < wanted


def picture(size=(16, 32), choices=((8, tuple(range(8))), (2, (0, 5)))):
    results = [BudgetResult(8, "cat", 0.5), *(BudgetResult(k, "cat", 0.5, indices) for k, indices in choices)]
    return Picture(view(*size), (2, 4), results, scores=np.arange(8, dtype=np.float32))


def test_a_sheet_has_a_column_per_picture_and_a_row_per_budget():
    sheet = sheet_from_pictures([picture(), picture(), picture()], [8, 2], width=64)
    assert sheet.size == (3 * 64 + 2 * 4, 4 * 32 + 3 * 4)
    assert sheet.crop((0, 2 * 36, 64, 2 * 36 + 32)) == picture().view.resize((64, 32), Image.Resampling.BICUBIC)


def test_a_sheet_needs_scores_and_the_kept_tokens_at_each_budget():
    with pytest.raises(DataError, match=r"kept tokens at \[4\], got \[2, 8\]"):
        sheet_from_pictures([picture()], [4])
    with pytest.raises(DataError, match="needs scores"):
        sheet_from_pictures([replace(picture(), scores=None)], [2])
