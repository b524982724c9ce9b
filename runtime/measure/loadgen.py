"""The four MLPerf scenarios driven by MLCommons' own load generator (``pip install mlcommons-loadgen``).

The load generator issues the queries, takes the statistics and decides whether a run is valid. Its wheels are for
x86-64 only, so the built-in loops (``measure.latency``, ``measure.throughput``) serve every other machine.
"""

import queue
import tempfile
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.errors import DataError, EngineError, MissingDependencyError
from tokfilter.runtime.measure.metrics import latency_from_samples
from tokfilter.runtime.measure.scenario import MULTI_STREAM_SAMPLES, SCENARIOS, ScenarioConfig, ScenarioResult
from tokfilter.runtime.session import Array, Session

__all__ = ["run_loadgen"]

# Scenario -> name in mlperf_log_summary.txt, our name of the metric, factor from its unit to ours.
_METRICS: Final = {
    "SingleStream": ("90.0th percentile latency (ns)", "90th percentile latency (ms)", 1e-6),
    "MultiStream": ("99.0th percentile latency (ns)", "99th percentile latency (ms)", 1e-6),
    "Offline": ("Samples per second", "samples per second", 1.0),
    "Server": ("Completed samples per second", "completed samples per second", 1.0),
}


def run_loadgen(
    session: Session, images: Array, scenario: str, config: ScenarioConfig, keep: Keep | None = None
) -> ScenarioResult:
    """Run one scenario.

    images: [N, 3, H, W], the sample library
    scenario: MLPerf's name of it
    Raises DataError, MissingDependencyError without the package, and the session's own errors.
    """
    loadgen = _loadgen()
    if scenario not in SCENARIOS.values():
        raise DataError(f"a scenario is one of {', '.join(SCENARIOS.values())}, got {scenario!r}.")
    sut = _SystemUnderTest(loadgen, session, images, keep, scenario, config.batch)
    for size in _sizes(scenario, config.batch):
        session.run(sut.images_at(range(size)), keep)
    with tempfile.TemporaryDirectory(prefix="tokfilter-loadgen-") as folder:
        handle = loadgen.ConstructSUT(sut.issue, lambda: None)
        library = loadgen.ConstructQSL(len(images), len(images), lambda _: None, lambda _: None)
        start = perf_counter()
        try:
            with sut:
                settings = _settings(loadgen, scenario, config)
                loadgen.StartTestWithLogSettings(handle, library, settings, _logs(loadgen, folder))
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(handle)
        seconds = perf_counter() - start
        sut.raise_failure()
        summary = _summary((Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8"))
    return _result(scenario, config, summary, sut, seconds)


class _SystemUnderTest:
    """MLPerf's system under test: runs queries in the caller's thread, or in a thread of its own for Server."""

    def __init__(
        self, loadgen: Any, session: Session, images: Array, keep: Keep | None, scenario: str, max_batch: int
    ) -> None:
        self.samples_ms: list[float] = []
        self._loadgen, self._session, self._images, self._keep = loadgen, session, images, keep
        self._scenario, self._max_batch = scenario, max_batch
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, daemon=True)

    def __enter__(self) -> "_SystemUnderTest":
        if self._scenario == "Server":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._scenario == "Server":
            self._waiting.put(None)
            self._thread.join()

    def images_at(self, positions: Sequence[int]) -> Array:
        """Images of the library, as one batch."""
        return np.ascontiguousarray(self._images[np.asarray(positions) % len(self._images)])

    def raise_failure(self) -> None:
        """Raise the first error of a query: an exception must not pass through the load generator's C++."""
        if self._failure is not None:
            raise self._failure

    def issue(self, samples: Sequence[Any]) -> None:
        """Called by the load generator with the samples of one query."""
        issued = [(sample, perf_counter()) for sample in samples]
        if self._scenario == "Server":
            for item in issued:
                self._waiting.put(item)
            return
        size = self._max_batch if self._scenario == "Offline" else len(samples)
        for i in range(0, len(issued), size):
            self._run(issued[i : i + size])

    def _drain(self) -> None:
        open_ = True
        while open_:
            items = [self._waiting.get()]
            while len(items) < self._max_batch and not self._waiting.empty():
                items.append(self._waiting.get())
            issued = [item for item in items if item is not None]
            open_ = len(issued) == len(items)
            if issued:
                self._run(issued)

    def _run(self, issued: Sequence[tuple[Any, float]]) -> None:
        samples = [sample for sample, _ in issued]
        if self._failure is None:
            try:
                self._session.run(self.images_at([s.index for s in samples]), self._keep)
            except BaseException as error:
                self._failure = error
        now = perf_counter()
        counted = issued[:1] if self._scenario == "MultiStream" else issued
        self.samples_ms += [(now - moment) * 1e3 for _, moment in counted]
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(s.id, 0, 0) for s in samples])


def _sizes(scenario: str, batch: int) -> Sequence[int]:
    """Images of the runs that a scenario may make: the first run of a shape takes longer. Small ones last."""
    if scenario in ("SingleStream", "MultiStream"):
        return (1,) if scenario == "SingleStream" else (MULTI_STREAM_SAMPLES,)
    return range(batch, 0, -1)


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingDependencyError(
            "MLCommons' load generator is not installed: pip install mlcommons-loadgen, or leave --loadgen out."
        ) from error
    return mlperf_loadgen


def _settings(loadgen: Any, scenario: str, config: ScenarioConfig) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(config.duration_s * 1000)
    settings.min_query_count = 1 if scenario == "Offline" else 10
    settings.multi_stream_samples_per_query = MULTI_STREAM_SAMPLES
    settings.offline_expected_qps = config.qps
    settings.server_target_qps = config.qps
    settings.server_target_latency_ns = round(config.latency_bound_ms * 1e6)
    return settings


def _logs(loadgen: Any, folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    logs = loadgen.LogSettings()
    logs.log_output = output
    logs.enable_trace = False
    return logs


def _summary(text: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _result(
    scenario: str, config: ScenarioConfig, summary: dict[str, str], sut: _SystemUnderTest, seconds: float
) -> ScenarioResult:
    written, metric, scale = _METRICS[scenario]
    if written not in summary:
        raise EngineError(f"the load generator wrote no {written!r}; its summary holds {sorted(summary)[:8]}.")
    value = float(summary[written]) * scale
    per_query = MULTI_STREAM_SAMPLES if scenario == "MultiStream" else 1
    is_rate = scenario in ("Offline", "Server")
    latency = latency_from_samples(sut.samples_ms)
    return ScenarioResult(
        scenario=scenario,
        source=f"mlcommons-loadgen {version('mlcommons-loadgen')}",
        metric=metric,
        value=value,
        latency=latency,
        queries=len(sut.samples_ms),
        images_per_query=per_query,
        seconds=seconds,
        images_per_s=value if is_rate else per_query * len(sut.samples_ms) / seconds,
        valid=summary.get("Result is") == "VALID",
        notes=(
            f"result of the load generator: {summary.get('Result is', 'none')}",
            f"minimum duration {config.duration_s:g} s",
        ),
    )
