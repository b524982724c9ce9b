"""Interleaved rounds of latency blocks: verify every engine, then measure full and filtered in turn.

Each round gives every engine one short block, in forward and backward order alternately, so that clock drift affects
all engines alike. A speed-up is the median over rounds of the ratio within a round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter
from typing import Any, Final, Protocol

import numpy as np

from tokfilter.errors import DataError
from tokfilter.runtime.comparison.processes import Block, EngineProcess, EngineSpec, engines_open
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.power import PowerMeter, power_meter
from tokfilter.runtime.session import Timing

__all__ = ["QUICK", "BenchConfig", "Cell", "Measurements", "Progress", "Timed", "measure_cells", "run_rounds"]

_MIN_ROUNDS: Final = 5
_POWER_S: Final = 2.0
"""Seconds per row for power alone: NVML's counter is updated only every 20 to 100 ms."""

Progress = Callable[[str, float], None]
"""Called with the current step and the completed fraction, 0 to 1."""


@dataclass(frozen=True)
class BenchConfig:
    """Duration of a measurement, and the seed of its bootstrap.

    duration_s: measured seconds per row (trtexec's default is 3)
    warm_up_s: untimed seconds per row before that
    block_s: seconds that one engine runs before the next one does
    """

    duration_s: float = 3.0
    warm_up_s: float = 0.5
    block_s: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        finite = all(map(isfinite, (self.duration_s, self.block_s, self.warm_up_s)))
        if not finite or min(self.duration_s, self.block_s) <= 0 or self.warm_up_s < 0:
            raise DataError(f"a measurement requires positive, finite seconds, got {self}.")

    @classmethod
    def of_duration(cls, duration_s: float, warm_up_s: float, block_s: float) -> "BenchConfig":
        """A configuration whose blocks are shorter where the least number of rounds would exceed the duration."""
        return cls(duration_s, warm_up_s, min(block_s, duration_s / _MIN_ROUNDS))


QUICK: Final = BenchConfig(duration_s=1.0, warm_up_s=0.2, block_s=0.1)
"""A third of the time, with wider intervals."""


@dataclass
class Cell:
    """Measurements of one engine at one batch size and budget: one block per round, memory, power."""

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

    @property
    def timings(self) -> list[Timing]:
        """Stages of all queries on a GPU; empty on a CPU."""
        return [Timing(*t) for block in self.blocks for t in block.timings or ()]

    @property
    def compute_medians(self) -> list[float]:
        """Median compute time of each round between device events, milliseconds; empty on a CPU."""
        return [float(np.median([Timing(*t).compute_ms for t in b.timings])) for b in self.blocks if b.timings]


@dataclass(frozen=True)
class Measurements:
    """All results of a comparison; ``comparison.document`` writes them as bench.json.

    verdicts: one verification per engine, batch size and budget
    before, after: state of the machine
    others: cells of the engines that these are compared with
    further: cells of each further engine that runs the same budgets, in their order
    """

    verdicts: list[dict[str, Any]]
    cells: list[Cell]
    before: dict[str, Any]
    after: dict[str, Any]
    absent_sensors: Sequence[str]
    others: list[Cell] = field(default_factory=list)
    further: list[list[Cell]] = field(default_factory=list)


def measure_cells(
    specs: Mapping[int, EngineSpec],
    batches: Sequence[int],
    config: BenchConfig,
    progress: Progress,
    others: Sequence[EngineSpec] = (),
    further: Sequence[Mapping[int, EngineSpec]] = (),
) -> Measurements:
    """Verify every engine at every batch size and budget, then measure them batch by batch.

    specs: budget in tokens -> its engine
    others: engines that keep every token, measured in the same rounds
    further: as ``specs``, of further engines; their keys differ from those of ``specs``
    """
    before, meter = conditions(), power_meter()
    cells: list[Cell] = []
    states: list[dict[str, Any]] = []
    asked = [(spec, tokens) for engine in (specs, *further) for tokens, spec in engine.items()]
    asked += [(spec, max(specs)) for spec in others]
    with engines_open([spec for spec, _ in asked]) as engines:
        verdicts = _verdicts(asked, engines, batches, progress)
        for i, batch in enumerate(batches):
            row = [Cell(spec, batch, tokens) for spec, tokens in asked]
            run_rounds(row, engines, config, _part(progress, f"batch {batch}", i, len(batches)))
            states.append(conditions())  # throttling ends as soon as the load does
            for cell in row:
                cell.memory = engines[cell.spec.key].memory()
                cell.power = _power(cell, engines[cell.spec.key], meter)
            cells += row

    def of(keys: set[str]) -> list[Cell]:
        return [cell for cell in cells if cell.spec.key in keys]

    ours, *rest = (of({spec.key for spec in engine.values()}) for engine in (specs, *further))
    others_cells = of({spec.key for spec in others})
    return Measurements(verdicts, ours, before, _worst(states), meter.absent, others_cells, rest)


class Timed(Protocol):
    """What is measured in turn, such as an ``EngineProcess``."""

    def block(self, batch: int, tokens: int, seconds: float) -> Block:
        """Run for ``seconds``."""
        ...


def run_rounds(
    cells: Sequence[Cell], engines: Mapping[str, Timed], config: BenchConfig, progress: Callable[[float], None]
) -> None:
    """Warm up every cell, then append one block per round to each until all have been measured for their duration."""
    for cell in cells:
        if config.warm_up_s > 0:
            engines[cell.spec.key].block(cell.batch, cell.tokens, config.warm_up_s)
    total = config.duration_s * len(cells)
    start, rounds = perf_counter(), 0
    while rounds < _MIN_ROUNDS or perf_counter() - start < total:
        for cell in cells if rounds % 2 == 0 else reversed(cells):
            cell.blocks.append(engines[cell.spec.key].block(cell.batch, cell.tokens, config.block_s))
        rounds += 1
        progress(min(1.0, (perf_counter() - start) / total))


def _verdicts(
    asked: Sequence[tuple[EngineSpec, int]],
    engines: Mapping[str, EngineProcess],
    batches: Sequence[int],
    progress: Progress,
) -> list[dict[str, Any]]:
    verdicts = []
    for batch in batches:
        for spec, tokens in asked:
            progress(f"verify {tokens} tokens, batch {batch}", 0.0)
            verdicts.append(engines[spec.key].verify(batch, tokens))
    return verdicts


def _part(progress: Progress, what: str, done: int, parts: int) -> Callable[[float], None]:
    """Progress of one of several equal parts as progress of the whole."""
    return lambda fraction: progress(what, (done + fraction) / parts)


def _worst(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last state, marked as throttled if any state was."""
    known = [state["throttled"] for state in states if state["throttled"] is not None]
    reasons = sorted({reason for state in states for reason in state["throttle_reasons"]})
    return {**states[-1], "throttled": any(known) if known else None, "throttle_reasons": reasons}


def _power(cell: Cell, engine: EngineProcess, meter: PowerMeter) -> dict[str, dict[str, float]] | None:
    """Power of a row, in a run of its own: energy counters are updated too seldom for the blocks of a round."""
    if not meter.present:
        return None
    with meter.measure() as energy:
        block = engine.block(cell.batch, cell.tokens, _POWER_S)
    images = cell.batch * (energy.seconds / (float(np.mean(block.samples_ms)) / 1e3))
    return {
        "joules_per_image": {name: joules / images for name, joules in energy.joules.items()},
        "watts": energy.watts,
    }
