"""A model that was read from somebody else's files, as timm builds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tokfilter.artifacts.bundle import Architecture

__all__ = ["ForeignModel", "replaced"]


@dataclass(frozen=True)
class ForeignModel:
    """A model from a folder.

    architecture: with the checkpoint's number of classes
    weights: every tensor of timm's model
    preprocessing: fields of ``artifacts.bundle.Preprocessing`` that are known
    class_names: one per class, or empty
    folder: where it was read
    origin: for the record
    convert: whether timm may convert names and resample the position embedding
    notes: what the user should know
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    preprocessing: dict[str, Any]
    class_names: tuple[str, ...]
    folder: Path
    origin: str
    convert: bool = True
    notes: tuple[str, ...] = ()


def replaced(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with the overrides that are not None."""
    return {**fields, **{name: value for name, value in overrides.items() if value is not None}}
