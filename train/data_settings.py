"""The table ``[data]`` of a recipe."""

from dataclasses import dataclass, field, fields

from tokfilter.train.augmentation import Augmentation

__all__ = ["DataSettings", "about"]


def about(text: str, bounds: str | None = None) -> dict[str, str | None]:
    """Help and range of a setting. bounds: interval of a number, such as ``(0, 1]``."""
    return {"help": text, "bounds": bounds}


@dataclass(frozen=True)
class DataSettings:
    """Held-out images, crop and augmentation."""

    holdout: float = field(
        default=0.1, metadata=about("fraction of each class held out, where the data has no test folder", "(0, 1)")
    )
    crop_pct: float | None = field(
        default=None, metadata=about("fraction of the resized image that is cropped; unset: the model's own", "(0, 1]")
    )
    zoom: float = field(
        default=1.0, metadata=about("augmentation: smallest fraction of height and width that is shown", "(0, 1]")
    )
    flip: float = field(default=0.0, metadata=about("augmentation: probability of mirroring left to right", "[0, 1]"))
    mixup: float = field(default=0.0, metadata=about("augmentation: alpha of timm's mixup; 0: none", "[0, inf)"))
    cutmix: float = field(default=0.0, metadata=about("augmentation: alpha of timm's cutmix; 0: none", "[0, inf)"))
    crop_scale: float = field(
        default=0.0,
        metadata=about(
            "augmentation: smallest fraction of the area that timm's random resized crop shows; 0: none", "[0, 1]"
        ),
    )
    auto_augment: str | None = field(
        default=None, metadata=about("augmentation: policy of timm, such as rand-m9-mstd0.5-inc1; unset: none")
    )
    jitter: float = field(
        default=0.0, metadata=about("augmentation: largest change of brightness, contrast, saturation", "[0, 1]")
    )
    erasing: float = field(default=0.0, metadata=about("augmentation: probability of timm's random erasing", "[0, 1]"))

    @property
    def augmentation(self) -> Augmentation:
        """Those of the settings that change training images. Raises DataError."""
        return Augmentation(**{item.name: getattr(self, item.name) for item in fields(Augmentation)})
