"""Build the engines of an export and describe each for the manifest."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.manifest import Entry, Manifest, Range, entry_from_file
from tokfilter.errors import EngineError, ExportError, MissingDependencyError
from tokfilter.export.engine_gate import EngineCheck, EngineGate
from tokfilter.export.options import ExportOptions, Precision
from tokfilter.kernels.build import plugin_path
from tokfilter.trt.build import BuildOptions, build_engine, check_precision
from tokfilter.trt.module import EngineKind, name_and_version, tensorrt_module
from tokfilter.trt.versions import MAX_TOPK, supports, way_of

__all__ = ["PLUGIN_SUFFIX", "TIMING_CACHE", "engines_from_graphs", "graph_to_build", "no_graph"]

TIMING_CACHE: Final = "timing.cache"
PLUGIN_SUFFIX: Final = ".plugin"
"""In the names of graphs with the node TokenSelect, before ``.onnx``."""

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
    graphs: plain ones, and those with the node TokenSelect, from which TensorRT builds where it has the plugin
    check: how an engine is compared with them
    Raises MissingDependencyError, EngineError; entries yielded before whose files are there stay valid.
    VerificationError: an engine differs.
    """
    if options.rtx:
        gate = EngineGate(folder, manifest, options, check, progress)
        yield from _built("tensorrt-rtx", gate, _for_plugin(graphs, None), None)
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
    gate = EngineGate(folder, manifest, options, check, progress)
    yield from _built("tensorrt", gate, _for_plugin(graphs, plugin), plugin)
    yield entry_from_file(folder, TIMING_CACHE, "timing-cache", runtime="tensorrt")


def _for_plugin(graphs: Sequence[Entry], plugin: Path | None) -> list[Entry]:
    """The graphs to build from: with a plugin the one with the node in the place of a plain one, where there is one.

    Older exports have the node in the graph itself. For TensorRT 8 the node is put back into the plain graph: fp16 is
    built from fp32 graphs there, and in those with the node of older exports the last block computes every row, in the
    full and plain ones only that of the class token.
    """
    if plugin is not None and way_of(tensorrt_module("tensorrt")).graph != "typed":
        plugin = None
    with_node = {(e.precision, e.budget): e for e in graphs if e.runtime == "onnx-plugin"}
    plain = [entry for entry in graphs if entry.runtime == "onnx"]
    if plugin is None:
        return plain
    return [with_node.get((e.precision, e.budget), e) if e.role == "filtered" else e for e in plain]


def _plugin(options: ExportOptions) -> Path | None:
    if not options.plugin:
        return None
    try:
        return options.plugin_library or plugin_path()
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error} Or build from native ops: --no-plugin.") from error


def _built(kind: EngineKind, gate: EngineGate, graphs: Sequence[Entry], plugin: Path | None) -> Iterator[Entry]:
    folder, options, card = gate.folder, gate.options, gate.manifest.model
    module = tensorrt_module(kind)
    for graph, precision in _sources(module, graphs, options):
        budget = options.budget_profile(card.num_patches, card.keep, graph.budget_range)
        if options.budget_range is None and precision != "fp32" and way_of(module).precision == "layers":
            # TensorRT 8.6 has no fp16 kernels for a range of tokens (docs/gpu.md): the engine serves one budget.
            budget = (budget[1], budget[1], budget[1])
        name = _plan_name(kind, graph, precision)
        options_of_build = BuildOptions(
            batch=options.batch_range,
            budget=budget,
            precision=precision,
            plugin=plugin if graph.role == "filtered" else None,
            workspace=options.workspace,
            timing_cache=folder / TIMING_CACHE,
            version_compatible=options.version_compatible,
            hardware=options.hardware,
            compute_capabilities=options.compute_capabilities,
        )
        if graph.role == "filtered" and options_of_build.plugin is None and kind == "tensorrt":
            _check_budget(module, graph.budget or budget[2])

        def build(
            fp32: Sequence[str],
            graph: Entry = graph,
            name: str = name,
            build: BuildOptions = options_of_build,
            budget: Range = budget,
        ) -> Entry:
            gate.progress(f"building {name}")
            with graph_to_build(module, folder / graph.path, build, fp32) as (source, layers):
                target = build_engine(kind, source, folder / name, replace(build, fp32_layers=layers))
            return entry_from_file(
                folder,
                name,
                graph.role,
                runtime=kind,
                precision=build.precision,
                budget=graph.budget,
                batch_range=options.batch_range,
                budget_range=budget if graph.role == "filtered" and graph.budget is None else None,
                target=target,
            )

        yield from gate.engines(replace(graph, precision=precision), build)


def _sources(module: Any, graphs: Sequence[Entry], options: ExportOptions) -> list[tuple[Entry, Precision]]:
    """The graph and the precision of each engine. TensorRT 8 makes every engine but int8 ones from an fp32 graph."""
    if way_of(module).precision == "types":
        typed = [(graph, own) for graph in graphs for own in options.precisions if graph.precision == own]
        if not typed:
            raise ExportError(no_graph(graphs, options.precisions))
        return typed
    for precision in options.precisions:
        check_precision(module, precision)
    quantized = [graph for graph in graphs if graph.precision == "int8"]
    if "int8" in options.precisions and not quantized:
        raise EngineError(no_graph(graphs, ["int8"]))
    exact = [graph for graph in graphs if graph.precision == "fp32"]
    if not exact and set(options.precisions) != {"int8"}:
        raise EngineError(
            f"{name_and_version(module)} builds every engine from an fp32 graph, fp16 ones too, and this export has "
            "none. Export with `--precision fp32 --precision fp16`."
        )
    return [(graph, own) for own in options.precisions for graph in (quantized if own == "int8" else exact)]


def no_graph(graphs: Sequence[Entry], precisions: Sequence[str]) -> str:
    """The error that no graph is in one of ``precisions``."""
    known = ", ".join(sorted({str(graph.precision) for graph in graphs})) or "no graphs at all"
    return (
        f"expected a graph in {', '.join(precisions)} to build from; this export has {known}. Choose another "
        "--precision, or export with this one."
    )


def _plan_name(kind: EngineKind, graph: Entry, precision: Precision) -> str:
    """The plain graph's name with the suffix of a plan, and the precision where the graph is of another."""
    own = "" if graph.precision == precision else f".{precision}"
    return f"{graph.path.removesuffix('.onnx').removesuffix(PLUGIN_SUFFIX)}{own}{_SUFFIXES[kind]}"


def _check_budget(module: Any, most: int) -> None:
    if most > MAX_TOPK:
        raise EngineError(
            f"TopK of {name_and_version(module)} keeps at most {MAX_TOPK} tokens; got a budget of up to {most}. Lower "
            "--budget, or build with the plugin, which has no such limit."
        )


@contextmanager
def graph_to_build(
    module: Any, graph: Path, build: BuildOptions, fp32: Sequence[str]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The file that this TensorRT reads, and the nodes whose layers it is told to keep in fp32.

    ``graph``, or a copy: without model-local functions where TensorRT would take them instead of the plugin, with the
    nodes ``fp32`` cast to it, or rewritten for TensorRT 8, which is told names instead.
    """
    way = way_of(module)
    strip = build.plugin is not None and not supports(module, "plugin preferred to function")
    if way.graph == "typed" and not strip and not fp32:
        yield graph, ()
        return
    try:
        from tokfilter.export.functions import without_functions
        from tokfilter.export.onnx_file import load_graph, save_graph
        from tokfilter.export.tensorrt8 import graph_for_tensorrt8
        from tokfilter.export.tensorrt8_nodes import fp32_nodes, written_out
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{name_and_version(module)} needs a changed copy of the graph. Writing it needs the package {error.name}: "
            "pip install onnx onnx-ir."
        ) from error
    changed, layers = load_graph(graph), tuple(fp32)
    if way.graph != "typed":
        try:
            changed = graph_for_tensorrt8(changed, plugin=build.plugin is not None)
        except ExportError as error:  # of this engine alone: the graphs of the export are good
            raise EngineError(f"{graph.name}: {error}") from error
        kept = dict.fromkeys((*fp32_nodes(changed), *written_out(changed, fp32)))
        layers = () if build.precision == "fp32" else tuple(kept)
    elif fp32:
        from tokfilter.export.precision import with_fp32_nodes

        changed, layers = with_fp32_nodes(changed, build.precision, fp32), ()
    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        copy = Path(scratch) / graph.name
        save_graph(without_functions(changed) if strip else changed, copy)
        yield copy, layers
