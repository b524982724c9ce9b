"""Which engines an export builds, and how each is described in the manifest."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tokfilter.artifacts.manifest import Entry, ModelCard, entry_from_file
from tokfilter.errors import MissingDependencyError
from tokfilter.export.options import ExportOptions
from tokfilter.kernels.build import plugin_path
from tokfilter.trt.build import BuildOptions, EngineKind, engine_from_graph, tensorrt_module

__all__ = ["TIMING_CACHE", "engines_from_graphs"]

TIMING_CACHE: Final = "timing.cache"
_SUFFIXES: Final[dict[EngineKind, str]] = {"tensorrt": ".plan", "tensorrt-rtx": ".rtx.plan"}


def engines_from_graphs(
    folder: Path, graphs: Sequence[Entry], card: ModelCard, options: ExportOptions, say: Callable[[str], None]
) -> Iterator[Entry]:
    """Build an engine from each graph in ``folder``; yields entries for the engines and for what belongs to them.

    Raises MissingDependencyError, EngineError; what was yielded before stays valid.
    """
    if options.rtx:
        yield from _built("tensorrt-rtx", folder, graphs, card, options, None, say)
    if not options.trt:
        return
    tensorrt_module("tensorrt")  # a machine without TensorRT must not be told about the plugin first
    plugin = _plugin(options)
    if plugin is not None and not options.version_compatible:
        shutil.copy2(plugin, folder / plugin.name)
        yield entry_from_file(folder, plugin.name, "plugin", runtime="tensorrt")
    yield from _built("tensorrt", folder, graphs, card, options, plugin, say)
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
    say: Callable[[str], None],
) -> Iterator[Entry]:
    budget = options.budget_profile(card.num_patches, card.keep)
    for graph in graphs:
        name = f"{graph.path.removesuffix('.onnx')}{_SUFFIXES[kind]}"
        say(f"building {name}")
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
        target = engine_from_graph(kind, folder / graph.path, folder / name, build)
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
