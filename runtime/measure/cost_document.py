"""The cost model in a document (``cost_model`` of bench.json and tune.json), and its sentence."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from tokfilter.artifacts.manifest import ModelCard
from tokfilter.runtime.measure.cost_model import (
    LARGEST_BATCH,
    CostModel,
    CostPoint,
    PaysFrom,
    fit_cost_model,
    pays_from,
)
from tokfilter.runtime.measure.statistics import macs_at

__all__ = ["LARGEST_ERROR", "cost_document", "cost_point"]

LARGEST_ERROR: Final = 0.10
"""Cross-validated error above which a model is not used: speed-ups of half the tokens lie between 1 and 2, so with more
than this "faster" could not be told from "slower"."""


def cost_point(card: ModelCard, batch: int, tokens: int, latency_ms: float) -> CostPoint | None:
    """A measured point; None where the export lists the MACs of too few budgets."""
    macs = macs_at(card, tokens)
    return None if macs is None else CostPoint(batch, tokens, tokens < card.num_patches, macs, latency_ms)


def cost_document(card: ModelCard, points: Sequence[CostPoint | None], tokens: int, seed: int = 0) -> dict[str, Any]:
    """The model of measured points and from which batch on ``tokens`` are faster than the full model, where it fits.

    tokens: a filtered budget of the points
    """
    known = [point for point in points if point is not None]
    model = fit_cost_model(known)
    if model is None:
        reason = f"{len({(p.batch, p.tokens) for p in known})} points are too few for it"
        return {"fits": False, "sentence": f"No cost model: {reason}.", "model": None, "pays_from": None}
    full = next((point for point in known if not point.filtered), None)
    filtered = next((point for point in known if point.filtered and point.tokens == tokens), None)
    fits = model.error <= LARGEST_ERROR
    pays = None
    if fits and model.batches > 1 and full is not None and filtered is not None:
        pays = pays_from(model, known, full, filtered, seed)
    return {
        "fits": fits,
        "sentence": _sentence(model, len(known), fits, pays, card.num_patches),
        "model": _model(model, known),
        "pays_from": None if pays is None else asdict(pays),
    }


def _model(model: CostModel, points: Sequence[CostPoint]) -> dict[str, Any]:
    names = ("call_ms", "filter_ms", "image_ms", "image_token_ms", "image_gmac_ms")
    measured = [
        {"batch": p.batch, "tokens": p.tokens, "latency_ms": p.latency_ms, "predicted_ms": predicted}
        for p, predicted in zip(points, model.predicted_ms, strict=True)
    ]
    return {
        "form": model.form,
        "coefficients": dict(zip(names, model.coefficients, strict=True)),
        "error": model.error,
        "worst": model.worst,
        "points": measured,
    }


def _sentence(model: CostModel, count: int, fits: bool, pays: PaysFrom | None, patches: int) -> str:
    if not fits:
        return (
            f"No cost model: its cross-validated error on {count} points is {model.error:.0%}, above "
            f"{LARGEST_ERROR:.0%}, so nothing is said about other batches."
        )
    basis = f"Cost model of {count} points (cross-validated error {model.error:.1%})"
    if model.batches == 1:
        return f"{basis}: one batch size was measured, so from which batch on filtering pays is not known."
    if pays is None:
        return f"{basis}: no filtered budget was measured beside the full model."
    what = f"{pays.tokens} of {patches} tokens"
    if pays.batch is None:
        lower = "" if pays.low is None else f" (95 % interval: from {pays.low} on, or never)"
        return f"{basis}: {what} are faster than the full model at no batch up to {LARGEST_BATCH}{lower}."
    upper = "never" if pays.high is None else str(pays.high)
    if (pays.batch, pays.low, upper) == (1, 1, "1"):
        return f"{basis}: {what} are faster than the full model at every batch."
    interval = f"95 % interval {pays.low} to {upper}"
    return f"{basis}: {what} are faster than the full model from batch {pays.batch} on ({interval})."
