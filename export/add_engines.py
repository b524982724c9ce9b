"""`tokfilter engine`: add engines for this machine to an export directory; neither model.pt nor torch is needed.

An engine runs on the GPU that it was built on, so an edge bundle holds graphs, and its engines are built on the device.
"""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tokfilter.artifacts.checked import checked_copy
from tokfilter.artifacts.files import inside
from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import Entry, Manifest, load_manifest
from tokfilter.artifacts.manifest_change import change_manifest
from tokfilter.errors import ExportError, MissingDependencyError
from tokfilter.export.add_plugin_graphs import add_plugin_graphs
from tokfilter.export.directory import engines_folder
from tokfilter.export.engine_gate import EngineCheck
from tokfilter.export.engines import TIMING_CACHE, engines_from_graphs, no_graph
from tokfilter.export.options import ExportOptions
from tokfilter.kernels.build import plugin_path

__all__ = ["add_engines"]


def add_engines(
    directory: str | Path,
    options: ExportOptions,
    progress: Callable[[str], None] = lambda _: None,
    check: EngineCheck | None = None,
) -> list[Entry]:
    """Build engines in ``options.precisions`` and list them in the manifest; returns their entries.

    Each is built from the graph in its precision; TensorRT 8 builds all of them from the fp32 graphs.

    ``check`` compares each with the golden tensors before it moves into the directory. The plugin is the one that
    ``options`` names, that `tokfilter plugin build` left here, or that the directory holds.
    When something fails, the directory stays as it was; what a killed build left in it is removed by the next one.
    Raises DataError, BudgetError, ExportError, MissingDependencyError, EngineError, VerificationError.
    """
    directory = Path(directory)
    manifest = load_manifest(directory)
    options.budget_profile(manifest.model.num_patches, manifest.model.keep)
    graphs = _graphs(manifest, options)
    if options.verify:
        golden_of(directory, manifest)  # read before anything is built: that takes minutes
    with engines_folder(directory) as staging, tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        if options.plugin and options.plugin_library is None:
            options = replace(options, plugin_library=_plugin(directory, manifest, Path(scratch)))
        _copy_graphs(directory, [*graphs, *manifest.entries("golden")], staging)
        added = add_plugin_graphs(staging, staging, graphs) if options.trt and options.plugin else []
        engines = engines_from_graphs(staging, manifest, [*graphs, *added], options, progress, check)
        built = list({entry.path: entry for entry in [*added, *engines]}.values())
        change_manifest(directory, manifest, lambda present: _with_engines(present, built, staging, directory))
    return built


def _with_engines(manifest: Manifest, built: list[Entry], staging: Path, directory: Path) -> Manifest:
    """Move the engines into the directory. Returns the manifest that lists them."""
    for name in (name for entry in built for name in (*entry.external, entry.path)):
        inside(staging, name).replace(directory / name)
    new = {entry.path for entry in built}
    return replace(manifest, files=[*(entry for entry in manifest.files if entry.path not in new), *built])


def _graphs(manifest: Manifest, options: ExportOptions) -> list[Entry]:
    """Graphs that engines may be built from: of the precisions asked for, and fp32 ones, which TensorRT 8 needs."""
    there = [entry for entry in manifest.files if entry.runtime in ("onnx", "onnx-plugin")]
    graphs = [entry for entry in there if entry.precision in (*options.precisions, "fp32")]
    if not graphs:
        raise ExportError(no_graph(there, options.precisions))
    return graphs


def _plugin(directory: Path, manifest: Manifest, scratch: Path) -> Path | None:
    """The library built on this machine comes first: the directory's may be for another machine."""
    with suppress(MissingDependencyError):
        return plugin_path()
    return next((checked_copy(directory, entry, scratch) for entry in manifest.entries("plugin", "tensorrt")), None)


def _copy_graphs(directory: Path, graphs: list[Entry], staging: Path) -> None:
    """The builder and the comparison read paths: of copies in a private folder, hashed while they are written."""
    for graph in graphs:
        checked_copy(directory, graph, staging)
    if (directory / TIMING_CACHE).is_file():  # the build rewrites it
        shutil.copyfile(directory / TIMING_CACHE, staging / TIMING_CACHE)
