"""The demo: every step on real data and a CPU, from scenes and training to export, benchmark and report."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.files import atomic_path
from tokfilter.benchmarks.page.build import write_page
from tokfilter.benchmarks.real_size import bench_at_real_size
from tokfilter.benchmarks.report.gallery import pictures_from_bundle, samples_from_folder
from tokfilter.benchmarks.report.render import render_report
from tokfilter.benchmarks.study.accuracy import BUDGETS, demo_study
from tokfilter.errors import MissingDependencyError
from tokfilter.export.pipeline import export_bundle
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.rounds import QUICK
from tokfilter.runtime.measure.record import write_json
from tokfilter.runtime.pictures import sheet_from_pictures
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.vit.bundle import load_bundle

__all__ = ["Demo", "run_demo"]

_BATCHES: Final = (1, 32)
_PICTURES: Final = 6
_SHOWN: Final = (0.5, 0.25)
"""Budgets of the picture of kept tokens."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Demo:
    """Results of the demo.

    seconds: wall time per stage
    accuracy, bench: the written documents
    real_size: bench-real-size.json, of a larger model with random weights
    no_page: why page/ was not written: ONNX Runtime Web could not be had; None where it was
    """

    folder: Path
    report: Path
    seconds: dict[str, float]
    accuracy: dict[str, Any]
    bench: dict[str, Any]
    real_size: dict[str, Any]
    no_page: str | None


def run_demo(folder: Path, seed: int, threads: int, progress: Progress, command: str) -> Demo:
    """Write data, model.pt, export/, accuracy.json, bench.json, bench-real-size.json, report.html,
    report.json, page/ and kept-tokens.png into ``folder``.

    threads: of ONNX Runtime during the benchmark
    Resumes after an interruption when called with the same seed. Raises TokfilterError.
    """
    clock = _Stopwatch()
    accuracy = demo_study(folder, seed, progress)
    clock.lap("data, training, baselines")
    export_bundle(folder / "model.pt", folder / "export", progress=lambda what: progress(f"export: {what}", 0.0))
    clock.lap("export and verification")
    options = SessionOptions(threads=threads)
    bench = compare(folder / "export", _BATCHES, BUDGETS, options, QUICK, progress=progress, command=command)
    write_json(folder / "bench.json", bench)
    clock.lap("measurement")
    real_size = bench_at_real_size(folder, threads, progress, command)
    write_json(folder / "bench-real-size.json", real_size)
    clock.lap("measurement at a real size")
    bundle = load_bundle(folder / "model.pt")
    samples = samples_from_folder(folder / "data" / "test", bundle.class_names, _PICTURES, seed)
    report = folder / "report.html"
    pictures = pictures_from_bundle(bundle, samples, BUDGETS)
    render_report(accuracy, bench, pictures, report, real_size=real_size)
    patches = bundle.golden.scores.shape[1]
    with atomic_path(folder / "kept-tokens.png") as part:
        sheet_from_pictures(pictures, [tokens_from_keep(keep, patches) for keep in _SHOWN]).save(part, format="PNG")
    clock.lap("report")
    progress("page", 0.0)
    no_page = _write_page(folder)
    clock.lap("page")
    with atomic_path(folder / "seconds.json") as part:
        part.write_text(json.dumps(clock.seconds, indent=2) + "\n", encoding="utf-8")
    return Demo(folder, report, clock.seconds, accuracy, bench, real_size, no_page)


def _write_page(folder: Path) -> str | None:
    """Write page/; the reason where a package for it cannot be had, which is no failure of the demo."""
    try:
        write_page(folder / "export", folder / "page", folder / "data" / "test")
    except MissingDependencyError as error:
        return str(error)
    return None


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.seconds[name] = round(now - self._last, 1)
        self._last = now
