"""Build the engines of an export and describe each for the manifest."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tokfilter.artifacts.manifest import Entry, ModelCard, entry_from_file
from tokfilter.errors import MissingDependencyError
from tokfilter.export.options import ExportOptions
from tokfilter.kernels.build import plugin_path
from tokfilter.trt.build import BuildOptions, build_engine
from tokfilter.trt.module import EngineKind, tensorrt_module
from tokfilter.trt.versions import SINCE, supports

__all__ = ["TIMING_CACHE", "engines_from_graphs"]

TIMING_CACHE: Final = "timing.cache"
_SUFFIXES: Final[dict[EngineKind, str]] = {"tensorrt": ".plan", "tensorrt-rtx": ".rtx.plan"}


def engines_from_graphs(
    folder: Path, graphs: Sequence[Entry], card: ModelCard, options: ExportOptions, progress: Callable[[str], None]
) -> Iterator[Entry]:
    """Build an engine from each graph in ``folder``; yields entries of the engines, plugin and timing cache.

    Raises MissingDependencyError, EngineError; entries yielded before stay valid.
    """
    if options.rtx:
        yield from _built("tensorrt-rtx", folder, graphs, card, options, None, progress)
    if not options.trt:
        return
    tensorrt_module("tensorrt")  # where TensorRT is missing, that error comes before the plugin's
    plugin = _plugin(options)
    if plugin is not None and not options.version_compatible:
        shutil.copy2(plugin, folder / plugin.name)
        yield entry_from_file(folder, plugin.name, "plugin", runtime="tensorrt")
    yield from _built("tensorrt", folder, graphs, card, options, plugin, progress)
    yield entry_from_file(folder, TIMING_CACHE, "timing-cache", runtime="tensorrt")


def _plugin(options: ExportOptions) -> Path | None:
    if not options.plugin:
        return None
    try:
        return options.plugin_library or plugin_path()
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error} Or build from native ops: --no-plugin.") from error


def _built(
    kind: EngineKind,
    folder: Path,
    graphs: Sequence[Entry],
    card: ModelCard,
    options: ExportOptions,
    plugin: Path | None,
    progress: Callable[[str], None],
) -> Iterator[Entry]:
    budget = options.budget_profile(card.num_patches, card.keep)
    for graph in graphs:
        name = f"{graph.path.removesuffix('.onnx')}{_SUFFIXES[kind]}"
        progress(f"building {name}")
        build = BuildOptions(
            batch=options.batch_range,
            budget=budget,
            plugin=plugin if graph.role == "filtered" else None,
            workspace=options.workspace,
            timing_cache=folder / TIMING_CACHE,
            version_compatible=options.version_compatible,
            hardware=options.hardware,
            compute_capabilities=options.compute_capabilities,
        )
        with _graph_for_plugin(folder / graph.path, build.plugin) as source:
            target = build_engine(kind, source, folder / name, build)
        yield entry_from_file(
            folder,
            name,
            graph.role,
            runtime=kind,
            precision=graph.precision,
            budget=graph.budget,
            batch_range=options.batch_range,
            budget_range=budget if graph.role == "filtered" and graph.budget is None else None,
            target=target,
        )


@contextmanager
def _graph_for_plugin(graph: Path, plugin: Path | None) -> Iterator[Path]:
    """``graph``, or a copy without model-local functions where TensorRT would take them instead of the plugin."""
    if plugin is None or supports(tensorrt_module("tensorrt"), "plugin preferred to function"):
        yield graph
        return
    try:
        from tokfilter.export.functions import without_functions
        from tokfilter.export.onnx_file import load_graph, save_graph
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"TensorRT before {'.'.join(map(str, SINCE['plugin preferred to function']))} takes a graph's function "
            f"instead of the plugin. Removing the function needs the package {error.name}: pip install onnx-ir, or "
            "build from native ops with --no-plugin."
        ) from error
    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        stripped = Path(scratch) / graph.name
        save_graph(without_functions(load_graph(graph)), stripped)
        yield stripped
