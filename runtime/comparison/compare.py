"""Full against filtered, measured so that an expert would sign it.

Every engine has a process of its own and waits while another runs. Outputs are held against the golden tensors before
any time is taken. Then rounds: each round gives every engine one short block, forward and backward in turn, so that a
drift of the machine meets all alike; a speed-up is the median over rounds of the ratio within a round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError
from tokfilter.runtime.comparison.workers import Block, Engine, EngineSpec, engines_open, specs_for
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.power import PowerMeter, power_meter
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["QUICK", "Cell", "Comparison", "Plan", "compare", "measure_cells", "run_rounds"]

_MIN_ROUNDS: Final = 5
_POWER_S: Final = 2.0
"""Seconds per row for power alone: NVML's counter moves only every 20 to 100 ms."""

Progress = Callable[[str, float], None]
"""Told what is being done and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    duration_s: measured seconds per row, trtexec's default being 3
    warm_up_s: seconds per row before, untimed
    block_s: seconds that one engine runs before the next takes its turn
    """

    duration_s: float = 3.0
    warm_up_s: float = 0.5
    block_s: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.duration_s, self.block_s) <= 0 or self.warm_up_s < 0:
            raise DataError(f"a measurement wants positive seconds, got {self}.")


QUICK: Final = Plan(duration_s=1.0, warm_up_s=0.2, block_s=0.1)
"""For a first look: a third of the time, wider intervals."""


@dataclass
class Cell:
    """What was measured of one engine at one batch and budget: one block per round, memory, power."""

    spec: EngineSpec
    batch: int
    tokens: int
    blocks: list[Block] = field(default_factory=list)
    memory: Mapping[str, int | None] = field(default_factory=dict)
    power: Mapping[str, Mapping[str, float]] | None = None

    @property
    def medians(self) -> list[float]:
        """Median latency of each round, milliseconds."""
        return [float(np.median(block.samples_ms)) for block in self.blocks]

    @property
    def samples(self) -> list[float]:
        """All latencies, milliseconds."""
        return [ms for block in self.blocks for ms in block.samples_ms]


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison measured; ``benchmarks.document`` puts it into words and JSON."""

    verdicts: list[dict[str, Any]]
    cells: list[Cell]
    before: dict[str, Any]
    after: dict[str, Any]
    absent_sensors: Sequence[str]


def compare(
    directory: str | Path,
    batches: Sequence[int] = (1, 8, 32),
    keeps: Sequence[Keep] = (1.0, 0.7, 0.5, 0.35),
    options: SessionOptions | None = None,
    plan: Plan | None = None,
    bundle: str | Path | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Measure an export directory and return bench.json's content (``schemas/bench.json``).

    bundle: model.pt, to measure PyTorch instead of exported engines
    Raises VerificationError before any time is taken when outputs differ from the golden tensors, DataError,
    BudgetError, EngineError.
    """
    from tokfilter.runtime.comparison.document import document_from_comparison

    directory, plan, options = Path(directory), plan or Plan(), options or SessionOptions()
    if not batches or min(batches) < 1:
        raise DataError(f"a comparison wants batch sizes of 1 or more, got {list(batches)}.")
    manifest = load_manifest(directory)
    specs = specs_for(directory, manifest, keeps, options, None if bundle is None else Path(bundle))
    comparison = measure_cells(specs, sorted(set(batches)), plan, progress or (lambda what, share: None))
    return document_from_comparison(comparison, manifest, options, plan, command, torch=bundle is not None)


def measure_cells(
    specs: Mapping[int, EngineSpec], batches: Sequence[int], plan: Plan, progress: Progress
) -> Comparison:
    """Verify every engine at every batch and budget, then measure them batch by batch."""
    before, meter = conditions(), power_meter()
    cells: list[Cell] = []
    states: list[dict[str, Any]] = []
    with engines_open(list(specs.values())) as engines:
        verdicts = _verdicts(specs, engines, batches, progress)
        for i, batch in enumerate(batches):
            row = [Cell(spec, batch, tokens) for tokens, spec in specs.items()]
            run_rounds(row, engines, plan, _part(progress, f"batch {batch}", i, len(batches)))
            states.append(conditions())  # a machine that throttles under load stops doing so at once
            for cell in row:
                cell.memory = engines[cell.spec.path].memory()
                cell.power = _power(cell, engines[cell.spec.path], meter)
            cells += row
    return Comparison(verdicts, cells, before, _worst(states), meter.absent)


def _verdicts(
    specs: Mapping[int, EngineSpec], engines: Mapping[str, Engine], batches: Sequence[int], progress: Progress
) -> list[dict[str, Any]]:
    verdicts = []
    for batch in batches:
        for tokens, spec in specs.items():
            progress(f"verify {tokens} tokens, batch {batch}", 0.0)
            verdicts.append(engines[spec.path].verify(batch, tokens))
    return verdicts


def _part(progress: Progress, what: str, done: int, parts: int) -> Callable[[float], None]:
    """Progress of one of several equal parts as progress of the whole."""
    return lambda share: progress(what, (done + share) / parts)


def _worst(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last state, throttled if any was."""
    known = [state["throttled"] for state in states if state["throttled"] is not None]
    reasons = sorted({reason for state in states for reason in state["throttle_reasons"]})
    return {**states[-1], "throttled": any(known) if known else None, "throttle_reasons": reasons}


def run_rounds(
    cells: Sequence[Cell], engines: Mapping[str, Engine], plan: Plan, progress: Callable[[float], None]
) -> None:
    """Warm every cell up, then append one block per round to each until all have had their seconds."""
    for cell in cells:
        if plan.warm_up_s > 0:
            engines[cell.spec.path].block(cell.batch, cell.tokens, plan.warm_up_s)
    total = plan.duration_s * len(cells)
    start, rounds = perf_counter(), 0
    while rounds < _MIN_ROUNDS or perf_counter() - start < total:
        for cell in cells if rounds % 2 == 0 else reversed(cells):
            cell.blocks.append(engines[cell.spec.path].block(cell.batch, cell.tokens, plan.block_s))
        rounds += 1
        progress(min(1.0, (perf_counter() - start) / total))


def _power(cell: Cell, engine: Engine, meter: PowerMeter) -> dict[str, dict[str, float]] | None:
    """Power of a row in a run of its own: energy counters move too slowly for the blocks of a round."""
    if not meter.present:
        return None
    with meter.measure() as energy:
        block = engine.block(cell.batch, cell.tokens, _POWER_S)
    images = cell.batch * (energy.seconds / (float(np.mean(block.samples_ms)) / 1e3))
    return {
        "joules_per_image": {name: joules / images for name, joules in energy.joules.items()},
        "watts": energy.watts,
    }
