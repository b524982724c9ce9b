"""The difference of two models' top-1 on the same images, with its interval."""

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["PairedDifference"]

_Z: Final = 1.959963984540054
"""Quantile of the normal distribution for 95 %."""


@dataclass(frozen=True)
class PairedDifference:
    """Loss of accuracy of one model against another on the same images.

    images: number of them
    lost: images that only the reference gets right
    gained: images that only the other model gets right
    """

    images: int
    lost: int
    gained: int

    @property
    def drop(self) -> float:
        """Points of top-1 that are lost."""
        return 100 * (self.lost - self.gained) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``drop`` in points.

        Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
        data" (2012): one image is added to both kinds, so that a few images without a difference prove little.
        """
        total = self.images + 2
        lost, gained = (self.lost + 1) / total, (self.gained + 1) / total
        half = _Z * math.sqrt((lost + gained - (lost - gained) ** 2) / total)
        centre = lost - gained
        return 100 * max(-1.0, centre - half), 100 * min(1.0, centre + half)

    @property
    def resolution(self) -> float:
        """Half the width of the interval in points: smaller drops are not distinguished from none."""
        low, high = self.interval
        return (high - low) / 2
