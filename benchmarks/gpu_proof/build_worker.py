"""Builds one engine, in TensorRT's Python."""

from pathlib import Path
from typing import Any

from tokfilter.benchmarks.gpu_proof.worker import answer
from tokfilter.trt.build import BuildOptions, build_engine

__all__ = ["build"]


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the target of the engine for the manifest. Raises MissingDependencyError, EngineError."""
    options = BuildOptions(
        batch=tuple(request["batch"]),
        budget=tuple(request["budget"]),
        precision=request["precision"],
        fp32_layers=tuple(request["fp32_layers"]),
        plugin=None if request["plugin"] is None else Path(request["plugin"]),
        timing_cache=Path(request["timing_cache"]),
        detailed=True,
    )
    return {"target": build_engine("tensorrt", Path(request["graph"]), Path(request["plan"]), options)}


if __name__ == "__main__":
    answer(build)
