"""Engines at one batch size in interleaved rounds, each compared with the golden tensors before it is timed."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from tokfilter.artifacts.manifest import ModelCard, load_manifest
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_graphs import graphs_of
from tokfilter.benchmarks.gpu_proof.golden import compared
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec
from tokfilter.errors import EngineError, TokfilterError
from tokfilter.runtime.comparison.processes import Block, EngineProcess, EngineSpec
from tokfilter.runtime.comparison.rounds import BenchConfig, Cell, run_rounds
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.metrics import latency_from_samples, stability
from tokfilter.runtime.measure.statistics import macs_at, speedup_from_pairs

__all__ = ["ComputeOnly", "measured_rows", "opened"]

Wanted = Sequence[tuple[EngineSpec, Sequence[int]]]
"""(engine, budgets in tokens), in the order of a round."""


def measured_rows(
    context: Context,
    model: ModelSpec,
    batch: int,
    wanted: Wanted,
    reference: str,
    running: Mapping[str, EngineProcess] | None = None,
) -> None:
    """Open, compare, time and emit one ``row`` for each engine and budget.

    An engine that cannot be opened, or differs from the golden tensors, is reported and left out.

    reference: name of the engine whose time at the same tokens each row is compared with
    running: engines that are open already, by their keys
    """
    with ExitStack() as stack:
        engines = dict(running or {})
        engines |= opened(context, [spec for spec, _ in wanted if spec.key not in engines], stack)
        asked = [(engines[spec.key], batch, budgets) for spec, budgets in wanted if spec.key in engines]
        with ThreadPoolExecutor(max(1, len(asked))) as pool:  # the first run of a shape may compile for seconds
            passed = list(pool.map(lambda one: _passed(context, *one), asked))
        cells = [
            Cell(engine.spec, batch, tokens)
            for (engine, _, _), budgets in zip(asked, passed, strict=True)
            for tokens in budgets
        ]
        try:
            alone, state = _measured(context, engines, cells)
        except TokfilterError as error:
            context.emit("problem", engine=f"rounds of batch {batch}", error=str(error))
            return
    card = load_manifest(graphs_of(context.settings, model.name)).model
    pairs = [(cell, next((c for c in alone if _same(c, cell)), None)) for cell in cells]
    for pair in pairs:
        context.emit("row", model=model.name, **_row(pair, pairs, card, reference), conditions=state)


def _measured(
    context: Context, engines: Mapping[str, EngineProcess], cells: Sequence[Cell]
) -> tuple[list[Cell], dict[str, Any]]:
    """Measure the cells in rounds; returns those of the computation alone, and the state of the machine."""
    before, duration = conditions(), context.settings.duration_s
    config = BenchConfig.of_duration(duration, min(0.1, duration), 0.06)
    alone = _computable(engines, [replace(cell, blocks=[]) for cell in cells])
    loops = {name: ComputeOnly(engine) for name, engine in engines.items()}
    if alone:
        run_rounds(alone, loops, config, lambda fraction: None)
    if cells:
        run_rounds(cells, engines, config, lambda fraction: None)
    return alone, {"before": before, "after": conditions()}


@dataclass(frozen=True)
class ComputeOnly:
    """An engine whose blocks are computations on images that are on the device already."""

    engine: EngineProcess

    def block(self, batch: int, tokens: int, seconds: float) -> Block:
        """Repeat the computation for ``seconds``."""
        return self.engine.compute(batch, tokens, seconds)


def _computable(engines: Mapping[str, EngineProcess], cells: Sequence[Cell]) -> list[Cell]:
    """The cells whose session measures the computation without transfers."""
    able = []
    for cell in cells:
        with suppress(EngineError):
            engines[cell.spec.key].compute(cell.batch, cell.tokens, 0.0)
            able.append(cell)
    return able


def opened(context: Context, specs: Iterable[EngineSpec], stack: ExitStack) -> dict[str, EngineProcess]:
    """Start all, then wait for each; one that does not open is reported. They end with ``stack``."""
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


Pair = tuple[Cell, Cell | None]
"""Measurements of an engine and budget: calls with transfers, and the computation alone where the session can."""


def _row(pair: Pair, pairs: Sequence[Pair], card: ModelCard, reference: str) -> dict[str, Any]:
    cell, alone = pair
    full = next((p for p in pairs if p[0].spec.role == "full" and _family(p[0]) == _family(cell)), None)
    other = next((p for p in pairs if _family(p[0]) == reference and p[0].tokens == cell.tokens), None)
    macs, full_macs = macs_at(card, cell.tokens), macs_at(card, card.num_patches)
    ratio = full_macs / macs if macs and full_macs and cell.spec.role == "filtered" else None
    speedup = None if full is None or full is pair else _ratios(full, pair)
    value = None if speedup is None else (speedup["compute"] or speedup["end_to_end"])["value"]
    latency = latency_from_samples(cell.samples)
    compute = None if alone is None else latency_from_samples([t.compute_ms for t in alone.timings])
    return {
        "engine": _family(cell),
        "role": cell.spec.role,
        "batch": cell.batch,
        "tokens": cell.tokens,
        "precision": cell.spec.options.precision,
        "end_to_end_ms": asdict(latency),
        "host_ms": None if alone is None else asdict(latency_from_samples(alone.samples)),
        "compute_ms": None if compute is None else asdict(compute),
        "images_per_s": cell.batch / (compute or latency).median * 1e3,
        "rounds": len(cell.blocks),
        "speedup": speedup,
        "mac_ratio": ratio,
        "efficiency": value / ratio if value and ratio else None,
        "against": None if other is None or other is pair else {"engine": reference, **_ratios(other, pair)},
        "warnings": stability(compute or latency, gpu=compute is not None),
    }


def _family(cell: Cell) -> str:
    """Name of the engine without its role: keys are "NAME, full" and "NAME, filtered", or "NAME, filtered at 98"."""
    return cell.spec.key.rsplit(", ", 1)[0]


def _same(one: Cell, other: Cell) -> bool:
    return (one.spec.key, one.tokens) == (other.spec.key, other.tokens)


def _ratios(slow: Pair, fast: Pair) -> dict[str, Any]:
    """How many times as fast as ``slow``, by rounds: end to end on the host, and between device events."""
    alone = slow[1] and fast[1] and speedup_from_pairs(*_rounds(slow[1].compute_medians, fast[1].compute_medians))
    return {
        "end_to_end": asdict(speedup_from_pairs(*_rounds(slow[0].medians, fast[0].medians))),
        "compute": asdict(alone) if alone else None,
    }


def _rounds(slow: Sequence[float], fast: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The rounds that both have."""
    count = min(len(slow), len(fast))
    return slow[:count], fast[:count]
