"""Engines at one batch size in interleaved rounds, each compared with the golden tensors before it is timed."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from tokfilter.artifacts.manifest import ModelCard, load_manifest
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_graphs import graphs_of
from tokfilter.benchmarks.gpu_proof.golden import compared
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec
from tokfilter.errors import TokfilterError
from tokfilter.runtime.comparison.processes import EngineProcess, EngineSpec
from tokfilter.runtime.comparison.rounds import BenchConfig, Cell, run_rounds
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.metrics import latency_from_samples, stability
from tokfilter.runtime.measure.statistics import macs_at, speedup_from_pairs

__all__ = ["measured_rows"]

Wanted = Sequence[tuple[EngineSpec, Sequence[int]]]
"""(engine, budgets in tokens), in the order of a round."""


def measured_rows(context: Context, model: ModelSpec, batch: int, wanted: Wanted, reference: str) -> None:
    """Open, compare, time and emit one ``row`` for each engine and budget.

    An engine that cannot be opened, or differs from the golden tensors, is reported and left out.
    reference: key of the engine whose time, at the same tokens or at every token, each row is compared with
    """
    with ExitStack() as stack:
        engines = _opened(context, [spec for spec, _ in wanted], stack)
        asked = [(engines[spec.key], batch, budgets) for spec, budgets in wanted if spec.key in engines]
        with ThreadPoolExecutor(max(1, len(asked))) as pool:  # the first run of a shape may compile for seconds
            passed = list(pool.map(lambda one: _passed(context, *one), asked))
        cells = [
            Cell(engine.spec, batch, tokens)
            for (engine, _, _), budgets in zip(asked, passed, strict=True)
            for tokens in budgets
        ]
        if not cells:
            return
        before = conditions()
        duration = context.settings.duration_s
        config = BenchConfig(duration, warm_up_s=min(0.2, duration), block_s=min(0.06, duration))
        run_rounds(cells, engines, config, lambda fraction: None)
        state = {"before": before, "after": conditions()}
    card = load_manifest(graphs_of(context.settings, model.name)).model
    for cell in cells:
        context.emit("row", model=model.name, **_row(cell, cells, card, reference), conditions=state)


def _opened(context: Context, specs: Iterable[EngineSpec], stack: ExitStack) -> dict[str, EngineProcess]:
    """Start all, then wait for each."""
    processes = {spec.key: stack.push(EngineProcess(spec)) for spec in specs}
    for begin in (EngineProcess.start, EngineProcess.wait_until_open):
        for name, process in list(processes.items()):
            try:
                begin(process)
            except TokfilterError as error:
                context.emit("problem", engine=name, error=str(error))
                del processes[name]
    return processes


def _passed(context: Context, engine: EngineProcess, batch: int, budgets: Sequence[int]) -> list[int]:
    try:
        return [tokens for _, tokens in compared(context, engine, [(batch, k) for k in budgets])]
    except TokfilterError as error:
        context.emit("problem", engine=engine.spec.key, error=str(error))
        return []


def _row(cell: Cell, cells: Sequence[Cell], card: ModelCard, reference: str) -> dict[str, Any]:
    full = next((c for c in cells if c.spec.role == "full" and _family(c) == _family(cell)), None)
    other = next((c for c in cells if _family(c) == reference and c.tokens == cell.tokens), None)
    macs, full_macs = macs_at(card, cell.tokens), macs_at(card, card.num_patches)
    ratio = full_macs / macs if macs and full_macs and cell.spec.role == "filtered" else None
    speedup = _ratios(full, cell) if full is not None and full is not cell else None
    measure = "compute" if speedup is not None and speedup["compute"] else "end_to_end"
    efficiency = speedup[measure]["value"] / ratio if speedup and ratio else None
    latency = latency_from_samples(cell.samples)
    compute = latency_from_samples([t.compute_ms for t in cell.timings]) if cell.timings else None
    fastest = compute or latency
    return {
        "engine": _family(cell),
        "role": cell.spec.role,
        "batch": cell.batch,
        "tokens": cell.tokens,
        "precision": cell.spec.options.precision,
        "end_to_end_ms": asdict(latency),
        "compute_ms": None if compute is None else asdict(compute),
        "images_per_s": cell.batch / fastest.median * 1e3,
        "rounds": len(cell.blocks),
        "speedup": speedup,
        "mac_ratio": ratio,
        "efficiency": efficiency,
        "against": None if other is None or other is cell else {"engine": reference, **_ratios(other, cell)},
        "warnings": stability(latency, gpu=bool(cell.timings)),
    }


def _family(cell: Cell) -> str:
    """Name of the engine without its role: keys are "NAME, full" and "NAME, filtered"."""
    return cell.spec.key.rsplit(", ", 1)[0]


def _ratios(slow: Cell, fast: Cell) -> dict[str, Any]:
    """How many times as fast as ``slow``, by rounds: end to end on the host, and between device events."""
    compute = (slow.compute_medians, fast.compute_medians)
    return {
        "end_to_end": asdict(speedup_from_pairs(slow.medians, fast.medians)),
        "compute": asdict(speedup_from_pairs(*compute)) if all(compute) else None,
    }
