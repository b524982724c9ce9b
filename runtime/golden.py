"""Golden tensors read again, and an engine's outputs held against them: no time is taken from an unverified engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from tokfilter.errors import DataError, VerificationError
from tokfilter.kernels.reference import token_select
from tokfilter.manifest import GOLDEN_FILE, checked_path
from tokfilter.runtime.artefacts import Artefact
from tokfilter.runtime.session import Array, Session

__all__ = ["TOLERANCES", "GoldenArrays", "Verdict", "golden_of", "verify"]

TOLERANCES: Final[Mapping[str, tuple[float, float]]] = {
    "fp32": (1e-3, 0.98),
    "fp16": (3e-2, 0.90),
    "bf16": (2e-1, 0.70),
}
"""Precision -> (largest difference of a logit over the largest golden logit, least share of kept tokens in common)."""


@dataclass(frozen=True)
class GoldenArrays:
    """What torch computed once.

    images: [G, 3, H, W]
    scores: [G, N]
    full: [G, classes]
    logits: budget k -> [G, classes]
    """

    images: Array
    scores: Array
    full: Array
    logits: Mapping[int, Array]

    def tiled(self, batch: int, dtype: npt.DTypeLike = np.float32) -> Array:
        """The images repeated to a batch, in the type that an engine takes."""
        rows = np.arange(batch) % len(self.images)
        return np.ascontiguousarray(self.images[rows].astype(dtype, copy=False))

    def expected_indices(self, k: int) -> npt.NDArray[np.int32]:
        """Positions that the op's contract keeps for the golden scores: [G, k]."""
        return token_select(self.scores[:, :, None], self.scores, k, prefix_tokens=0)[1]


@dataclass(frozen=True)
class Verdict:
    """How one engine's outputs compare at one batch and budget.

    compared: "logits and indices", "logits" or "indices" (where torch computed no logits at this budget)
    largest_difference: of a logit, over the largest golden logit; None where no logits were compared
    same_top1, same_indices: shares in 0..1
    """

    path: str
    sha256: str
    tokens: int
    batch: int
    compared: str
    largest_difference: float | None
    tolerance: float
    same_top1: float | None
    same_indices: float | None


def golden_of(artefact: Artefact) -> GoldenArrays:
    """Read golden.npz of an export directory. Raises DataError, or EngineError when its bytes have changed."""
    entries = artefact.manifest.entries("golden")
    if not entries:
        raise DataError(f"{artefact.directory} holds no {GOLDEN_FILE} to verify engines with. Export again.")
    path = checked_path(artefact.directory, entries[0])
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            budgets = sorted(int(name.removeprefix("logits_")) for name in arrays if name.startswith("logits_"))
            logits = {k: arrays[f"logits_{k}"] for k in budgets}
            return GoldenArrays(arrays["images"], arrays["scores"], arrays["full"], logits)
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}). Export again.") from error


def verify(session: Session, artefact: Artefact, golden: GoldenArrays, batch: int, k: int) -> Verdict:
    """Run the golden images in batches of ``batch`` at k tokens and compare. Raises VerificationError with figures."""
    entry = artefact.entry
    tolerance, least_common = TOLERANCES[entry.precision or "fp32"]
    images = golden.tiled(max(batch, len(golden.images)), session.inputs[0].dtype)
    results = [session.run(part, k) for part in _parts(images, batch)]
    rows = np.arange(len(images)) % len(golden.images)
    logits = np.concatenate([r.logits for r in results])[: len(rows)].astype(np.float32)
    found = [r.indices for r in results if r.indices is not None]
    common = None if not found else _common(np.concatenate(found)[: len(rows)], golden.expected_indices(k)[rows])
    wanted = golden.full if k == golden.scores.shape[1] else golden.logits.get(k)
    difference = same = None
    if wanted is not None:
        # A near tie may fall otherwise in another arithmetic: then other tokens are kept and logits rightly differ.
        alike = np.ones(len(rows), bool) if common is None else common == 1.0
        difference, same = _compared(logits, wanted[rows], alike)
    elif not np.isfinite(logits).all():
        difference = float("inf")
    verdict = Verdict(
        path=entry.path,
        sha256=entry.sha256,
        tokens=k,
        batch=batch,
        compared=_words(wanted is not None, common is not None),
        largest_difference=difference,
        tolerance=tolerance,
        same_top1=same,
        same_indices=None if common is None else float(common.mean()),
    )
    _refuse_if_different(verdict, least_common)
    return verdict


def _parts(images: Array, batch: int) -> list[Array]:
    count = -(-len(images) // batch)
    padded = images[np.arange(count * batch) % len(images)]
    return [padded[i * batch : (i + 1) * batch] for i in range(count)]


def _common(found: Array, expected: Array) -> npt.NDArray[np.float64]:
    """Share of the kept tokens that both keep, per image."""
    if found.shape != expected.shape:
        raise VerificationError(f"indices want shape {list(expected.shape)}, got {list(found.shape)}. Export again.")
    shared = [len(np.intersect1d(a, b)) / expected.shape[1] for a, b in zip(found, expected, strict=True)]
    return np.array(shared, dtype=np.float64)


def _compared(logits: Array, wanted: Array, alike: npt.NDArray[np.bool_]) -> tuple[float, float]:
    if logits.shape != wanted.shape:
        raise VerificationError(f"logits want shape {list(wanted.shape)}, got {list(logits.shape)}. Export again.")
    scale = max(float(np.abs(wanted).max()), 1e-6)
    distance = np.abs(logits - wanted)[alike]
    # NaN must count as far away, not as equal.
    largest = float(np.where(np.isnan(distance), np.inf, distance).max(initial=0.0)) if alike.any() else float("inf")
    return largest / scale, float((logits.argmax(1) == wanted.argmax(1)).mean())


def _words(logits: bool, indices: bool) -> str:
    return " and ".join(word for word, there in (("logits", logits), ("indices", indices)) if there) or "logits"


def _refuse_if_different(verdict: Verdict, least_common: float) -> None:
    far = verdict.largest_difference is not None and not verdict.largest_difference <= verdict.tolerance
    other = verdict.same_indices is not None and verdict.same_indices < least_common
    if far or other:
        difference: Any = "not compared" if verdict.largest_difference is None else f"{verdict.largest_difference:.2g}"
        raise VerificationError(
            f"{verdict.path} differs from the golden tensors at a batch of {verdict.batch} and {verdict.tokens} "
            f"tokens: logits {difference} (wanted at most {verdict.tolerance:g} of the largest), kept tokens in common "
            f"{verdict.same_indices} (wanted {least_common:g}). No time was taken; export and verify again."
        )
