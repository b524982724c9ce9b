"""Plots, numbers and colours of the report."""

import re
from dataclasses import replace
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from tokfilter.benchmarks.report.labels import spread
from tokfilter.benchmarks.report.numbers import STYLES, Numbers, fact, resolve
from tokfilter.benchmarks.report.plots import CUT, STYLE, figure_from_series, limits_from_series, line_plot
from tokfilter.benchmarks.report.series import Axis, Reference, Series


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9), st.floats(0.1, 10))
def test_spread_keeps_order_and_distance(values, gap):
    low, high = -500.0, 600.0
    placed = spread(values, gap, low, high)
    order = sorted(range(len(values)), key=lambda i: values[i])
    for left, right in pairwise(order):
        assert placed[right] - placed[left] >= gap * (1 - 1e-9)
    if all(b - a >= gap for a, b in pairwise(sorted(values))):
        assert placed == pytest.approx(values)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6))
def test_spread_stays_inside_where_it_fits(values):
    placed = spread(values, 1.0, 0.0, 10.0)
    assert min(placed) >= -1e-9 and max(placed) <= 10 + 1e-9


UNITS = {"%": 0.01, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "MiB": 2**20, "GiB": 2**30}


def as_number(text):
    """The number in a text with its unit, parsed independently of the code that wrote it."""
    digits, unit = re.fullmatch(r"([\d.]+)(\D*)", text.replace("\u202f", "")).groups()
    return float(digits) * UNITS.get(unit, 1.0)


@given(st.floats(1e-4, 1e12))
def test_written_numbers_are_near_their_values(value):
    for style in ("ms", "macs", "rate"):
        assert as_number(STYLES[style](value)) == pytest.approx(value, rel=0.006, abs=1e-6)


@given(st.floats(0, 1))
def test_written_fractions_are_near_their_values(value):
    assert as_number(STYLES["fraction"](value)) == pytest.approx(value, abs=0.0051)
    assert as_number(STYLES["percent"](value)) == pytest.approx(value, abs=0.00051)


@pytest.mark.parametrize(
    ("style", "value", "text"),
    [
        ("ms", 5.9732, "5.97"), ("ms", 1234.5, "1 234"), ("ms", 0, "0"), ("ms", 0.0456, "0.0456"),
        ("fraction", 0.25, "25 %"), ("fraction", 14 / 144, "9.7 %"), ("fraction", 1.0, "100 %"),
        ("points", -0.0032, "−0.3"), ("points", 0.012, "+1.2"), ("distance", -0.01, "1 point"),
        ("distance", 0.003, "0.3 points"), ("macs", 46_170_000, "46.2 M"), ("ratio", 2.768, "2.77×"),
        ("bytes", 200 << 20, "200 MiB"), ("bytes", 8 << 30, "8.00 GiB"), ("count", 10_000, "10 000"),
    ],
)  # fmt: skip
def test_format_of_numbers(style, value, text):
    assert STYLES[style](value).replace("\u202f", " ") == text


def test_a_number_has_its_place_in_the_report():
    numbers = Numbers({"rows": [{"mean": 0.5, "none": None}]})
    assert str(numbers("/rows/0/mean", "percent")) == (
        '<data value="0.5" data-at="/rows/0/mean" data-style="percent">50.0\u202f%</data>'
    )
    assert "not measured" in numbers("/rows/0/none", "percent")
    with pytest.raises(KeyError):
        resolve({"rows": [{}]}, "/rows/0/mean")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("memory_bytes", 8 << 30, ("memory", "8.00\u202fGiB")), ("warm_up_s", 0.5, ("warm up", "0.5\u202fs")),
        ("input_size", [3, 96, 96], ("input size", "3 × 96 × 96")), ("spinning", True, ("spinning", "yes")),
        ("seeds", [0, 1], ("seeds", "0, 1")), ("test", {"images": 2000}, ("test", "images 2\u202f000")),
    ],
)  # fmt: skip
def test_format_of_settings(key, value, shown):
    assert fact(key, value) == shown


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=6, unique_by=lambda point: point[0]),
    st.sampled_from([None, Reference(0.5, "level"), Reference(2.0, "above")]),
)
def test_any_series_can_be_drawn(points, reference):
    x, y = zip(*sorted(points), strict=True)
    series = [Series("a name", x, y, "series-0", notes=[str(i) for i in range(len(x))]), Series("", x, y, "ink")]
    axes = Axis("fraction kept", STYLES["fraction"], measured=True), Axis("top-1", STYLES["percent"])
    svg = line_plot("plot", "a title", series, *axes, reference)
    assert "a name" in svg and 'aria-label="a title"' in svg
    assert "nan" not in svg


AXES = Axis("kept", STYLES["fraction"], measured=True), Axis("speed-up", "{:g}×".format)
KEEPS = (0.1, 0.25, 0.5, 0.7)


def test_an_interval_far_beyond_the_values_is_cut_and_marked():
    usual = Series("batch 8", KEEPS, (7, 3, 2, 1.4), "series-2", (6, 2.8, 1.9, 1.3), (7.5, 3.3, 2.1, 1.5))
    wide = Series("batch 1", KEEPS, (4, 2.5, 1.8, 1.3), "series-0", (0.7,) * 4, (45, 4, 45, 2))
    figure, cut = figure_from_series([usual, wide], *AXES, Reference(1.0, "break-even"))
    bottom, top = figure.axes[0].get_ylim()
    assert cut and top < 15
    values = [y for item in (usual, wide) for y in item.y]
    assert max(values) - min(values) > 0.4 * (top - bottom), "the values must fill the plot"
    arrows = [line for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert [tuple(line.get_xydata()[0]) for line in arrows] == [(0.1, top), (0.5, top)]
    assert [text.get_text() for text in figure.axes[0].texts].count("45×") == 2
    svg = line_plot("plot", "a title", [usual, wide], *AXES)
    assert CUT in svg


def test_usual_intervals_are_drawn_whole():
    usual = Series("batch 8", KEEPS, (7, 3, 2, 1.4), "series-2", (6, 2.8, 1.9, 1.3), (7.5, 3.3, 2.1, 1.5))
    figure, cut = figure_from_series([usual], *AXES)
    assert not cut and figure.axes[0].get_ylim()[1] >= 7.5
    assert CUT not in line_plot("plot", "a title", [usual], *AXES)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_every_value_lies_inside_the_limits(values):
    low, high = limits_from_series([Series("", range(len(values)), values, "ink")])
    assert low <= min(values) and max(values) <= high


def test_a_bound_does_not_widen_the_limits():
    median, p99 = Series("", (0, 1), (2, 3), "ink"), Series("", (0, 1), (2, 900), "ink", bound=True)
    assert limits_from_series([median, p99]) == limits_from_series([median]) == (0.5, 4.5)


def boxes(figure):
    axes = figure.axes[0]
    texts = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.text("abcdefgh ij", min_size=1, max_size=60), min_size=1, max_size=12),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6, unique=True),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_no_two_texts_of_a_plot_overlap(names, x, small, random):
    x = sorted(x)
    series = [
        Series(
            name, x, [random.uniform(1, 8) for _ in x], "series-0", [0.5] * len(x), [random.choice((9, 45))] * len(x)
        )
        for name in names
    ]
    series[0] = replace(series[0], notes=[STYLES["fraction"](value) for value in x])
    with mpl.rc_context(STYLE):
        figure, _ = figure_from_series(series, *AXES, Reference(1.0, "break-even"), small)
        found = boxes(figure)
    for (one, first), (other, second) in combinations(found, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        along = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 1 or along <= 4, (one, other)


def palettes():
    css = (ROOT / "benchmarks" / "report" / "templates" / "report.css").read_text()
    return [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]


def linear(colour):
    shares = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_contrast_of_text_and_lines(palette):
    """WCAG 2.2, 1.4.3: a contrast of 4.5 for text."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    for name in palette.keys() - {"page", "panel", "rule"}:
        low, high = sorted(float(linear(palette[key]) @ weights) for key in (name, "page"))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


# Severity 1.0 of Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision
# deficiency" (2009).
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_for_common_colour_vision(palette, vision):
    """Distance in CIELAB of at least 15 between any two of the five methods, which also differ by label and marker."""
    seen = [lab(np.clip(VISIONS[vision] @ linear(palette[f"series-{i}"]), 0, 1)) for i in range(5)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 15


def lab(rgb):
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratios = matrix @ rgb / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
