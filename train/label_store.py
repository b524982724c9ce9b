"""A folder of labels: identity in ``labels.json``, delta loss in ``shard-<first image>.safetensors``.

Format: ``docs/labels.md``. Each shard is written atomically with the identity of its store and a checksum, so a killed
run continues with the shards that are incomplete, and shards of two runs never mix.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokfilter.artifacts.files import atomic_path
from tokfilter.errors import DataError
from tokfilter.train.dataset import ImageSource

__all__ = ["SHARD_IMAGES", "LabelStore", "Labels", "Shard"]

_FORMAT: Final = "tokfilter-labels"
_VERSION: Final = 2
_HEADER: Final = "labels.json"

SHARD_IMAGES: Final = 128
"""Images per shard: the most that a killed run loses. A shard of DeiT's 196 tokens has 100 kB."""


@dataclass(frozen=True)
class Shard:
    """Labels of consecutive images.

    start: position of the first image
    delta: [n, N], delta loss in nats
    base: [n], unmasked loss in nats
    """

    start: int
    delta: Tensor
    base: Tensor


@dataclass(frozen=True)
class Labels:
    """Labels of a data set, and the identity of the run that made them (delta: [n, N], base: [n])."""

    delta: Tensor
    base: Tensor
    identity: dict[str, Any]


class LabelStore:
    """The labels of one data set under one identity."""

    def __init__(self, folder: Path, shard_images: int = SHARD_IMAGES) -> None:
        if shard_images < 1:
            raise DataError(f"a shard must have at least one image, got {shard_images}.")
        self.folder = folder
        self.shard_images = shard_images
        self._header: dict[str, Any] = {}

    def join(self, identity: dict[str, Any]) -> None:
        """Use a store that another process has opened. Raises DataError for another identity or a missing store."""
        self._header = _read_header(self.folder)
        self.shard_images = self._header["shard_images"]
        self.check(identity)

    def open(self, identity: dict[str, Any], images: ImageSource, num_patches: int) -> None:
        """Create a store, or continue one of the same identity. Raises DataError for another identity."""
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "identity": json.loads(json.dumps(identity)),
            "images": len(images),
            "patches": num_patches,
            "shard_images": self.shard_images,
            "files": list(images.files),
        }
        if (self.folder / _HEADER).is_file():
            self.join(identity)
            return
        with atomic_path(self.folder / _HEADER) as part:
            part.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        self._header = header

    def clear(self) -> None:
        """Remove the labels of an earlier run."""
        for file in (self.folder / _HEADER, *self.folder.glob("shard-*.safetensors")):
            file.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove unfinished files of killed runs."""
        for file in (*self.folder.glob(f".{_HEADER}.*.part"), *self.folder.glob(".shard-*.part")):
            file.unlink(missing_ok=True)

    def check(self, identity: dict[str, Any]) -> None:
        """Compare the identity. Raises DataError with the names that differ."""
        header = self._header or _read_header(self.folder)
        mine, theirs = json.loads(json.dumps(identity)), header["identity"]
        differing = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        if differing:
            raise DataError(
                f"the labels in {self.folder} were made with other {', '.join(differing)} than this run's. "
                "Label again into another folder (`tokfilter label`)."
            )

    def missing(self) -> list[range]:
        """Image positions of each shard that is missing or incomplete."""
        return [shard for shard in self._shards() if self._load(shard) is None]

    def write(self, shard: Shard) -> None:
        """Write one shard atomically."""
        tensors = {"delta": shard.delta.contiguous(), "base": shard.base.contiguous()}
        with atomic_path(self._path(shard.start)) as part:
            save_file(tensors, part, self._facts(shard.start, tensors))

    def read(self) -> Labels:
        """All labels. Raises DataError when a shard is missing or incomplete."""
        self._header = self._header or _read_header(self.folder)
        self.shard_images = self._header["shard_images"]
        found = [self._load(shard) for shard in self._shards()]
        complete = [tensors for tensors in found if tensors is not None]
        if lacking := len(found) - len(complete):
            raise DataError(f"{self.folder} lacks {lacking} shards; run `tokfilter label` again to continue.")
        delta, base = (torch.cat([tensors[name] for tensors in complete]) for name in ("delta", "base"))
        return Labels(delta, base, self._header["identity"])

    def _shards(self) -> list[range]:
        count = self._header["images"]
        return [range(start, min(count, start + self.shard_images)) for start in range(0, count, self.shard_images)]

    def _load(self, shard: range) -> dict[str, Tensor] | None:
        """A shard's tensors, or None when it is missing, incomplete, or of another store."""
        try:
            with safe_open(self._path(shard.start), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("delta", "base")}
                facts = file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        fits = tuple(tensors["delta"].shape) == (len(shard), self._header["patches"])
        return tensors if fits and facts == self._facts(shard.start, tensors) else None

    def _facts(self, start: int, tensors: dict[str, Tensor]) -> dict[str, str]:
        """Metadata of a shard: digest of the store's identity, first image, checksum."""
        identity = json.dumps(self._header["identity"], sort_keys=True)
        return {
            "identity": hashlib.sha256(identity.encode()).hexdigest(),
            "start": str(start),
            "sha256": _checksum(tensors),
        }

    def _path(self, start: int) -> Path:
        return self.folder / f"shard-{start:09d}.safetensors"


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
        if header["format"] != _FORMAT or header["version"] != _VERSION:
            raise DataError(
                f"{folder / _HEADER} was written by another program or in version {header['version']}; this tokfilter "
                f"reads labels of version {_VERSION}. Label again into another folder (`tokfilter label`)."
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} has no labels ({error}); `tokfilter label` writes them.") from error
    return header


def _checksum(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()
