"""Shape of a mask head (``vit/dense``), as a bundle stores it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from tokfilter.artifacts.limits import MAX_SIZE

__all__ = ["FILLS", "MASK_HEADS", "MaskHeadConfig", "mask_config_from_fields"]

MASK_HEADS: Final = ("token-mask",)
FILLS: Final = ("embedding", "nearest", "mask-token", "kept-mean", "dropped-mean")


@dataclass(frozen=True)
class MaskHeadConfig:
    """Shape of a mask head.

    masks: M, one query each: classes of semantic segmentation, or masks
    size: (H', W') of the masks in pixels
    width: D, channels in which queries and tokens are compared
    fill: what stands in the place of a dropped token (``vit/dense/fill.py``)
    align_corners: of the bilinear upsampling, as in ``torch.nn.functional.interpolate``
    kind: of the head; there is one
    """

    masks: int
    size: tuple[int, int]
    width: int
    fill: str = "embedding"
    align_corners: bool = False
    kind: str = "token-mask"

    def __post_init__(self) -> None:
        if self.kind not in MASK_HEADS:
            raise ValueError(
                f"a mask head is one of {', '.join(MASK_HEADS)}, got {self.kind!r:.50}; a newer tokfilter may know "
                "others: update"
            )
        if self.fill not in FILLS:
            raise ValueError(f"the fill of a mask head is one of {', '.join(FILLS)}, got {self.fill!r:.50}")
        if type(self.masks) is not int or not 1 <= self.masks <= MAX_SIZE:
            raise ValueError(f"a mask head has 1 to {MAX_SIZE} masks, got {self.masks!r:.50}")
        if len(self.size) != 2 or type(self.align_corners) is not bool:
            raise ValueError(
                f"a mask head has a size (height, width) and align_corners true or false, got {self.size!r:.50} and "
                f"{self.align_corners!r:.50}"
            )
        for side in (*self.size, self.width):
            if type(side) is not int or not 1 <= side <= MAX_SIZE:
                raise ValueError(f"size and width of a mask head are counts from 1 to {MAX_SIZE}, got {side!r:.50}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, H', W') of one image's masks."""
        return (self.masks, *self.size)

    def fields(self) -> dict[str, Any]:
        """Plain values for a bundle."""
        return {**asdict(self), "size": list(self.size)}


def mask_config_from_fields(fields: Mapping[str, Any]) -> MaskHeadConfig:
    """The inverse of ``fields``. Raises ValueError, TypeError for other fields."""
    return MaskHeadConfig(**{**fields, "size": tuple(fields["size"])})
