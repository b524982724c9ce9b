"""What torch kept behind the first choice of tokens, for models that choose several times or merge tokens.

An optional part of the golden tensors (``docs/bundle.md``). An engine is compared choice by choice, as export's check
does: an image whose tokens differ at one choice, in a near tie, has other tokens behind it, so its later choices and
its logits are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tokfilter.artifacts.compare import SCORE_GAP, Tolerance, compare_indices

__all__ = ["LATER_KEYS", "LaterChoices", "LaterComparison", "later_from_arrays", "merged"]

Array = npt.NDArray[Any]

LATER_KEYS: Final = ("choices", "later_indices", "later_scores", "partners", "partner_gaps")
"""Names of arrays in golden.npz, each followed by _ and the budget; the last two where tokens are merged."""

_MOST_CHOICES: Final = 1000


@dataclass(frozen=True)
class LaterComparison:
    """How an engine's choices compare with torch's.

    same: [B], whether every choice of an image is torch's, so that its logits can be compared
    overlap: fraction of the tokens kept by later choices in common with torch's, where compared; None for none
    errors: empty when the comparison passed
    """

    same: npt.NDArray[np.bool_]
    overlap: float | None
    errors: tuple[str, ...]


@dataclass(frozen=True)
class LaterChoices:
    """What torch kept at one budget, for G golden images.

    choices: [C, 2] int32, the tokens that each choice keeps and those that it ranks, the first choice included
    later_indices: [G, sum of kept behind the first] int32, rows among the tokens that a choice ranks
    later_scores: [G, sum of ranked behind the first]
    partners: [G, sum of ranked] int32, the row that each token is merged into unless it is kept; None without merging
    partner_gaps: [G, sum of ranked], similarity with the partner minus that with the second best; None without merging
    """

    choices: Array
    later_indices: Array
    later_scores: Array
    partners: Array | None = None
    partner_gaps: Array | None = None

    def arrays(self, k: int) -> dict[str, Array]:
        """The arrays of golden.npz at a budget of k."""
        named = {f"{name}_{k}": getattr(self, name) for name in LATER_KEYS}
        return {name: array for name, array in named.items() if array is not None}

    def compare(
        self,
        kept: Sequence[Array | None],
        rows: npt.NDArray[np.integer],
        same: npt.NDArray[np.bool_],
        tolerance: Tolerance,
        rounding: float,
    ) -> LaterComparison:
        """Compare an engine's ``later_indices`` and ``partners``.

        kept: both outputs and ``indices``, [B, ...]: (indices, later_indices, partners); None where there are none
        rows: [B], the golden image of each
        same: [B], whether the first choice was torch's
        rounding: as of ``compare_indices``
        """
        first, later, partners = kept
        shapes = {"later_indices": (later, self.later_indices), "partners": (partners, self.partners)}
        for name, (found, wanted) in shapes.items():
            if wanted is None or not wanted.shape[1]:
                continue
            size = (len(rows), wanted.shape[1])
            if found is None or found.shape != size or found.dtype != np.int32:
                got = "none" if found is None else f"{found.dtype} {list(found.shape)}"
                return LaterComparison(same, None, (f"{name} are {got}, expected int32 {list(size)}",))
        same, errors, overlaps = same.copy(), [], []
        kept_at, ranked_at = (np.concatenate([[0], np.cumsum(self.choices[:, axis])]) for axis in (0, 1))
        for choice in range(len(self.choices)):
            alive = np.flatnonzero(same)
            if not len(alive):
                break
            chosen = first
            if choice:
                assert later is not None
                part = slice(kept_at[choice] - kept_at[1], kept_at[choice + 1] - kept_at[1])
                ranks = slice(ranked_at[choice] - ranked_at[1], ranked_at[choice + 1] - ranked_at[1])
                chosen = later[:, part]
                compared = compare_indices(
                    chosen[alive],
                    self.later_indices[rows[alive], part],
                    self.later_scores[rows[alive], ranks],
                    tolerance.common,
                    rounding,
                )
                errors += [f"choice {choice + 1} {error}" for error in compared.errors]
                overlaps.append(float(compared.overlap.mean()))
                same[alive] = compared.overlap == 1.0
            if self.partners is not None and self.partner_gaps is not None and partners is not None:
                assert chosen is not None
                alive = np.flatnonzero(same)
                part = slice(ranked_at[choice], ranked_at[choice + 1])
                other = merged(chosen[alive], int(self.choices[choice, 1])) & (
                    partners[alive, part] != self.partners[rows[alive], part]
                )
                gap = np.where(other, self.partner_gaps[rows[alive], part], 0.0).max(initial=0.0)
                allowed = max(SCORE_GAP, rounding)
                if gap > allowed:
                    errors.append(
                        f"choice {choice + 1} merges into other tokens that are {gap:.2g} less similar or more (near "
                        f"ties end at {allowed:.2g})"
                    )
                same[alive] = ~other.any(axis=1)
        return LaterComparison(same, float(np.mean(overlaps)) if overlaps else None, tuple(errors[:1]))


def merged(kept: Array, count: int) -> npt.NDArray[np.bool_]:
    """Which of ``count`` rows are merged: those that are not kept. kept: [B, k]. Returns [B, count]."""
    gone = np.ones((len(kept), count), np.bool_)
    np.put_along_axis(gone, kept.astype(np.int64), False, axis=1)
    return gone


def later_from_arrays(arrays: Mapping[str, Array], k: int, count: int, patches: int) -> LaterChoices | None:
    """The later choices at a budget of k from golden.npz, checked; None where it has none. Raises ValueError.

    count: golden images; patches: of an image
    """
    if f"choices_{k}" not in arrays:
        return None
    choices = arrays[f"choices_{k}"]
    sound = choices.dtype == np.int32 and choices.ndim == 2 and choices.shape[1] == 2
    if not sound or not 1 <= len(choices) <= _MOST_CHOICES:
        raise ValueError(f"its array choices_{k} must be int32 [choices, 2], got {choices.dtype} {list(choices.shape)}")
    if tuple(choices[0]) != (k, patches) or (choices < 1).any() or (choices > patches + 1).any():
        raise ValueError(f"its array choices_{k} does not fit {k} of {patches} tokens")
    if (choices[:, 0] > choices[:, 1]).any():
        raise ValueError(f"its array choices_{k} keeps more tokens than there are")
    kept, ranked = (int(choices[1:, axis].sum()) for axis in (0, 1))
    expected = {"later_indices": (np.int32, kept), "later_scores": (np.float32, ranked)}
    if f"partners_{k}" in arrays:
        expected |= {"partners": (np.int32, ranked + patches), "partner_gaps": (np.float32, ranked + patches)}
    found: dict[str, Array] = {}
    for name, (dtype, size) in expected.items():
        array = arrays[f"{name}_{k}"]
        if array.dtype != dtype or array.shape != (count, size):
            wanted = f"{np.dtype(dtype)} {[count, size]}"
            raise ValueError(f"its array {name}_{k} must be {wanted}, got {array.dtype} {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"its array {name}_{k} holds NaN or infinity")
        found[name] = array
    later = LaterChoices(choices, **found)
    _check_rows(later, k)
    return later


def _check_rows(later: LaterChoices, k: int) -> None:
    """Raise ValueError unless rows ascend within each choice and every row is among those that its choice ranks."""
    kept_at, ranked_at = 0, 0
    for choice, (kept, ranked) in enumerate(later.choices.tolist()):
        if choice:
            rows = later.later_indices[:, kept_at : kept_at + kept]
            kept_at += kept
            if rows.min() < 0 or rows.max() >= ranked or (np.diff(rows, axis=1) <= 0).any():
                raise ValueError(f"its array later_indices_{k} has rows that are no rising ones of {ranked}")
        if later.partners is not None:
            partners = later.partners[:, ranked_at : ranked_at + ranked]
            if partners.min() < 0 or partners.max() >= ranked:
                raise ValueError(f"its array partners_{k} has rows that are none of {ranked}")
        ranked_at += ranked
