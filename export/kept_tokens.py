"""The tokens that a graph kept and merged, against torch's, and the logits that torch gives for the graph's tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokfilter.artifacts.compare import SCORE_GAP, IndexComparison, compare_indices
from tokfilter.artifacts.later import merged
from tokfilter.export.reference import Array, Expected, Reference
from tokfilter.kernels.reference import token_select

__all__ = ["compare_kept"]


def compare_kept(
    reference: Reference, images: Any, found: Mapping[str, Array], expected: Expected, rounding: float
) -> tuple[IndexComparison | None, NDArray[np.float32]]:
    """Kept tokens compared with torch's, and the expected logits: torch's on the tokens that the graph kept.

    found: the outputs ``indices``, ``later_indices`` and ``partners``, those that there are
    """
    if expected.indices is None:
        return None, expected.logits
    compared = compare_indices(found["indices"], expected.indices, expected.scores, rounding=rounding)
    differs = compared.overlap < 1
    for name, wanted in (("later_indices", expected.later), ("partners", expected.partners)):
        if wanted is None:
            continue
        rows = found[name]
        if rows.shape != wanted.shape or rows.dtype != np.int32:
            error = f"{name} are {rows.dtype} {list(rows.shape)}, expected int32 {list(wanted.shape)}"
            return replace(compared, errors=(error,)), expected.logits
        differs |= (rows != wanted).any(axis=1)
    changed = np.flatnonzero(differs)
    if not len(changed) or compared.errors:
        return compared, expected.logits
    reducer = reference.model.drop
    by_stage = reducer.counts(expected.indices.shape[1])
    counts = [by_stage[stage] for stage in reducer.choices]
    kept = [found["indices"][changed]]
    if expected.later is not None:
        kept += np.split(found["later_indices"][changed], np.cumsum(counts[1:])[:-1], axis=1)
    partners: Sequence[Array] = []
    if expected.partners is not None:
        ends = np.cumsum([reference.model.num_patches, *counts[:-1]])[:-1]
        partners = np.split(found["partners"][changed], ends, axis=1)
    logits = expected.logits.copy()
    logits[changed], scores, lost = reference.logits_on(images[changed], kept, partners)
    errors = [
        error for rows, ranked in zip(kept[1:], scores[1:], strict=True) for error in _of_stage(rows, ranked, rounding)
    ]
    errors += [
        error for rows, gaps in zip(kept, lost, strict=bool(lost)) for error in _of_partners(rows, gaps, rounding)
    ]
    return replace(compared, errors=tuple(errors[:1])), logits


def _of_partners(rows: Array, lost: Array, rounding: float) -> tuple[str, ...]:
    """Why the partners of merged tokens are not the most similar ones, up to near ties.

    rows: [B, k], the tokens that stay
    lost: [B, n], similarity with the most similar token minus that with the partner
    """
    widest = np.where(merged(rows, lost.shape[1]), lost, 0.0).max()
    allowed = max(SCORE_GAP, rounding)
    if widest <= allowed:
        return ()
    return (f"merges into tokens that are {widest:.2g} less similar than the best (near ties end at {allowed:.2g})",)


def _of_stage(rows: Any, scores: Array, rounding: float) -> tuple[str, ...]:
    """Why rows [B, k] are not those of the highest scores [B, n] of a stage; empty where they are, up to near ties."""
    expected = token_select(scores[:, :, None], scores, rows.shape[1], prefix_tokens=0)[1]
    return compare_indices(rows, expected, scores, rounding=rounding).errors
