"""`tokfilter fuse`: TokenSelect in place of top-k and gather in an ONNX file of another project.

The file holds the node, which TensorRT's plugin takes and which has a function body for runtimes without it (``to`` is
"node"), or the body's standard operators in the place of the node, for runtimes that read no functions ("plain").

Fused is any part of a graph that takes tokens [B, P+N, C] and scores [B, N] and returns the first P tokens, then the k
patches with the highest scores, in order of score or of position; ``fusion/__init__.py`` shows how it is found,
docs/fuse.md which forms of it there are.
TokenSelect differs from ONNX's own TopK only on scores that are NaN: it ranks them below everything, ONNX leaves them
undefined (and ONNX Runtime's CPU kernel then returns rows that are not the highest). Ties are the same: both take the
lower position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx_ir as ir
from onnx_ir.passes import common as passes

from tokfilter.errors import ExportError
from tokfilter.export.functions import is_select_node, with_function
from tokfilter.export.fusion.compare import compare_graphs
from tokfilter.export.fusion.io import read_foreign_graph, write_fused_graph
from tokfilter.export.fusion.rewrite import FusedSite, NearMiss, TokenSelectRewrite
from tokfilter.export.selection import plain_graph
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["FORMS", "FuseReport", "FusedSite", "NearMiss", "fuse_graph"]

FORMS: Final = ("node", "plain")
"""What stands in the file for a selection: the node TokenSelect, or standard operators."""


@dataclass(frozen=True)
class FuseReport:
    """Result of ``fuse_graph``.

    matched: number of top-k nodes that are equivalent to TokenSelect
    replaced: number of TokenSelect nodes in the graph that was written, or that standard operators stand for
    compared_at: input shapes at which both graphs gave the same bits; empty without verification
    """

    matched: int
    replaced: int
    sites: tuple[FusedSite, ...]
    near_misses: tuple[NearMiss, ...]
    opset: int
    ir_version: int
    nodes_before: int
    nodes_after: int
    compared_at: tuple[Mapping[str, list[int]], ...]
    form: str

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self)


def fuse_graph(
    source: str | Path,
    target: str | Path,
    *,
    verify: bool = True,
    functions: bool = True,
    sizes: Mapping[str, int] | None = None,
    to: str = "node",
) -> FuseReport:
    """Rewrite every gather-after-top-k of ``source`` to TokenSelect and write ``target``.

    The opset of the graph is kept; opset 11 becomes 12, the first that can hold the function body. IR version 8 to 10.

    verify: run both graphs in ONNX Runtime on random inputs, at two batch sizes where the batch is free
    functions: keep the function body, so that the file runs without the plugin. False is for TensorRT before 10.7,
        which prefers the function to the plugin
    sizes: numbers for symbolic dimensions of the inputs in that comparison
    to: "node", or "plain" for standard operators in the place of the node
    Raises ExportError (nothing to fuse, no valid model, target cannot be written), VerificationError, DataError.
    """
    if to not in FORMS:
        raise ExportError(f"fuse writes one of {', '.join(FORMS)}, got {to!r}.")
    if to == "plain" and not functions:
        raise ExportError("a plain file has no functions to leave out: give either to='plain' or functions=False.")
    source, target = Path(source), Path(target)
    model = read_foreign_graph(source)
    nodes_before = len(model.graph)
    rewrite = TokenSelectRewrite()
    rewrite(model)
    if not rewrite.sites:
        raise ExportError(_nothing_found(source, rewrite.near_misses, model))
    with_function(model)
    replaced = sum(map(is_select_node, model.graph))
    if to == "plain":
        model = plain_graph(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.RemoveUnusedOpsetsPass()(model)
    compared: list[Mapping[str, list[int]]] = []

    def accept(part: Path) -> None:
        if verify:
            compared.extend(compare_graphs(source, part, sizes or {}))

    _write(model, target, accept, functions)
    return FuseReport(
        matched=len(rewrite.sites),
        replaced=replaced,
        sites=tuple(rewrite.sites),
        near_misses=tuple(rewrite.near_misses),
        opset=model.opset_imports[""],
        ir_version=model.ir_version,
        nodes_before=nodes_before,
        nodes_after=len(model.graph),
        compared_at=tuple(compared),
        form=to,
    )


def _write(model: ir.Model, target: Path, accept: Callable[[Path], None], functions: bool) -> None:
    """Verify the graph with the function, which alone runs without the plugin, whichever is written."""
    if functions:
        write_fused_graph(model, target, accept)
        return
    with TemporaryDirectory() as folder:
        write_fused_graph(model, Path(folder) / target.name, accept)
    del model.functions[(DOMAIN, NAME, "")]
    write_fused_graph(model, target, lambda _: None)


def _nothing_found(source: Path, near_misses: Sequence[NearMiss], model: ir.Model) -> str:
    expected = (
        "Expected: TopK of scores [batch, patches] whose indices gather rows of tokens [batch, tokens, channels]."
    )
    found = [f"  {mismatch.node or 'a TopK without a name'}: {mismatch.reason}." for mismatch in near_misses]
    seen = f"Of {len(found)} TopK nodes, none is one:" if found else "The graph has no TopK node."
    hidden = f"Its {len(model.functions)} functions were not searched: inline them first." if model.functions else ""
    return "\n".join(filter(None, [f"{source.name} has nothing to fuse. {expected} {seen}", *found, hidden]))
