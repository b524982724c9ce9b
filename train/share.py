"""The images of a step, divided among processes, and in each process among passes whose gradients are summed.

Every random draw of a step is made for the whole step, and each pass takes its part of it, so the loss of a step is the
same however it is divided. Image i of a step of B and image B - 1 - i are always in the same share, because mixup mixes
these two; and a share has images of every budget, so that all processes have the same work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokfilter.errors import DataError

__all__ = ["Share", "check_divisible", "shares_of_step"]


@dataclass(frozen=True)
class Share:
    """What one pass handles of a step.

    places: [b], ascending, places in the step
    whole: [B], positions in the data set of all images of the step
    """

    places: Tensor
    whole: Tensor

    @property
    def fraction(self) -> float:
        """b / B, the weight of this share's mean loss in the step's."""
        return len(self.places) / len(self.whole)

    @property
    def positions(self) -> Tensor:
        """[b], positions in the data set."""
        return self.whole[self.places]

    def of(self, drawn: Tensor) -> Tensor:
        """The rows of this share. drawn: [B, ...], for the whole step."""
        return drawn if len(self.places) == len(self.whole) else drawn[self.places.to(drawn.device)]

    def group_sizes(self, groups: int) -> list[int]:
        """How many images of this share are in each part of the step, which ``torch.chunk`` would cut into ``groups``.

        The images stand in order, so ``images.split(sizes)`` are the parts. There may be fewer parts than groups, and
        none of this share's images in one of them.
        """
        size = -(-len(self.whole) // groups)
        parts = -(-len(self.whole) // size)
        return torch.bincount(self.places // size, minlength=parts).tolist()


def shares_of_step(whole: Tensor, shares: int, mine: Sequence[int]) -> list[Share]:
    """Some of the ``shares`` that divide a step. whole: [B], positions in the data set. mine: numbers of shares."""
    places = torch.arange(len(whole))
    if shares == 1:
        return [Share(places, whole)]
    pair = torch.minimum(places, len(whole) - 1 - places)
    return [Share(places[pair % shares == number], whole) for number in mine]


def check_divisible(images: int, processes: int, passes: int) -> None:
    """Raise DataError unless a step of that many images gives every pass of every process at least one."""
    if (images + 1) // 2 < processes * passes:
        raise DataError(
            f"a step of {images} images cannot be divided among {processes} processes with {passes} passes each: each "
            f"pass takes at least 2, so the batch must be at least {2 * processes * passes}. The batch counts the "
            "images of all processes together."
        )
