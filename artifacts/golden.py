"""Golden tensors of an export directory, read with numpy: outputs of torch that every engine is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokfilter.artifacts.checked import checked_bytes
from tokfilter.artifacts.compare import compare_indices
from tokfilter.artifacts.later import LaterChoices, later_from_arrays
from tokfilter.artifacts.limits import MAX_GOLDEN, MAX_INPUT
from tokfilter.artifacts.manifest import GOLDEN_FILE, Manifest, ModelCard
from tokfilter.artifacts.npz import arrays_from_npz
from tokfilter.artifacts.pixels import input_shape
from tokfilter.artifacts.zip_parts import DAMAGES
from tokfilter.errors import DataError
from tokfilter.kernels.reference import token_select

__all__ = ["GoldenArrays", "golden_of", "indices_problem"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GoldenArrays:
    """Inputs and expected outputs.

    images: [G, 3, H, W], normalised; 8-bit pixels where the model takes those, in its form
    scores: [G, N]
    full: [G, classes], masks [G, M, H', W'] of a model that gives those
    logits: budget k -> as ``full``
    later: budget k -> what the choices behind the first keep; empty where there are none, or were not recorded
    """

    images: Array
    scores: Array
    full: Array
    logits: Mapping[int, Array]
    later: Mapping[int, LaterChoices] = field(default_factory=dict)

    def tiled(self, batch: int, dtype: npt.DTypeLike = np.float32) -> Array:
        """The images repeated to a batch, in the input type of an engine: [batch, 3, H, W].

        Raises DataError where one is 8-bit pixels and the other normalised floats, and beyond MAX_INPUT bytes.
        """
        if (self.images.dtype == np.uint8) != (np.dtype(dtype) == np.uint8):
            raise DataError(
                f"the golden images of this export are {self.images.dtype}, the engine takes {np.dtype(dtype)}: it is "
                "of another export. Export again, or build the engine from these graphs."
            )
        if batch * self.images[0].size * np.dtype(dtype).itemsize > MAX_INPUT:
            raise DataError(
                f"a batch of images must take at most {MAX_INPUT >> 20} MiB, got {batch} images of "
                f"{self.images[0].size * np.dtype(dtype).itemsize} bytes."
            )
        rows = np.arange(batch) % len(self.images)
        return np.ascontiguousarray(self.images[rows].astype(dtype, copy=False))

    def expected_indices(self, k: int) -> npt.NDArray[np.int32]:
        """Kept positions for the golden scores by the op's contract: [G, k]."""
        return token_select(self.scores[:, :, None], self.scores, k, prefix_tokens=0)[1]


def golden_of(directory: str | Path, manifest: Manifest) -> GoldenArrays:
    """Read golden.npz of an export directory and check it against the manifest's model and within itself.

    Raises DataError with the first contradiction, or EngineError when its bytes have changed.
    """
    entries = manifest.entries("golden")
    if not entries:
        raise DataError(f"{directory} holds no {GOLDEN_FILE} to verify engines with. Export again.")
    path = Path(directory) / entries[0].path
    content = BytesIO(checked_bytes(directory, entries[0], MAX_GOLDEN))
    try:
        return _checked(arrays_from_npz(content), manifest.model)
    except DAMAGES as error:
        raise DataError(f"{path} is damaged ({error}). Export again.") from error


def _checked(arrays: Mapping[str, Array], card: ModelCard) -> GoldenArrays:
    """Raises ValueError."""
    count, patches = len(arrays["scores"]), card.num_patches
    image = input_shape(card.input, card.input_size)
    budgets = sorted(_budget(name) for name in arrays if name.startswith("logits_"))
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "images": (np.float32 if card.input == "float" else np.uint8, (count, *image)),
        "scores": (np.float32, (count, patches)),
        "full": (np.float32, (count, *card.output_shape)),
    }
    for k in budgets:
        if not 1 <= k <= patches:
            raise ValueError(f"it has logits at {k} of {patches} tokens")
        expected[f"logits_{k}"] = np.float32, (count, *card.output_shape)
        expected[f"indices_{k}"] = np.int32, (count, k)
    if not count:
        raise ValueError("it holds no images")
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            wanted = f"{np.dtype(dtype)} {list(shape)}"
            raise ValueError(f"its array {name} must be {wanted}, got {found.dtype} {list(found.shape)}")
        if not np.isfinite(found).all():
            raise ValueError(f"its array {name} holds NaN or infinity")
    behind = {k: later_from_arrays(arrays, k, count, patches) for k in budgets}
    later = {k: choices for k, choices in behind.items() if choices is not None}
    logits = {k: arrays[f"logits_{k}"] for k in budgets}
    golden = GoldenArrays(arrays["images"], arrays["scores"], arrays["full"], logits, later)
    for k in budgets:
        problem = indices_problem(arrays[f"indices_{k}"], golden.scores)
        if problem:
            raise ValueError(f"its array indices_{k}: {problem}")
    return golden


def indices_problem(indices: Array, scores: Array) -> str:
    """Why indices [G, k] are not the kept tokens of scores [G, N]; empty where they are, up to near ties.

    Shape, type, range, order, and the k highest scores.
    """
    expected = token_select(scores[:, :, None], scores, indices.shape[1], prefix_tokens=0)[1]
    return "; ".join(compare_indices(indices, expected, scores).errors)


def _budget(name: str) -> int:
    number = name.removeprefix("logits_")
    if not (number.isascii() and number.isdecimal() and len(number) <= 9):
        raise ValueError(f"it has an array {name!r:.80}")
    return int(number)
