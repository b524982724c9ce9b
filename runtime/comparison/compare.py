"""Interleaved A/B latency benchmark of an export directory: full against filtered token counts.

Every engine runs in a process of its own, one at a time. Outputs are compared with the golden tensors before anything
is timed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError
from tokfilter.runtime.comparison.against import engines_prepared
from tokfilter.runtime.comparison.document import document_from_measurements
from tokfilter.runtime.comparison.processes import EngineSpec, specs_for
from tokfilter.runtime.comparison.rounds import BenchConfig, Progress, measure_cells
from tokfilter.runtime.model_files import check_bundle, find_bundle
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["compare"]


def compare(
    directory: str | Path,
    batches: Sequence[int] = (1, 8, 32),
    keeps: Sequence[Keep] = (1.0, 0.7, 0.5, 0.35),
    options: SessionOptions | None = None,
    config: BenchConfig | None = None,
    progress: Progress | None = None,
    command: str = "",
    against: Sequence[str] = (),
    further: Sequence[SessionOptions] = (),
) -> dict[str, Any]:
    """Measure an export directory and return the content of bench.json (``schemas/bench.json``).

    against: engines that users run today (keys of ``against.AGAINST``), measured in the same rounds
    further: engines that run the same budgets in the same rounds, compared with their full model and with the first one
    Raises VerificationError before anything is timed when outputs differ from the golden tensors, DataError,
    BudgetError, EngineError.
    """
    directory, config, options = Path(directory), config or BenchConfig(), options or SessionOptions()
    if not batches or min(batches) < 1:
        raise DataError(f"a comparison requires batch sizes of 1 or more, got {list(batches)}.")
    manifest = load_manifest(directory)
    engines = [options, *further]
    doubles = [f"{one.runtime} in {one.precision}" for i, one in enumerate(engines) if one in engines[:i]]
    if doubles:
        raise DataError(f"each engine is measured once, got {doubles[0]} twice.")
    for one in engines:
        if one.runtime == "torch":  # before two processes import PyTorch
            check_bundle(find_bundle(directory, manifest, one.bundle), manifest)
    specs, *others = (specs_for(directory, manifest, keeps, one) for one in engines)
    named = [{k: _named(spec, place) for k, spec in other.items()} for place, other in enumerate(others, 2)]
    with engines_prepared(against, directory, manifest, options) as prepared:
        report = progress or (lambda what, part: None)
        measured = measure_cells(specs, sorted(set(batches)), config, report, prepared, named)
    return document_from_measurements(measured, manifest, options, config, command, further)


def _named(spec: EngineSpec, place: int) -> EngineSpec:
    """A further engine, under a name of its own: another engine may run the same file."""
    return replace(spec, name=f"{place}: {spec.options.runtime} {spec.options.precision} {spec.path}")
