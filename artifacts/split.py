"""Which images a bundle was trained on, and which were held out: by a key of each image file's bytes.

Keys and not names, because data are moved and renamed. Keys and not one digest, because a later evaluation may have
some of the images only. Eight bytes for each image: 10 MB for ImageNet; two images in 10^13 pairs share a key.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Keys", "Split", "content_from_split", "key_from_file", "keys_from_iterable", "split_from_content"]

Keys = npt.NDArray[np.int64]

KEY: Final = "blake2b-64"
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, eq=False)
class Split:
    """Images by key, each set ascending and without repetition.

    trained: [n], of all trainings that led to the model
    held_out: [m], of the last one
    """

    trained: Keys
    held_out: Keys

    def count_trained(self, keys: Iterable[int]) -> int:
        """How many of the images the model was trained on."""
        return int(np.isin(_array(keys), self.trained).sum())

    def testable(self, keys: Iterable[int]) -> list[int]:
        """Positions of the images that the model was not trained on, and of those held out."""
        found = _array(keys)
        chosen = ~np.isin(found, self.trained) | np.isin(found, self.held_out)
        return [int(i) for i in np.flatnonzero(chosen)]

    def all_held_out(self, keys: Iterable[int]) -> bool:
        """Whether every image was held out."""
        return bool(np.isin(_array(keys), self.held_out).all())


def key_from_file(file: BinaryIO, size: int | None = None) -> int:
    """Key of the next ``size`` bytes of a file, or of all that follow: BLAKE2b of 8 bytes as a signed number.

    Raises OSError.
    """
    digest, left = hashlib.blake2b(digest_size=8), size
    while left is None or left > 0:
        block = file.read(_BLOCK if left is None else min(left, _BLOCK))
        if not block:
            break
        digest.update(block)
        left = None if left is None else left - len(block)
    return int.from_bytes(digest.digest(), "little", signed=True)


def keys_from_iterable(*sets: Iterable[int]) -> Keys:
    """The union of some keys, ascending."""
    return np.unique(np.concatenate([_array(keys) for keys in sets]))


def content_from_split(split: Split) -> dict[str, Any]:
    """The entry ``split`` of model.pt."""
    import torch

    return {
        "key": KEY,
        "trained": torch.from_numpy(split.trained.copy()),
        "held_out": torch.from_numpy(split.held_out.copy()),
    }


def split_from_content(content: Mapping[str, Any]) -> Split:
    """The split of model.pt. Raises ValueError for other keys than ours, for what is not ascending int64 [n]."""
    if content["key"] != KEY:
        raise ValueError(f"its split has keys of kind {content['key']!r:.40}, expected {KEY!r}")
    return Split(_keys(content["trained"], "trained"), _keys(content["held_out"], "held_out"))


def _keys(value: "Tensor", name: str) -> Keys:
    import torch

    sound = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not (sound and value.dtype == torch.int64 and value.ndim == 1 and value.is_contiguous()):
        raise ValueError(f"its split's {name} must be a tensor of int64 [n]")
    keys: Keys = value.numpy()
    if not bool((keys[1:] > keys[:-1]).all()):
        raise ValueError(f"its split's {name} must be ascending")
    return keys


def _array(keys: Iterable[int]) -> Keys:
    return keys if isinstance(keys, np.ndarray) else np.fromiter(keys, np.int64)
