"""`tokfilter inline`: an ONNX file with the node TokenSelect, or with model-local functions, in standard operators.

OpenVINO, tract, IREE, MNN, TVM and others look up no functions. The file may come from an export before
``model.onnx`` was plain, from `tokfilter fuse`, or from another project.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.errors import ExportError
from tokfilter.export.functions import is_select_node, with_function
from tokfilter.export.fusion.compare import compare_graphs
from tokfilter.export.fusion.io import read_foreign_graph, write_fused_graph
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.selection import plain_graph
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["InlineReport", "inline_graph"]

_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class InlineReport:
    """Result of ``inline_graph``.

    replaced: name of an operator or function -> number of nodes in whose place others stand
    other_domains: operators of other domains, which remain: not every runtime has them
    compared_at: input shapes at which both graphs gave the same bits; empty without verification
    """

    replaced: Mapping[str, int]
    nodes_before: int
    nodes_after: int
    other_domains: Mapping[str, int]
    compared_at: tuple[Mapping[str, list[int]], ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self)


def inline_graph(
    source: str | Path, target: str | Path, *, verify: bool = True, sizes: Mapping[str, int] | None = None
) -> InlineReport:
    """Write ``source`` to ``target`` without functions, standard operators in the place of each TokenSelect.

    verify, sizes: as in ``fuse_graph``
    Raises ExportError (nothing to do, no valid model, target cannot be written), VerificationError, DataError; then
    nothing is written.
    """
    source, target = Path(source), Path(target)
    model = read_foreign_graph(source, "inline")
    replaced = _calls(model)
    if not replaced:
        raise ExportError(
            f"{source.name} is plain already: it calls no functions and has no {DOMAIN}::{NAME}. Nothing was written."
        )
    plain = _plain(model)
    compared: list[Mapping[str, list[int]]] = []

    def accept(part: Path) -> None:
        if not verify:
            return
        with TemporaryDirectory(prefix="tokfilter-") as scratch:
            original = source
            if any(map(is_select_node, model.graph)) and not any(
                name[:2] == (DOMAIN, NAME) for name in model.functions
            ):
                original = Path(scratch) / source.name  # stripped for the plugin, without which only the function runs
                save_graph(with_function(model), original)
            compared.extend(compare_graphs(original, part, sizes or {}))

    write_fused_graph(plain, target, accept)
    others = Counter(f"{node.domain}::{node.op_type}" for node in plain.graph if node.domain not in _STANDARD)
    return InlineReport(replaced, len(model.graph), len(plain.graph), others, tuple(compared))


def _calls(model: ir.Model) -> dict[str, int]:
    """The nodes that call a function or select tokens, counted by name."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    called = (node for node in nodes if node.op_identifier() in model.functions or is_select_node(node))
    return dict(Counter(f"{node.domain}::{node.op_type}" for node in called))


def _plain(model: ir.Model) -> ir.Model:
    plain = model.clone()
    ours = [name for name in plain.functions if name[:2] == (DOMAIN, NAME)]
    for name in ours:  # the newest body takes its place, with the numbers of each node as constants
        del plain.functions[name]
    named = {node.name for node in plain.graph}
    passes.InlinePass()(plain)
    _name_nodes(plain.graph, named)
    plain = plain_graph(plain)
    plain.functions.clear()
    left = [node.name for node in ir.traversal.RecursiveGraphIterator(plain.graph) if is_select_node(node)]
    if left:
        raise ExportError(f"{DOMAIN}::{NAME} {left[0]!r} is in a subgraph; only the main graph is inlined.")
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(plain)
    passes.RemoveUnusedOpsetsPass()(plain)
    return plain


def _name_nodes(graph: ir.Graph, known: set[str | None]) -> None:
    """Give each node a name of its own: some converters require one."""
    taken, seen = {name for name in known if name}, set()
    for node in graph:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        number = 0
        while (name := f"{node.op_type}_{number}") in taken or name in seen:
            number += 1
        node.name = name
        seen.add(name)
