"""Graphs with the node TokenSelect for an export that has the plain graphs only, as one without ``--trt`` has.

The node is put back in the place of its operators (``export/selection.py``). Torch is not needed for that, and where
nothing is lacking, onnx-ir is not either: an edge device builds engines without both.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokfilter.artifacts.checked import checked_copy
from tokfilter.artifacts.files import inside, sha256
from tokfilter.artifacts.manifest import Entry, entry_from_file
from tokfilter.errors import MissingDependencyError
from tokfilter.export.engines import PLUGIN_SUFFIX
from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.trt.graph_file import imports_domain

__all__ = ["add_plugin_graphs"]


def add_plugin_graphs(source: Path, folder: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Write into ``folder`` the graphs with the node that an export lacks; returns their entries.

    source: directory of ``entries``, which may be ``folder``
    entries: of the export. A graph that has the node itself, as exports once had, needs no other
    Raises ExportError, EngineError for a file that has changed, MissingDependencyError.
    """
    there = {(entry.precision, entry.budget) for entry in entries if entry.runtime == "onnx-plugin"}
    plain = [e for e in entries if (e.role, e.runtime) == ("filtered", "onnx")]
    added = []
    for entry in plain:
        if (entry.precision, entry.budget) not in there:
            with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
                graph = checked_copy(source, entry, Path(scratch))
                if not imports_domain(graph, DOMAIN):
                    added.append(_added(graph, folder, entry))
    return added


def _added(plain: Path, folder: Path, entry: Entry) -> Entry:
    try:
        from tokfilter.export.functions import with_function
        from tokfilter.export.onnx_file import load_graph, save_graph
        from tokfilter.export.selection import node_graph
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{entry.path} holds standard operators, and TensorRT's plugin needs the node {NAME} in their place. "
            f"Writing that graph needs the package {error.name}: pip install onnx onnx-ir; or export with "
            "--plugin-graphs; or build from native ops with --no-plugin."
        ) from error
    graph = with_function(node_graph(load_graph(plain)))
    path = inside(folder, f"{entry.path.removesuffix('.onnx')}{PLUGIN_SUFFIX}.onnx")
    external = {file.name: sha256(file) for file in save_graph(graph, path)[1:]}
    made = entry_from_file(folder, path.name, "filtered", runtime="onnx-plugin", external=external)
    return replace(made, precision=entry.precision, budget=entry.budget)
