"""Texts inside a plot: each at the first place where it meets no other text, and as few lines as possible."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

__all__ = ["Labels", "Place", "shortened", "spread"]

_STEPS: Final = np.linspace(0, 1, 25)
_MARGIN: Final = np.array([6.0, 1.4])
"""Pixels, of which 100 are 72 points, between two texts beside and above each other: closer ones read as one text."""


@dataclass(frozen=True)
class Place:
    """Where a text may stand.

    offset: of its anchor from the point, in points
    across, along: matplotlib's horizontal and vertical alignment
    """

    offset: tuple[float, float]
    across: str
    along: str


@dataclass
class Labels:
    """Texts of one plot, whose limits and size do not change any more.

    axes: drawn once, so that its layout is known
    """

    axes: Axes
    boxes: list[Any] = field(default_factory=list)
    _lines: list[Any] = field(default_factory=list)

    def avoid(self, x: Sequence[float], y: Sequence[float]) -> None:
        """Keep further texts off a line. x, y: as many numbers each; NaN is a gap."""
        points = self.axes.transData.transform(np.column_stack([x, y]).astype(float))
        parts = [a + _STEPS[:, None] * (b - a) for a, b in pairwise(points)]
        self._lines.append(np.concatenate([points, *parts]))

    def write(self, text: str, at: tuple[float, float], places: Iterable[Place], **style: Any) -> bool:
        """Write a text at the place with the fewest lines below it. False, and nothing written, where every place meets
        another text or the edge."""
        found: list[tuple[int, int, Place]] = []
        for order, place in enumerate(places):
            box = self._box(self._draw(text, at, place, style), keep=False)
            if self._free(box):
                found.append((self._hits(box), order, place))
        if not found:
            return False
        self.put(text, at, min(found, key=lambda item: item[:2])[2], **style)
        return True

    def put(self, text: str, at: tuple[float, float], place: Place, **style: Any) -> None:
        """Write a text at this place, whatever is below it."""
        self.boxes.append(self._box(self._draw(text, at, place, style), keep=True))

    def _draw(self, text: str, at: tuple[float, float], place: Place, style: dict[str, Any]) -> Annotation:
        drawn = self.axes.annotate(
            text, at, xytext=place.offset, textcoords="offset points", ha=place.across, va=place.along,
            annotation_clip=False, **style,
        )  # fmt: skip
        drawn.set_in_layout(False)
        return drawn

    def _box(self, drawn: Annotation, keep: bool) -> Any:
        """[[left, bottom], [right, top]] in pixels."""
        box = drawn.get_window_extent().get_points()
        if not keep:
            drawn.remove()
        return box

    def _free(self, box: Any) -> bool:
        edge = self.axes.get_window_extent().get_points()
        inside = bool((box[0] >= edge[0] - 2).all() and (box[1] <= edge[1] + 2).all())
        return inside and not any(_meet(box, other) for other in self.boxes)

    def _hits(self, box: Any) -> int:
        return sum(int(((line > box[0]) & (line < box[1])).all(axis=1).sum()) for line in self._lines)


def _meet(first: Any, second: Any) -> bool:
    return bool((first[0] - _MARGIN < second[1]).all() and (second[0] - _MARGIN < first[1]).all())


def shortened(text: str, limit: int = 22) -> str:
    """The text with its end left out where it is longer than ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move values apart until neighbours differ by ``gap``, as little as possible, inside low..high where they fit."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[tuple[float, list[int]]] = []  # (centre, members), merged while they overlap
    for index in order:
        groups.append((min(max(values[index], low), high), [index]))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (len(groups[-1][1]) + len(groups[-2][1])) / 2:
            (_, right), (_, left) = groups.pop(), groups.pop()
            members = left + right
            half = gap * (len(members) - 1) / 2
            centre = sum(values[i] for i in members) / len(members)
            groups.append((max(min(centre, high - half), low + half), members))
    placed = [0.0] * len(values)
    for centre, members in groups:
        for step, index in enumerate(members):
            placed[index] = centre + gap * (step - (len(members) - 1) / 2)
    return placed
