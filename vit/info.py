"""Facts about a model that its weights do not hold, and that a bundle records: architecture, preprocessing, classes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from timm.data.config import resolve_data_config
from torch import Tensor, nn

from tokfilter.artifacts.bundle import Architecture, Preprocessing
from tokfilter.artifacts.bundle_values import preprocessing_problem
from tokfilter.artifacts.split import Split
from tokfilter.errors import DataError

__all__ = ["ModelInfo", "preprocessing_from_backbone"]


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model, for its bundle.

    architecture: None where it is unknown
    problem: why the architecture is unknown
    class_names: one per class, or empty
    training: plain values: data, label settings, seeds, metrics
    examples: [G, 3, H, W], normalised images for the golden tensors; None draws random ones
    split: which images it was trained on; None where that is not known
    """

    architecture: Architecture | None
    preprocessing: Preprocessing
    problem: str = ""
    class_names: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    examples: Tensor | None = None
    split: Split | None = None


def preprocessing_from_backbone(backbone: nn.Module, **overrides: Any) -> Preprocessing:
    """timm's preprocessing of a model; the input size is the one that the model was built for.

    overrides: mean, std, interpolation, crop_pct or crop_mode; None leaves timm's
    Raises DataError for values out of their range.
    """
    image_size: tuple[int, int] = backbone.patch_embed.img_size  # type: ignore[union-attr, assignment]
    fields: dict[str, Any] = resolve_data_config(  # type: ignore[no-untyped-call]
        {"input_size": (3, *image_size), **overrides}, model=backbone
    )
    found = Preprocessing(**{name: fields[name] for name in Preprocessing.__dataclass_fields__})
    problem = preprocessing_problem(asdict(found))
    if problem:
        raise DataError(f"preprocessing: {problem}.")
    return found
