"""The part of `tokfilter inspect` that describes an ONNX graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from tokfilter.export import graph_stats
from tokfilter.export.onnx_file import load_graph
from tokfilter.export.shapes import infer_shapes

__all__ = ["graph_description"]

_PREFIX: Final = "tokfilter."
_DIGITS: Final = 7
"""Of a count of tokens."""


def graph_description(path: Path) -> dict[str, Any]:
    """Signature, operators, sizes and token selections of an ONNX graph. Raises DataError, ExportError."""
    graph = load_graph(path)
    infer_shapes(graph)
    metadata = {
        name.removeprefix(_PREFIX): text for name, text in graph.metadata_props.items() if name.startswith(_PREFIX)
    }
    patches, kept = _number(metadata, "patches"), _number(metadata, "keep")
    lengths = graph_stats.lengths_of(graph, kept)
    counts = graph_stats.operators(graph)
    elastic = any(value.name == "slots" for value in graph.graph.inputs)
    macs = {"kept" if graph_stats.token_select_nodes(graph, lengths) else "full": graph_stats.macs(graph, lengths)}
    if elastic:
        macs["all tokens"] = graph_stats.macs(graph, graph_stats.lengths_of(graph, patches))
    return {
        "kind": "graph",
        "bytes": path.stat().st_size + _external_bytes(graph, path),
        "producer": " ".join(filter(None, (graph.producer_name, graph.producer_version))),
        "ours": bool(metadata),
        "metadata": metadata,
        "opsets": {domain or "ai.onnx": number for domain, number in graph.opset_imports.items()},
        "ir_version": graph.ir_version,
        "inputs": _signature(graph.graph.inputs),
        "outputs": _signature(graph.graph.outputs),
        "functions": [f"{domain}::{name}" for domain, name, _ in graph.functions],
        "operators": {part: dict(count.most_common()) for part, count in counts.items()},
        "parameters": graph_stats.parameters(graph),
        "macs": macs,
        "sites": [vars(node) for node in graph_stats.token_select_nodes(graph, lengths)],
        "attentions": [vars(attention) for attention in graph_stats.attentions(graph, lengths)],
    }


def _number(metadata: dict[str, str], name: str) -> int | None:
    text = metadata.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def _external_bytes(graph: ir.Model, path: Path) -> int:
    files = {
        path.parent / value.const_value.location
        for value in graph.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    return sum(file.stat().st_size for file in files if file.is_file())


def _signature(values: Sequence[ir.Value]) -> list[dict[str, Any]]:
    return [
        {
            "name": value.name,
            "type": "" if value.dtype is None else value.dtype.name.lower(),
            "shape": [n if isinstance(n, int) else str(n.value) for n in value.shape or ()],
        }
        for value in values
    ]
