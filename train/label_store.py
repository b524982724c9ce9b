"""A folder of labels: identity in ``labels.json``, delta loss in ``shard-<first image>.safetensors``.

Format: ``docs/labels.md``. Each shard is written atomically with the sum of its store's header and of its tensors, so a
killed run continues with the shards that are incomplete, and shards of two runs never mix.
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
from tokfilter.artifacts.json_file import json_from_file
from tokfilter.artifacts.limits import MAX_LABELS_JSON, MAX_LABELS_VALUES, MAX_SIZE
from tokfilter.artifacts.torch_file import full_disk_named
from tokfilter.errors import DataError
from tokfilter.train.checksums import content_sum, json_sum
from tokfilter.train.dataset import ImageSource

__all__ = ["SHARD_IMAGES", "LabelStore", "Labels", "Shard"]

_FORMAT: Final = "tokfilter-labels"
_VERSION: Final = 3
_READ: Final = (2, 3)
"""Version 2 has sums over the values of shards only, and none of labels.json."""
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
        header["sha256"] = _header_sum(header)
        if self.exists:
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

    @property
    def exists(self) -> bool:
        """Whether the folder has labels."""
        return (self.folder / _HEADER).is_file()

    def check(self, identity: dict[str, Any], count: int | None = None, partial: bool = False) -> None:
        """Compare the identity. Raises DataError with the names that differ.

        count: images of this run, for the message
        partial: compare the given part of the identity only
        """
        header = self._header or _read_header(self.folder)
        mine, theirs = json.loads(json.dumps(identity)), header["identity"]
        keys = mine.keys() if partial else mine.keys() | theirs.keys()
        differing = sorted(key for key in keys if mine.get(key) != theirs.get(key))
        if differing:
            remedy = "Label again"
            if "images" in differing and count not in (None, header["images"]):
                remedy = (
                    f"They are of {header['images']} images, this run uses {count}: where the label run had a limit "
                    f"or seed, give the same (--set labels.limit={header['images']}, --seed). Otherwise label again"
                )
            raise DataError(
                f"the labels in {self.folder} were made with other {', '.join(differing)} than this run's. "
                f"{remedy} into another folder (`tokfilter label`)."
            )

    def missing(self) -> list[range]:
        """Image positions of each shard that is missing or incomplete."""
        return [shard for shard in self._shards() if self._load(shard) is None]

    def write(self, shard: Shard) -> None:
        """Write one shard atomically."""
        tensors = {"delta": shard.delta.contiguous(), "base": shard.base.contiguous()}
        path = self._path(shard.start)
        with atomic_path(path) as part, full_disk_named(path):
            save_file(tensors, part, self._facts(shard.start, tensors))

    def read(self) -> Labels:
        """All labels. Raises DataError when a shard is missing or incomplete."""
        self._header = self._header or _read_header(self.folder)
        self.shard_images = self._header["shard_images"]
        shards = self._shards()
        self._check_names(shards)
        found = [self._load(shard) for shard in shards]
        complete = [tensors for tensors in found if tensors is not None]
        if lacking := len(found) - len(complete):
            raise DataError(f"{self.folder} lacks {lacking} shards; run `tokfilter label` again to continue.")
        delta, base = (torch.cat([tensors[name] for tensors in complete]) for name in ("delta", "base"))
        return Labels(delta, base, self._header["identity"])

    def _check_names(self, shards: list[range]) -> None:
        """Raise DataError for shards beyond those of labels.json: it has been altered, or is another run's."""
        known = {self._path(shard.start).name for shard in shards}
        others = sorted({path.name for path in self.folder.glob("shard-*.safetensors")} - known)
        if others:
            raise DataError(
                f"{self.folder} has {others[0]}, which is no part of the {self._header['images']} images of "
                f"{_HEADER}. Label again into another folder (`tokfilter label`)."
            )

    def _shards(self) -> list[range]:
        count = self._header["images"]
        return [range(start, min(count, start + self.shard_images)) for start in range(0, count, self.shard_images)]

    def _load(self, shard: range) -> dict[str, Tensor] | None:
        """A shard's tensors, or None when it is missing, incomplete, or of another store."""
        path = self._path(shard.start)
        if not path.is_file():  # the open of a FIFO would wait
            return None
        try:
            with safe_open(path, "pt") as file:
                parts = {name: file.get_slice(name) for name in list(file.keys())}
                shapes = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
                if shapes != {"delta": ("F32", [len(shard), self._header["patches"]]), "base": ("F32", [len(shard)])}:
                    return None
                tensors = {name: file.get_tensor(name) for name in ("delta", "base")}
                facts = file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        return tensors if facts == self._facts(shard.start, tensors) else None

    def _facts(self, start: int, tensors: dict[str, Tensor]) -> dict[str, str]:
        """Metadata of a shard: the store's sum, first image, checksum."""
        if self._header["version"] == 2:
            identity = json.dumps(self._header["identity"], sort_keys=True)
            return {
                "identity": hashlib.sha256(identity.encode()).hexdigest(),
                "start": str(start),
                "sha256": _values_sum(tensors),
            }
        return {"labels": self._header["sha256"], "start": str(start), "sha256": content_sum(tensors)}

    def _path(self, start: int) -> Path:
        return self.folder / f"shard-{start:09d}.safetensors"


def _read_header(folder: Path) -> dict[str, Any]:
    """Raises DataError: no such file, another version, values that contradict each other, altered."""
    path = folder / _HEADER
    try:
        header: dict[str, Any] = json_from_file(path, MAX_LABELS_JSON, MAX_LABELS_VALUES)
        if header["format"] != _FORMAT or header["version"] not in _READ:
            raise DataError(
                f"{path} was written by another program or in version {header['version']!r:.50}; this tokfilter "
                f"reads versions {' and '.join(map(str, _READ))}. Label again into another folder (`tokfilter label`)."
            )
        images, files = header["images"], header["files"]
        _require(isinstance(header["identity"], dict), "its identity has no names")
        for name in ("images", "patches", "shard_images"):
            _require(type(header[name]) is int and header[name] >= 1, f"its {name} is {header[name]!r:.50}")
        _require(header["patches"] <= MAX_SIZE, f"it has {header['patches']} patches")
        _require(isinstance(files, list) and len(files) == images, f"it does not name its {images} images")
        _require(header["version"] == 2 or header["sha256"] == _header_sum(header), "it has been altered")
    except OSError as error:
        raise DataError(f"{folder} has no labels ({error.strerror}); `tokfilter label` writes them.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({str(error)[:200]}). Label again (`tokfilter label`).") from error
    return header


def _header_sum(header: dict[str, Any]) -> str:
    return json_sum(json.dumps({key: value for key, value in header.items() if key != "sha256"}, sort_keys=True))


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _values_sum(tensors: dict[str, Tensor]) -> str:
    """The sum of version 2: of values alone."""
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()
