"""The model card of an export: properties of the model, and its multiply-accumulates at budgets."""

import json
from dataclasses import asdict
from typing import Final

import onnx_ir as ir

from tokfilter import __version__
from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.manifest import ModelCard, output_of
from tokfilter.export.graph_stats import lengths_of, macs
from tokfilter.export.options import ExportOptions, Precision
from tokfilter.export.shapes import infer_shapes
from tokfilter.vit.model import FilteredViT

__all__ = ["card_from_bundle", "metadata_from_card"]

_MOST_COUNTS: Final = 1000
"""Budgets for which a card lists the cost of a model with several stages; spread evenly where there are more."""


def card_from_bundle(
    bundle: Bundle, model: FilteredViT, slots: ir.Model, full: ir.Model, options: ExportOptions
) -> ModelCard:
    """slots, full: the traced forms of the model."""
    return ModelCard(
        architecture=bundle.architecture.name,
        input_size=bundle.preprocessing.input_size,
        num_patches=model.num_patches,
        prefix_tokens=model.prefix_tokens,
        classes=bundle.golden.full.shape[1],
        class_names=bundle.class_names,
        keep=model.keep_tokens,
        macs=_macs(slots, full, model, options),
        preprocessing=json.loads(json.dumps(asdict(bundle.preprocessing))),
        input=options.input,
        output=output_of(model.output_name, model.output_shape),
        reducer=model.drop.config.as_dict(),
        choices=[list(choice) for choice in model.drop.choices_in_blocks(len(model.backbone.blocks))],
    )


def _macs(slots: ir.Model, full: ir.Model, model: FilteredViT, options: ExportOptions) -> dict[str, int]:
    """Counted in the graphs: torch gives the same numbers and takes a second for each budget."""
    patches = model.num_patches
    # Three budgets determine every other one: the count is a parabola in k (runtime/measure/statistics.py, macs_at).
    listed = {max(1, patches * i // 4) for i in (1, 2, 3)}
    if model.drop.stage_count > 1:  # then it is none, because each stage rounds
        step = -(-patches // _MOST_COUNTS)
        listed |= set(range(model.drop.smallest, model.drop.largest + 1, step))
    slots, full = infer_shapes(slots.clone()), infer_shapes(full.clone())
    counts = {"full": macs(full, lengths_of(full))}
    for k in sorted({model.keep_tokens, *options.budgets(patches), *listed}):
        counts[str(k)] = macs(slots, lengths_of(slots, k))
    return {name: count for name, count in counts.items() if count is not None}


def metadata_from_card(
    card: ModelCard, source: dict[str, str], precision: Precision, budget: int | None
) -> dict[str, str]:
    """Metadata to use the graph without the manifest, as texts under ``tokfilter.*``."""
    values = {
        "version": __version__,
        "bundle_sha256": source["sha256"],
        "architecture": card.architecture,
        "patches": card.num_patches,
        "prefix_tokens": card.prefix_tokens,
        "keep": budget or card.keep,
        "precision": precision,
        "input": card.input,
        "preprocessing": card.preprocessing,
        "class_names": card.class_names,
    }
    if card.reducer["name"] != "filter":
        values["reducer"] = card.reducer
    return {f"tokfilter.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
