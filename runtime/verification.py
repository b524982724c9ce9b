"""`tokfilter verify`: the bytes of an export directory against its manifest, its engines against the golden tensors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tokfilter.artifacts.golden import GoldenArrays, golden_of
from tokfilter.artifacts.manifest import Entry, Manifest, checked_path, load_manifest
from tokfilter.errors import VerificationError
from tokfilter.runtime.model_files import ModelFile, Role, find_model_file
from tokfilter.runtime.session import Array, Budgets, Session
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file

__all__ = ["TOLERANCES", "Verdict", "checked_files", "verdicts", "verify"]

TOLERANCES: Final[Mapping[str, tuple[float, float]]] = {
    "fp32": (1e-3, 0.98),
    "fp16": (3e-2, 0.90),
    "bf16": (2e-1, 0.70),
}
"""Precision -> (largest difference of a logit over the largest golden logit, least share of kept tokens in common)."""

_ROLES: Final[tuple[Role, ...]] = ("full", "filtered")


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


def checked_files(directory: str | Path) -> Manifest:
    """The manifest of a directory whose files are all there, byte by byte. Raises DataError, EngineError."""
    manifest = load_manifest(directory)
    for entry in manifest.files:
        checked_path(directory, entry)
    return manifest


def verdicts(
    directory: str | Path, options: SessionOptions | None = None, batches: Sequence[int] = ()
) -> Iterator[Verdict]:
    """Run every model file of a runtime and precision on the golden images, at each budget that torch computed.

    batches: none means the smallest that an engine serves, and two images where it does
    Raises VerificationError at the first that differs, DataError, EngineError, MissingDependencyError.
    """
    options = options or SessionOptions()
    for chosen in _model_files(directory, options):
        golden = golden_of(chosen.directory, chosen.manifest)
        with session_from_model_file(chosen, options) as session:
            for batch in batches or _batches(chosen.entry):
                for k in _budgets(golden, session.budgets):
                    yield verify(session, chosen, golden, batch, k)


def _model_files(directory: str | Path, options: SessionOptions) -> Iterator[ModelFile]:
    """All that `bench` may take a time of: the full file, the filtered one, those made for one budget."""
    for role in _ROLES:
        first = find_model_file(directory, role, options.runtime, options.precision)
        for entry in first.manifest.entries(role, options.runtime):
            if entry.precision == options.precision:
                yield replace(first, entry=entry)


def _batches(entry: Entry) -> list[int]:
    low, _, high = entry.batch_range or (1, 1, 2)
    return sorted({low, min(max(2, low), high)})


def _budgets(golden: GoldenArrays, served: Budgets) -> list[int]:
    """The engine's own default comes with them: where torch computed no logits, the kept tokens are compared."""
    return sorted({served.default} | {k for k in golden.logits if served.low <= k <= served.high})


def verify(session: Session, model_file: ModelFile, golden: GoldenArrays, batch: int, k: int) -> Verdict:
    """Run the golden images in batches of ``batch`` at k tokens and compare. Raises VerificationError with figures."""
    entry = model_file.entry
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
