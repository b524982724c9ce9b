"""The ONNX files that TensorRT reads, made in this Python: TensorRT's own may have neither onnx nor PyTorch."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.export.engines import PLUGIN_SUFFIX
from tokfilter.runtime.model_files import Role
from tokfilter.trt.build import BuildOptions
from tokfilter.trt.versions import way_of

__all__ = ["UNKNOWN", "engine_graph", "graphs_of", "int8_graphs_of", "tensorrt_version"]

UNKNOWN: Final = "10.16.0"
"""The version whose graphs a dry run makes where no TensorRT is installed."""


def graphs_of(settings: Settings, model: str) -> Path:
    """The export directory of a model."""
    return settings.work / "graphs" / model


def int8_graphs_of(settings: Settings, model: str) -> Path:
    """The export directory of a model in int8, which is calibrated when a step needs it."""
    return settings.work / "graphs" / f"{model}.int8"


def tensorrt_version(found: Any) -> str:
    """Such as "8.6.0", from what the machine has."""
    return str(found.get("tensorrt", {}).get("found", UNKNOWN)).split(",")[0]


def engine_graph(
    settings: Settings, version: str, model: str, role: Role, precision: str, plugin: bool
) -> tuple[Path, tuple[str, ...]]:
    """The graph for a version of TensorRT, and the nodes whose layers stay in fp32.

    Made once and kept in the export directory. Raises ExportError, EngineError for a version that is not supported.
    """
    module = SimpleNamespace(__name__="tensorrt", __version__=version)
    by_layers = way_of(module).precision == "layers"
    quantized = precision == "int8"
    source = "" if precision == "fp32" or (by_layers and not quantized) else f".{precision}"
    folder = (int8_graphs_of if quantized else graphs_of)(settings, model)
    # fp32 and fp16 engines of TensorRT 8 have one graph, with the names of the nodes that fp16 keeps in fp32.
    built = "fp32" if not by_layers else "int8" if quantized else "fp16"
    form = "full" if role == "full" else "model"
    made = folder / f"{form}{source}.{version}.{'plugin' if plugin else 'native'}.onnx"
    names = made.with_suffix(".json")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not names.is_file():
            # For TensorRT 8 the node is put back into the plain graph, as in export/engines.py.
            with_node = PLUGIN_SUFFIX if plugin and not by_layers else ""
            _make(module, folder / f"{form}{source}{with_node}.onnx", made, names, built, plugin)
    layers = tuple(json.loads(names.read_text(encoding="utf-8")))
    return made, () if precision == "fp32" else layers


def _make(module: Any, graph: Path, made: Path, names: Path, precision: str, plugin: bool) -> None:
    from tokfilter.export.engines import graph_to_build

    build = BuildOptions((1, 1, 1), (1, 1, 1), precision, plugin=graph if plugin else None)
    with graph_to_build(module, graph, build, ()) as (path, layers):
        made.unlink(missing_ok=True)
        if path == graph:
            os.link(graph, made)
        else:
            shutil.copyfile(path, made)
    names.write_text(json.dumps(layers), encoding="utf-8")
