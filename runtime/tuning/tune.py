"""`tokfilter tune`: measure latency against budget on this machine, select a budget, write it into the manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokfilter.artifacts.manifest import Manifest, ModelCard, load_manifest
from tokfilter.artifacts.manifest_change import change_manifest
from tokfilter.errors import DataError
from tokfilter.runtime.comparison.processes import EngineProcess, EngineSpec, engines_open
from tokfilter.runtime.comparison.rounds import BenchConfig, Cell, Progress, run_rounds
from tokfilter.runtime.measure.cost_document import cost_document, cost_point
from tokfilter.runtime.measure.cost_model import CostPoint
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.metrics import latency_from_samples
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import speedup_from_pairs
from tokfilter.runtime.model_files import file_precision, find_entry
from tokfilter.runtime.session import Budgets
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.runtime.tuning.goals import Goal, TunedBudget, TuningPoint
from tokfilter.runtime.tuning.search import select_budget

__all__ = [
    "check_batch",
    "cost_points",
    "drops_from_accuracy",
    "few_budgets",
    "measured_points",
    "save_choice",
    "tested_budgets",
    "tune",
]


def tune(
    directory: str | Path,
    goal: Goal,
    batch: int = 1,
    options: SessionOptions | None = None,
    config: BenchConfig | None = None,
    progress: Progress | None = None,
    command: str = "",
    model_batches: Sequence[int] = (),
) -> dict[str, Any]:
    """Select a budget, write it into the manifest, and return the content of ``schemas/tune.json``.

    model_batches: further batch sizes that a few budgets are measured at, for the cost model: one batch alone does not
        show from which batch on filtering pays. Those that an engine does not serve are left out
    Raises BudgetError when no budget meets the goal (the manifest stays as it is), VerificationError, EngineError.
    """
    directory, options, config = Path(directory), options or SessionOptions(), config or BenchConfig(1.0, 0.2, 0.1)
    if min([batch, *model_batches]) < 1:
        raise DataError(f"a batch requires at least one image, got {min([batch, *model_batches])}.")
    manifest, before = load_manifest(directory), conditions()
    full, filtered = _specs(directory, manifest, options)
    report = progress or (lambda what, fraction: None)
    with engines_open([full, *filtered.values()]) as engines:
        verdicts = [engines[full.path].verify(batch, manifest.model.num_patches)]
        verdicts += [engines[filtered[k].path].verify(batch, k) for k in _verified(manifest, filtered)]

        def measure(budgets: Sequence[int]) -> list[TuningPoint]:
            specs = {k: filtered[k] for k in budgets}
            return measured_points(full, specs, engines, batch, manifest.model.num_patches, config, report)

        tuned = select_budget(goal, measure, sorted(filtered), manifest.model.prefix_tokens)
        curves = {batch: tuned.curve}
        for other in _served(model_batches, manifest, [full, *filtered.values()], batch):
            chosen = {k: filtered[k] for k in few_budgets([*filtered, tuned.tokens], tuned.tokens)}
            curves[other] = measured_points(full, chosen, engines, other, manifest.model.num_patches, config, report)
    document = {
        **header("tune", command),
        "conditions": {"before": before, "after": conditions()},
        "settings": {**asdict(options), **asdict(config), "batch": batch, "goal": str(goal)},
        "verification": verdicts,
        "curve": [asdict(point) for point in tuned.curve],
        "choice": _choice(tuned, manifest, batch),
        "cost_model": cost_document(manifest.model, cost_points(manifest.model, curves), tuned.tokens, config.seed),
        "clock_drift": {**asdict(tuned.drift), "change": tuned.drift.change, "spread": tuned.drift.spread},
    }
    save_choice(directory, manifest, _manifest_choice(document, options))
    return document


def check_batch(manifest: Manifest, options: SessionOptions, batch: int) -> None:
    """Check a batch size before engines are opened. Raises EngineError for a missing file, DataError for the batch."""
    for role in ("full", "filtered"):
        entry = find_entry(manifest, role, options.runtime, options.precision, provider=options.provider)
        low, _, high = entry.batch_range or (batch, batch, batch)
        if not low <= batch <= high:
            raise DataError(f"{entry.path} takes batches of {low} to {high} images, got --batch {batch}.")


def measured_points(
    full: EngineSpec,
    filtered: Mapping[int, EngineSpec],
    engines: Mapping[str, EngineProcess],
    batch: int,
    patches: int,
    config: BenchConfig,
    progress: Progress,
) -> list[TuningPoint]:
    """Measure budgets in rounds with the full model, in the order given."""
    reference = Cell(full, batch, patches)
    cells = [Cell(spec, batch, tokens) for tokens, spec in filtered.items()]
    what = f"{len(cells)} budgets from {min(filtered)} to {max(filtered)} tokens"
    run_rounds([reference, *cells], engines, config, lambda fraction: progress(what, fraction))
    return [
        TuningPoint(
            cell.tokens,
            latency_from_samples(cell.samples).median,
            latency_from_samples(reference.samples).median,
            speedup_from_pairs(reference.medians, cell.medians, config.seed),
        )
        for cell in cells
    ]


def cost_points(card: ModelCard, curves: Mapping[int, Sequence[TuningPoint]]) -> list[CostPoint | None]:
    """Points for the cost model. A latency is the full model's median over the speed-up, which clock drift spares.

    curves: batch size -> measured budgets
    """
    points = []
    for batch, curve in curves.items():
        full_ms = float(np.median([point.full_ms for point in curve]))
        points.append(cost_point(card, batch, card.num_patches, full_ms))
        points += [cost_point(card, batch, point.tokens, full_ms / point.speedup.value) for point in curve]
    return points


def few_budgets(budgets: Sequence[int], chosen: int) -> list[int]:
    """The smallest, the largest, the middle one and the chosen one."""
    ordered = sorted(set(budgets))
    return sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1], chosen})


def _served(batches: Sequence[int], manifest: Manifest, specs: Sequence[EngineSpec], measured: int) -> list[int]:
    paths = {spec.path for spec in specs}
    ranges = [entry.batch_range for entry in manifest.files if entry.path in paths and entry.batch_range is not None]
    return [b for b in sorted(set(batches) - {measured}) if all(low <= b <= high for low, _, high in ranges)]


def drops_from_accuracy(document: Mapping[str, Any], manifest: Manifest) -> dict[int, float]:
    """Budget -> loss of mean top-1 against full, from accuracy.json; of recall@1, from similarity.json.

    Raises DataError for another model's.
    """
    model, embeds = document.get("model", {}), document["schema"] == "tokfilter/similarity"
    column = "recall" if embeds else "mean"
    if (model.get("architecture"), model.get("patches")) != (manifest.model.architecture, manifest.model.num_patches):
        raise DataError(
            f"accuracy.json is of {model.get('architecture')} with {model.get('patches')} patches, the export of "
            f"{manifest.model.architecture} with {manifest.model.num_patches}: evaluate the bundle that was exported."
        )
    rows = [row for row in document["rows"] if embeds or row["method"] in ("full", "filter")]  # no baselines of a study
    full = next((row[column] for row in rows if row["method"] == "full"), None)
    if full is None:
        raise DataError("accuracy.json has no row of the full model: evaluate again with keep 1.0 among the budgets.")
    return {row["tokens"]: full - row[column] for row in rows if row["method"] != "full"}


def tested_budgets(manifest: Manifest, served: Budgets) -> list[int]:
    """Budgets whose accuracy is evaluated: tenths of the patches that the engine serves, and its smallest budget."""
    tenths = {manifest.model.num_patches * i // 10 for i in range(1, 10)}
    return sorted({k for k in tenths if served.low <= k <= served.high} | {served.low})


def save_choice(directory: Path, measured: Manifest, choice: Mapping[str, Any]) -> None:
    """Write the choice into the manifest, atomically. It becomes the default budget of sessions.

    Raises DataError where the directory was exported again since it was measured.
    """
    change_manifest(directory, measured, lambda manifest: replace(manifest, choice=dict(choice)))


def _specs(directory: Path, manifest: Manifest, options: SessionOptions) -> tuple[EngineSpec, dict[int, EngineSpec]]:
    """The full engine, and the filtered one for each budget that can be chosen: all of a range, or the fixed ones."""
    runtime, precision, patches = options.runtime, options.precision, manifest.model.num_patches
    entry = find_entry(manifest, "full", runtime, precision, provider=options.provider)
    full = EngineSpec(directory, "full", entry.path, options)
    entry = find_entry(manifest, "filtered", runtime, precision, provider=options.provider)
    if entry.budget is None:
        low, _, high = entry.budget_range or (1, 0, patches - 1)
        spec = EngineSpec(directory, "filtered", entry.path, options)
        return full, dict.fromkeys(range(low, min(high, patches - 1) + 1), spec)
    in_file = file_precision(runtime, precision)
    fixed = [e for e in manifest.entries("filtered", entry.runtime) if e.precision == in_file and e.budget is not None]
    return full, {e.budget: EngineSpec(directory, "filtered", e.path, options) for e in fixed if e.budget is not None}


def _verified(manifest: Manifest, filtered: Mapping[int, EngineSpec]) -> list[int]:
    """Budgets that are compared with the golden tensors: all fixed ones, or the default, smallest and largest."""
    paths = {spec.path for spec in filtered.values()}
    if len(paths) > 1:
        return sorted(filtered)
    budgets = sorted(filtered)
    return sorted({min(max(manifest.model.keep, budgets[0]), budgets[-1]), budgets[0], budgets[-1]})


def _choice(tuned: TunedBudget, manifest: Manifest, batch: int) -> dict[str, Any]:
    return {
        "tokens": tuned.tokens,
        "keep": tuned.tokens / manifest.model.num_patches,
        "batch": batch,
        "latency_ms": tuned.point.latency_ms,
        "speedup": asdict(tuned.point.speedup),
        "reason": tuned.reason,
    }


def _manifest_choice(document: Mapping[str, Any], options: SessionOptions) -> dict[str, Any]:
    """The choice with its goal, engine and machine, for the manifest."""
    machine = document["machine"]
    return {
        **document["choice"],
        "goal": document["settings"]["goal"],
        "created": document["created"],
        "runtime": options.runtime,
        "provider": options.provider,
        "precision": options.precision,
        "threads": options.threads,
        "machine": ", ".join([*(gpu["name"] for gpu in machine["gpus"]), machine["cpu"]]),
    }
