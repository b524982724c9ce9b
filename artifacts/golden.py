"""Golden tensors of an export directory, read with numpy: outputs of torch that every engine is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from tokfilter.artifacts.checked import checked_bytes
from tokfilter.artifacts.manifest import GOLDEN_FILE, Manifest
from tokfilter.errors import DataError
from tokfilter.kernels.reference import token_select

__all__ = ["GoldenArrays", "golden_of"]

Array = npt.NDArray[Any]

_LARGEST: Final = 256 << 20
"""Bytes of golden.npz: 16 images of 1024 x 1024 pixels in fp32 take 200 MB; export writes 4."""


@dataclass(frozen=True)
class GoldenArrays:
    """Inputs and expected outputs.

    images: [G, 3, H, W], normalised; 8-bit pixels where the model takes those, in its form
    scores: [G, N]
    full: [G, classes]
    logits: budget k -> [G, classes]
    """

    images: Array
    scores: Array
    full: Array
    logits: Mapping[int, Array]

    def tiled(self, batch: int, dtype: npt.DTypeLike = np.float32) -> Array:
        """The images repeated to a batch, in the input type of an engine: [batch, 3, H, W].

        Raises DataError where one is 8-bit pixels and the other normalised floats.
        """
        if (self.images.dtype == np.uint8) != (np.dtype(dtype) == np.uint8):
            raise DataError(
                f"the golden images of this export are {self.images.dtype}, the engine takes {np.dtype(dtype)}: it is "
                "of another export. Export again, or build the engine from these graphs."
            )
        rows = np.arange(batch) % len(self.images)
        return np.ascontiguousarray(self.images[rows].astype(dtype, copy=False))

    def expected_indices(self, k: int) -> npt.NDArray[np.int32]:
        """Kept positions for the golden scores by the op's contract: [G, k]."""
        return token_select(self.scores[:, :, None], self.scores, k, prefix_tokens=0)[1]


def golden_of(directory: str | Path, manifest: Manifest) -> GoldenArrays:
    """Read golden.npz of an export directory. Raises DataError, or EngineError when its bytes have changed."""
    entries = manifest.entries("golden")
    if not entries:
        raise DataError(f"{directory} holds no {GOLDEN_FILE} to verify engines with. Export again.")
    path = Path(directory) / entries[0].path
    content = BytesIO(checked_bytes(directory, entries[0], _LARGEST))
    try:
        with np.load(content, allow_pickle=False) as arrays:
            budgets = sorted(int(name.removeprefix("logits_")) for name in arrays if name.startswith("logits_"))
            logits = {k: arrays[f"logits_{k}"] for k in budgets}
            return GoldenArrays(arrays["images"], arrays["scores"], arrays["full"], logits)
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}). Export again.") from error
