"""Speed at the size of models in use: ``deit_small_patch16_224`` with random weights, for the demo's report.

The demo's own model is so small that a call of ONNX Runtime costs as much as its layers. Time does not depend on the
values of weights, so nothing is downloaded; an accuracy does not exist.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tokfilter.benchmarks.runtime_figures import random_bundle
from tokfilter.export.pipeline import export_bundle
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.rounds import QUICK, BenchConfig, Progress
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["ARCHITECTURE", "bench_at_real_size"]

ARCHITECTURE: Final = "deit_small_patch16_224"
_BATCHES: Final = (1, 8)
_KEEPS: Final = (1.0, 0.5)


def bench_at_real_size(
    folder: Path,
    threads: int,
    progress: Progress,
    command: str,
    architecture: str = ARCHITECTURE,
    config: BenchConfig = QUICK,
) -> dict[str, Any]:
    """Export a model with random weights, measure it with all and with half of its tokens, and return bench.json.

    folder: for the model and its graphs, which are deleted afterwards
    threads: of ONNX Runtime
    Raises TokfilterError.
    """
    with TemporaryDirectory(prefix=".real-size-", dir=folder) as name:
        bundle, export = Path(name) / "model.pt", Path(name) / "export"
        random_bundle(architecture, bundle)
        export_bundle(bundle, export, progress=lambda what: progress(f"{architecture}: {what}", 0.0))
        options = SessionOptions(threads=threads)
        return compare(export, _BATCHES, _KEEPS, options, config, progress, command)
