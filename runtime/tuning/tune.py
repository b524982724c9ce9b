"""`tokfilter tune`: measure the latency-against-budget curve of this machine, choose a budget, write it down."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tokfilter.artifacts.files import atomic_path
from tokfilter.artifacts.manifest import NAME, Manifest, load_manifest
from tokfilter.errors import DataError
from tokfilter.runtime.comparison.compare import Cell, Plan, Progress, run_rounds
from tokfilter.runtime.comparison.workers import Engine, EngineSpec, engines_open
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import latency_from_samples, speedup_from_pairs
from tokfilter.runtime.model_files import find_entry
from tokfilter.runtime.session import Budgets
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.runtime.tuning.goals import Choice, Goal, Point
from tokfilter.runtime.tuning.search import choose

__all__ = ["drops_from_accuracy", "measured_points", "save_choice", "tested_budgets", "tune"]


def tune(
    directory: str | Path,
    goal: Goal,
    batch: int = 1,
    options: SessionOptions | None = None,
    plan: Plan | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Choose a budget, write it into the manifest, and return ``schemas/tune.json``'s content.

    Raises BudgetError when no budget meets the goal (the manifest stays as it is), VerificationError, EngineError.
    """
    directory, options, plan = Path(directory), options or SessionOptions(), plan or Plan(1.0, 0.2, 0.1)
    if batch < 1:
        raise DataError(f"a batch wants at least one image, got {batch}.")
    manifest, before = load_manifest(directory), conditions()
    full, filtered = _specs(directory, manifest, options)
    say = progress or (lambda what, share: None)
    with engines_open([full, *filtered.values()]) as engines:
        verdicts = [engines[full.path].verify(batch, manifest.model.num_patches)]
        verdicts += [engines[filtered[k].path].verify(batch, k) for k in _verified(manifest, filtered)]

        def measure(budgets: Sequence[int]) -> list[Point]:
            specs = {k: filtered[k] for k in budgets}
            return measured_points(full, specs, engines, batch, manifest.model.num_patches, plan, say)

        choice = choose(goal, measure, sorted(filtered), manifest.model.prefix_tokens)
    document = {
        **header("tune", command),
        "conditions": {"before": before, "after": conditions()},
        "settings": {**asdict(options), **asdict(plan), "batch": batch, "goal": str(goal)},
        "verification": verdicts,
        "curve": [asdict(point) for point in choice.curve],
        "choice": _chosen(choice, manifest, batch),
        "pace": {**asdict(choice.pace), "change": choice.pace.change, "spread": choice.pace.spread},
    }
    save_choice(directory, _note(document, options))
    return document


def measured_points(
    full: EngineSpec,
    filtered: Mapping[int, EngineSpec],
    engines: Mapping[str, Engine],
    batch: int,
    patches: int,
    plan: Plan,
    progress: Progress,
) -> list[Point]:
    """Measure budgets in rounds with the full model, in the order given."""
    reference = Cell(full, batch, patches)
    cells = [Cell(spec, batch, tokens) for tokens, spec in filtered.items()]
    what = f"{len(cells)} budgets from {min(filtered)} to {max(filtered)} tokens"
    run_rounds([reference, *cells], engines, plan, lambda share: progress(what, share))
    return [
        Point(
            cell.tokens,
            latency_from_samples(cell.samples).median,
            latency_from_samples(reference.samples).median,
            speedup_from_pairs(reference.medians, cell.medians, plan.seed),
        )
        for cell in cells
    ]


def drops_from_accuracy(document: Mapping[str, Any], manifest: Manifest) -> dict[int, float]:
    """Budget -> loss of mean top-1 against full, from accuracy.json. Raises DataError for another model's."""
    model = document.get("model", {})
    if (model.get("architecture"), model.get("patches")) != (manifest.model.architecture, manifest.model.num_patches):
        raise DataError(
            f"accuracy.json is of {model.get('architecture')} with {model.get('patches')} patches, the export of "
            f"{manifest.model.architecture} with {manifest.model.num_patches}: evaluate the bundle that was exported."
        )
    rows = document["rows"]
    full = next((row["mean"] for row in rows if row["method"] == "full"), None)
    if full is None:
        raise DataError("accuracy.json has no row of the full model: evaluate again with keep 1.0 among the budgets.")
    return {row["tokens"]: full - row["mean"] for row in rows if row["method"] == "filter"}


def tested_budgets(manifest: Manifest, served: Budgets) -> list[int]:
    """Budgets whose accuracy is worth a run over the images: tenths of the patches, and the ends that are served."""
    tenths = {manifest.model.num_patches * i // 10 for i in range(1, 10)}
    return sorted({k for k in tenths if served.low <= k <= served.high} | {served.low})


def save_choice(directory: Path, choice: Mapping[str, Any]) -> None:
    """Write the choice into the manifest, atomically: sessions take it as their default budget."""
    manifest = replace(load_manifest(directory), choice=dict(choice))
    with atomic_path(directory / NAME) as part:
        part.write_text(manifest.text(), encoding="utf-8")


def _specs(directory: Path, manifest: Manifest, options: SessionOptions) -> tuple[EngineSpec, dict[int, EngineSpec]]:
    """The full engine, and the filtered one for each budget that can be chosen: all of a range, or the fixed ones."""
    runtime, precision, patches = options.runtime, options.precision, manifest.model.num_patches
    full = EngineSpec(directory, "full", find_entry(manifest, "full", runtime, precision).path, options)
    entry = find_entry(manifest, "filtered", runtime, precision)
    if entry.budget is None:
        low, _, high = entry.budget_range or (1, 0, patches - 1)
        spec = EngineSpec(directory, "filtered", entry.path, options)
        return full, dict.fromkeys(range(low, min(high, patches - 1) + 1), spec)
    fixed = [e for e in manifest.entries("filtered", runtime) if e.precision == precision and e.budget is not None]
    return full, {e.budget: EngineSpec(directory, "filtered", e.path, options) for e in fixed if e.budget is not None}


def _verified(manifest: Manifest, filtered: Mapping[int, EngineSpec]) -> list[int]:
    """Budgets to compare with golden tensors before any time is taken: the model's own, or all fixed ones."""
    paths = {spec.path for spec in filtered.values()}
    if len(paths) > 1:
        return sorted(filtered)
    budgets = sorted(filtered)
    return sorted({min(max(manifest.model.keep, budgets[0]), budgets[-1]), budgets[0], budgets[-1]})


def _chosen(choice: Choice, manifest: Manifest, batch: int) -> dict[str, Any]:
    return {
        "tokens": choice.tokens,
        "keep": choice.tokens / manifest.model.num_patches,
        "batch": batch,
        "latency_ms": choice.point.latency_ms,
        "speedup": asdict(choice.point.speedup),
        "reason": choice.reason,
    }


def _note(document: Mapping[str, Any], options: SessionOptions) -> dict[str, Any]:
    """What the manifest keeps of a choice: enough to know what it rests on."""
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
