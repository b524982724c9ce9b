"""The four MLPerf scenarios driven by MLCommons' own load generator (``pip install mlcommons-loadgen``).

The load generator decides when queries come, what counts and whether a run is valid; this module only answers.
"""

import queue
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.errors import DataError, EngineError, MissingDependencyError
from tokfilter.runtime.measure.latency import MULTI_STREAM_SAMPLES, ScenarioResult
from tokfilter.runtime.measure.metrics import latency_from_samples
from tokfilter.runtime.session import Array, Session

__all__ = ["SCENARIOS", "Load", "run_loadgen"]

SCENARIOS: Final = ("SingleStream", "MultiStream", "Offline", "Server")

# Name in mlperf_log_summary.txt -> our name of the scenario's metric, and what turns its unit into ours.
_METRICS: Final = {
    "SingleStream": ("90.0th percentile latency (ns)", "90th percentile latency (ms)", 1e-6),
    "MultiStream": ("99.0th percentile latency (ns)", "99th percentile latency (ms)", 1e-6),
    "Offline": ("Samples per second", "samples per second", 1.0),
    "Server": ("Completed samples per second", "completed samples per second", 1.0),
}


@dataclass(frozen=True)
class Load:
    """What to ask of the load generator.

    duration_s: least duration; MLPerf asks for 600
    batch: largest number of images run together (Offline, Server)
    qps, latency_bound_ms: of Server; qps is also what Offline is expected to reach
    """

    scenario: str
    duration_s: float = 3.0
    batch: int = 8
    qps: float = 10.0
    latency_bound_ms: float = 100.0


def run_loadgen(session: Session, images: Array, load: Load, keep: Keep | None = None) -> ScenarioResult:
    """Run one scenario. images: [N, 3, H, W], the sample library.

    Raises MissingDependencyError without the package, and what the session raises.
    """
    loadgen = _loadgen()
    if load.scenario not in SCENARIOS:
        raise DataError(f"a scenario is one of {', '.join(SCENARIOS)}, got {load.scenario!r}.")
    answerer = _Answerer(loadgen, session, images, keep, load)
    session.run(answerer.images_of([0]), keep)
    with tempfile.TemporaryDirectory(prefix="tokfilter-loadgen-") as folder:
        sut = loadgen.ConstructSUT(answerer.issue, lambda: None)
        library = loadgen.ConstructQSL(len(images), len(images), lambda _: None, lambda _: None)
        start = perf_counter()
        try:
            with answerer:
                loadgen.StartTestWithLogSettings(sut, library, _settings(loadgen, load), _logs(loadgen, folder))
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(sut)
        seconds = perf_counter() - start
        answerer.raise_failure()
        summary = _summary((Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8"))
    return _result(load, summary, answerer, seconds)


class _Answerer:
    """The system under test: runs queries at once, or in a thread of its own where arrivals must not wait (Server)."""

    def __init__(self, loadgen: Any, session: Session, images: Array, keep: Keep | None, load: Load) -> None:
        self.samples_ms: list[float] = []
        self._loadgen, self._session, self._images, self._keep, self._load = loadgen, session, images, keep, load
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, daemon=True)

    def __enter__(self) -> "_Answerer":
        if self._load.scenario == "Server":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._load.scenario == "Server":
            self._waiting.put(None)
            self._thread.join()

    def images_of(self, positions: Sequence[int]) -> Array:
        """Images of the library, as one batch."""
        return np.ascontiguousarray(self._images[np.asarray(positions) % len(self._images)])

    def raise_failure(self) -> None:
        """Raise what a query raised: an exception must not cross the load generator's C++."""
        if self._failure is not None:
            raise self._failure

    def issue(self, samples: Sequence[Any]) -> None:
        """Called by the load generator with the samples of one query."""
        issued = [(sample, perf_counter()) for sample in samples]
        if self._load.scenario == "Server":
            for item in issued:
                self._waiting.put(item)
            return
        size = self._load.batch if self._load.scenario == "Offline" else len(samples)
        for i in range(0, len(issued), size):
            self._answer(issued[i : i + size])

    def _drain(self) -> None:
        going_on = True
        while going_on:
            items = [self._waiting.get()]
            while len(items) < self._load.batch and not self._waiting.empty():
                items.append(self._waiting.get())
            issued = [item for item in items if item is not None]
            going_on = len(issued) == len(items)
            if issued:
                self._answer(issued)

    def _answer(self, issued: Sequence[tuple[Any, float]]) -> None:
        samples = [sample for sample, _ in issued]
        if self._failure is None:
            try:
                self._session.run(self.images_of([s.index for s in samples]), self._keep)
            except BaseException as error:
                self._failure = error
        now = perf_counter()
        counted = issued[:1] if self._load.scenario == "MultiStream" else issued
        self.samples_ms += [(now - moment) * 1e3 for _, moment in counted]
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(s.id, 0, 0) for s in samples])


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingDependencyError(
            "MLCommons' load generator is not installed: pip install mlcommons-loadgen, or leave --loadgen out."
        ) from error
    return mlperf_loadgen


def _settings(loadgen: Any, load: Load) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, load.scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(load.duration_s * 1000)
    settings.min_query_count = 1 if load.scenario == "Offline" else 10
    settings.multi_stream_samples_per_query = MULTI_STREAM_SAMPLES
    settings.offline_expected_qps = load.qps
    settings.server_target_qps = load.qps
    settings.server_target_latency_ns = round(load.latency_bound_ms * 1e6)
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


def _result(load: Load, summary: dict[str, str], answerer: _Answerer, seconds: float) -> ScenarioResult:
    written, metric, scale = _METRICS[load.scenario]
    if written not in summary:
        raise EngineError(f"the load generator wrote no {written!r}; its summary holds {sorted(summary)[:8]}.")
    value = float(summary[written]) * scale
    per_query = MULTI_STREAM_SAMPLES if load.scenario == "MultiStream" else 1
    in_rate = load.scenario in ("Offline", "Server")
    latency = latency_from_samples(answerer.samples_ms)
    return ScenarioResult(
        scenario=load.scenario,
        source=f"mlcommons-loadgen {version('mlcommons-loadgen')}",
        metric=metric,
        value=value,
        latency=latency,
        queries=len(answerer.samples_ms),
        images_per_query=per_query,
        seconds=seconds,
        images_per_s=value if in_rate else per_query * len(answerer.samples_ms) / seconds,
        valid=summary.get("Result is") == "VALID",
        notes=(
            f"the load generator says {summary.get('Result is', 'nothing')}",
            f"least duration {load.duration_s:g} s",
        ),
    )
