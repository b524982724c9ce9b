"""Graphs of one precision that are right: where fp16 or bf16 is too narrow for a layer, that layer stays fp32."""

from collections.abc import Callable, Iterable
from typing import Any

import onnx_ir as ir

from tokfilter.artifacts.manifest import Entry
from tokfilter.errors import VerificationError
from tokfilter.export.fp32_search import search
from tokfilter.export.layer_groups import groups_from_graph
from tokfilter.export.options import ExportOptions, Precision
from tokfilter.export.precision import LOW_TYPES, cast_precision
from tokfilter.export.quantize.nodes import QUANTIZED
from tokfilter.export.verify import Check, require_passed

__all__ = ["checked_graphs"]


def checked_graphs(
    precision: Precision,
    traced: ir.Model,
    write: Callable[[Precision, dict[str, Any]], Iterable[Entry]],
    check: Callable[[list[Entry]], Iterable[Check]],
    options: ExportOptions,
    progress: Callable[[str], None],
    quantize: Callable[[ir.Model, Precision], dict[str, Any]],
) -> tuple[list[Entry], list[Check]]:
    """Write the graphs of a precision and compare them with torch; with ``auto_fp32``, until they pass.

    traced: the fp32 graph, in the slots form
    quantize: finds the layers of an int8 or fp8 graph that stay fp32; returns ``Entry.kept_fp32``
    write: writes every form in a precision, with the layers of ``Entry.kept_fp32`` in fp32
    check: yields the checks of graphs
    Without ``auto_fp32`` the checks may have failed. Raises VerificationError where no set of layers passes.
    """
    entries = list(write(precision, quantize(traced, precision) if precision in QUANTIZED else {}))
    checks = list(check(entries))
    if precision not in LOW_TYPES or not options.auto_fp32:
        return entries, checks
    try:
        require_passed(checks)
    except VerificationError as failure:
        groups = groups_from_graph(cast_precision(traced, precision))

        def passes(kept: dict[str, Any]) -> bool:
            # The same layers in every form; `all` ends at the first check that fails.
            return all(found.passed for found in check(list(write(precision, kept))))

        kept = search(f"{precision} graphs", groups, passes, options.auto_fp32_builds, progress, failure)
        entries = list(write(precision, kept))
        checks = list(check(entries))
    return entries, checks
