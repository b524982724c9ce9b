"""Build the engines of an export and describe each for the manifest."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from tokfilter.artifacts.manifest import Entry, Manifest, entry_from_file
from tokfilter.errors import MissingDependencyError
from tokfilter.export.engine_gate import EngineCheck, EngineGate
from tokfilter.export.options import ExportOptions
from tokfilter.kernels.build import plugin_path
from tokfilter.trt.build import BuildOptions, build_engine
from tokfilter.trt.module import EngineKind, tensorrt_module
from tokfilter.trt.versions import SINCE, supports

__all__ = ["TIMING_CACHE", "engines_from_graphs"]

TIMING_CACHE: Final = "timing.cache"
_SUFFIXES: Final[dict[EngineKind, str]] = {"tensorrt": ".plan", "tensorrt-rtx": ".rtx.plan"}


def engines_from_graphs(
    folder: Path,
    manifest: Manifest,
    graphs: Sequence[Entry],
    options: ExportOptions,
    progress: Callable[[str], None],
    check: EngineCheck | None = None,
) -> Iterator[Entry]:
    """Build an engine from each graph in ``folder``, and compare it; yields entries of engines, plugin, timing cache.

    An entry that is yielded again replaces the first.

    manifest: of the export; its golden tensors are in ``folder`` too
    check: how an engine is compared with them
    Raises MissingDependencyError, EngineError; entries yielded before whose files are there stay valid.
    VerificationError: an engine differs.
    """
    if options.rtx:
        gate = EngineGate(folder, manifest, options, check, progress)
        yield from _built("tensorrt-rtx", gate, graphs, None)
    if not options.trt:
        return
    tensorrt_module("tensorrt")  # where TensorRT is missing, that error comes before the plugin's
    manifest = replace(manifest, files=[item for item in manifest.files if item.role != "plugin"])
    plugin = _plugin(options)
    if plugin is not None and not options.version_compatible:
        shutil.copy2(plugin, folder / plugin.name)
        entry = entry_from_file(folder, plugin.name, "plugin", runtime="tensorrt")
        manifest = replace(manifest, files=[*manifest.files, entry])
        yield entry
    yield from _built("tensorrt", EngineGate(folder, manifest, options, check, progress), graphs, plugin)
    yield entry_from_file(folder, TIMING_CACHE, "timing-cache", runtime="tensorrt")


def _plugin(options: ExportOptions) -> Path | None:
    if not options.plugin:
        return None
    try:
        return options.plugin_library or plugin_path()
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error} Or build from native ops: --no-plugin.") from error


def _built(kind: EngineKind, gate: EngineGate, graphs: Sequence[Entry], plugin: Path | None) -> Iterator[Entry]:
    folder, options, card = gate.folder, gate.options, gate.manifest.model
    budget = options.budget_profile(card.num_patches, card.keep)
    for graph in graphs:
        name = f"{graph.path.removesuffix('.onnx')}{_SUFFIXES[kind]}"
        options_of_build = BuildOptions(
            batch=options.batch_range,
            budget=budget,
            plugin=plugin if graph.role == "filtered" else None,
            workspace=options.workspace,
            timing_cache=folder / TIMING_CACHE,
            version_compatible=options.version_compatible,
            hardware=options.hardware,
            compute_capabilities=options.compute_capabilities,
        )

        def build(
            fp32: Sequence[str], graph: Entry = graph, name: str = name, build: BuildOptions = options_of_build
        ) -> Entry:
            gate.progress(f"building {name}")
            with _graph_to_build(folder, graph, build.plugin, fp32) as source:
                target = build_engine(kind, source, folder / name, build)
            return entry_from_file(
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

        yield from gate.engines(graph, build)


@contextmanager
def _graph_to_build(folder: Path, graph: Entry, plugin: Path | None, fp32: Sequence[str]) -> Iterator[Path]:
    """The file of ``graph``, or a changed copy of it.

    Without model-local functions where TensorRT would take them instead of the plugin, and with the nodes ``fp32`` cast
    to it.
    """
    strip = plugin is not None and not supports(tensorrt_module("tensorrt"), "plugin preferred to function")
    if not strip and not fp32:
        yield folder / graph.path
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
    changed = load_graph(folder / graph.path)
    if fp32:
        from tokfilter.export.precision import with_fp32_nodes

        changed = with_fp32_nodes(changed, graph.precision or "fp16", fp32)
    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        copy = Path(scratch) / graph.path
        save_graph(without_functions(changed) if strip else changed, copy)
        yield copy
