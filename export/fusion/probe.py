"""One run of a fragment: inputs that distinguish every row and rank, and the reference's results for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tokfilter.export.fusion.match import Candidate, Mismatch
from tokfilter.kernels.op import ORDERS
from tokfilter.kernels.reference import token_select

__all__ = ["BY_SCORE", "RANKINGS", "Probe", "Ranking", "probe_of_run", "probe_scores", "probe_tokens"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Ranking:
    """The order of kept rows, and which of equal scores are kept.

    order: attribute of TokenSelect
    mirrored: of equal scores the higher position is kept, as by the last k of an ascending sort: TokenSelect's result
        for patches and scores in reverse
    flipped: the kept rows come in the reverse of the op's order
    """

    order: str
    mirrored: bool = False
    flipped: bool = False


BY_SCORE: Final = Ranking("score")
RANKINGS: Final = (
    *(Ranking(order) for order in ORDERS),
    Ranking("score", mirrored=True, flipped=True),
    Ranking("score", mirrored=True),
    Ranking("position", mirrored=True, flipped=True),
)
"""What a selection may be, the form without extra nodes first."""


@dataclass(frozen=True)
class Probe:
    """Inputs and results of one run.

    tied: many scores are equal
    tokens: [B, R, C]
    scores: [B, N], or that with dimensions of 1
    parts: tensors whose concatenation along axis 1 should be ``selected`` [B, P+k, C]
    results: every requested tensor
    """

    tied: bool
    tokens: Floats
    scores: Floats
    parts: Sequence[NDArray[Any]]
    results: Mapping[ir.Value, NDArray[Any]]

    @property
    def prefix(self) -> int:
        """Tokens that have no score."""
        return int(self.tokens.shape[1] - self._ranked.shape[1])

    @property
    def patches(self) -> int:
        """Tokens that have a score."""
        return int(self._ranked.shape[1])

    @property
    def kept(self) -> int:
        """Patches among the rows that came out. Raises Mismatch when the rows cannot be a prefix and patches."""
        shapes = [list(part.shape) for part in self.parts]
        (batch, rows, channels), scored = self.tokens.shape, self._ranked.shape
        if any(len(shape) != 3 or (shape[0], shape[2]) != (batch, channels) for shape in shapes) or scored[0] != batch:
            raise Mismatch(f"rows {shapes} and scores {list(scored)} do not fit tokens {[batch, rows, channels]}")
        kept = sum(shape[1] for shape in shapes) - self.prefix
        if self.prefix < 0 or not 1 <= kept <= scored[1]:
            raise Mismatch(f"rows {shapes} of {rows} tokens with {scored[1]} scores are no prefix and some patches")
        return int(kept)

    def gives_rows(self, k: int, prefix: int, ranking: Ranking) -> bool:
        """Whether the rows are those of the reference."""
        return _same(np.concatenate(self.parts, axis=1), self._expected(k, prefix, ranking)[0])

    def gives_indices(self, value: ir.Value, k: int, prefix: int, ranking: Ranking) -> bool:
        """Whether ``value`` [B, k], or that with dimensions of 1, equals the reference's indices."""
        found, expected = self.results[value], self._expected(k, prefix, ranking)[1]
        fits = found.shape[:1] == expected.shape[:1] and found.size == expected.size
        return fits and max(found.shape[1:], default=1) == k and _same(found.reshape(expected.shape), expected)

    def ranks_of_rows(self, prefix: int) -> tuple[int, int] | None:
        """The first rank and the one behind the last, when the rows are patches of successive ranks by score."""
        (rows,) = self.parts
        ranked = self._expected(self.patches, prefix, BY_SCORE)[0][:, prefix:]
        count = rows.shape[1] if rows.ndim == ranked.ndim else self.patches + 1
        spans = ((start, start + count) for start in range(self.patches - count + 1))
        return next((span for span in spans if _same(rows, ranked[:, slice(*span)])), None)

    def gives_smallest(self, k: int, prefix: int) -> bool:
        """Whether the rows are those with the smallest scores, in one of the orders."""
        opposite = Probe(self.tied, self.tokens, -self.scores, self.parts, {})
        return any(opposite.gives_rows(k, prefix, ranking) for ranking in RANKINGS)

    def first_difference(self, k: int, prefix: int) -> str:
        """The first row that differs from the reference's, as a message."""
        found, expected = np.concatenate(self.parts, axis=1), self._expected(k, prefix, BY_SCORE)[0]
        image, row = np.argwhere((found != expected).any(axis=2))[0]
        return (
            f"at a batch of {len(expected)}, row {row} of image {image} should be {self._place(expected[image, row])} "
            f"but is {self._place(found[image, row])}"
        )

    def fraction_of_right_rows(self, k: int, prefix: int) -> float:
        """Fraction of rows that equal the reference's, 0 to 1."""
        right = np.concatenate(self.parts, axis=1) == self._expected(k, prefix, BY_SCORE)[0]
        return float(right.all(axis=2).mean())

    @property
    def _ranked(self) -> Floats:
        return self.scores.reshape(self.scores.shape[0], -1)

    def _expected(self, k: int, prefix: int, ranking: Ranking) -> tuple[Floats, NDArray[np.int32]]:
        if not ranking.mirrored:
            return token_select(self.tokens, self._ranked, k, prefix, ranking.order)
        mirrored = self.tokens[:, prefix:][:, ::-1]
        rows, positions = token_select(mirrored, self._ranked[:, ::-1], k, 0, ranking.order)
        positions = self.patches - 1 - positions
        if ranking.flipped:
            rows, positions = rows[:, ::-1], positions[:, ::-1]
        return np.concatenate([self.tokens[:, :prefix], rows], axis=1), positions

    def _place(self, row: Floats) -> str:
        found = np.argwhere((self.tokens == row).all(axis=2))
        return f"token {found[0][1]} of image {found[0][0]}" if len(found) else "none of the tokens"


def probe_of_run(
    tied: bool,
    tokens: Floats,
    scores: Floats,
    parts: Sequence[NDArray[Any]],
    results: Mapping[ir.Value, NDArray[Any]],
    candidate: Candidate,
) -> Probe:
    """A probe of what a fragment took and gave; each head becomes an image of its own.

    tokens: [B, R, C], or [B, H, R, C] with heads
    scores: [B, N], or that with dimensions of 1, or [B, H, N]
    """
    heads = candidate.heads
    if not heads:
        return Probe(tied, tokens, scores, parts, results)
    ranked = scores.reshape(len(scores) * heads if candidate.head_scores else len(scores), -1)
    if not candidate.head_scores:
        ranked = np.repeat(ranked, heads, axis=0)
    folded = [p.reshape(-1, *p.shape[2:]) if p.shape[:2] == tokens.shape[:2] else p for p in parts]
    return Probe(tied, tokens.reshape(-1, *tokens.shape[2:]), ranked, folded, results)


def probe_tokens(shape: tuple[int, ...] | None) -> Floats:
    """Rows that are all different. Raises Mismatch when ``shape`` is unknown."""
    return np.random.default_rng(0).standard_normal(_known(shape, "tokens")).astype(np.float32)


def probe_scores(shape: tuple[int, ...] | None, leading: int, kept: Callable[[], int]) -> Iterator[tuple[bool, Floats]]:
    """Scores with many ties (True), then distinct ones (False) until every position was among the highest of an image.

    leading: dimensions before the patches: 1, or 2 where each head of [B, H, N] ranks for itself as an image does
    kept: returns the number of kept positions, after the first run
    """
    shape = _known(shape, "scores")
    batch, patches = int(np.prod(shape[:leading])), int(np.prod(shape[leading:]))
    rng = np.random.default_rng(1)
    yield True, rng.integers(-2, 2, shape).astype(np.float32)
    best_first, k = rng.permutation(patches), kept()
    for start in range(0, patches, batch * k):
        scores = np.empty((batch, patches), dtype=np.float32)
        for image in range(batch):
            scores[image, np.roll(best_first, -start - image * k)] = patches / 2 - np.arange(patches)
        yield False, scores.reshape(shape)


def _known(shape: tuple[int, ...] | None, what: str) -> tuple[int, ...]:
    if shape is None or len(shape) < 2 or min(shape) < 1:
        raise Mismatch(f"the shape of the {what} is not known well enough to run them ({shape})")
    return shape


def _same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    return found.shape == expected.shape and bool((found == expected).all())
