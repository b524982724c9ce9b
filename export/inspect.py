"""`tokfilter inspect`: contents of a bundle, a graph or an export directory, as plain values.

Every file is checked before its values are used, and nothing in it is executed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError, EngineError, ExportError, TokfilterError
from tokfilter.export import graph_stats
from tokfilter.export.onnx_file import load_graph

__all__ = ["inspect_path"]

_SCHEMA: Final = {"schema": "tokfilter/inspection", "version": 1}
_PREFIX: Final = "tokfilter."


def inspect_path(path: str | Path) -> dict[str, Any]:
    """Describe ``path``: a bundle, an ONNX graph, an export directory or its manifest.

    Raises DataError, BundleError, ExportError.
    """
    path = Path(path)
    if path.is_dir() or path.name == MANIFEST:
        described = _directory(path if path.is_dir() else path.parent)
    elif not path.exists():
        raise DataError(
            f"inspect needs a bundle, an ONNX graph or an export directory, but there is nothing at {path}."
        )
    elif _starts_as_archive(path):
        described = _bundle(path)
    else:
        described = _graph(path)
    return {**_SCHEMA, "path": str(path), **described}


def _starts_as_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _bundle(path: Path) -> dict[str, Any]:
    from tokfilter.vit.bundle import load_bundle, model_from_bundle
    from tokfilter.vit.macs import macs

    bundle = load_bundle(path)
    model = model_from_bundle(bundle)
    kept = model.keep_tokens
    return {
        "kind": "bundle",
        "bytes": path.stat().st_size,
        "architecture": bundle.architecture.name,
        "arguments": dict(bundle.architecture.kwargs),
        "parameters": {
            "backbone": sum(weight.numel() for weight in bundle.backbone.values()),
            "filter": sum(weight.numel() for weight in bundle.filter.values()),
        },
        "input_size": list(bundle.preprocessing.input_size),
        "patches": model.num_patches,
        "prefix_tokens": model.prefix_tokens,
        "classes": bundle.golden.full.shape[1],
        "class_names": len(bundle.class_names),
        "keep": kept,
        "macs": {"full": macs(model), "kept": macs(model, kept)},
        "blocks": [model.prefix_tokens + kept] * len(model.backbone.blocks),
        "golden": {"images": len(bundle.golden.images), "budgets": sorted(bundle.golden.logits)},
        "training": sorted(bundle.training),
    }


def _graph(path: Path) -> dict[str, Any]:
    graph = load_graph(path)
    try:
        graph_stats.with_shapes(graph)
    except Exception as error:  # onnx raises its own kinds of errors
        raise ExportError(f"{path} is no valid ONNX graph: its shapes contradict each other ({error}).") from error
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
    return int(text) if text.isdecimal() else None


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


def _directory(directory: Path) -> dict[str, Any]:
    manifest = load_manifest(directory)
    files = []
    for entry in manifest.files:
        try:
            check_file(directory, entry)
            error_message = None
        except (EngineError, TokfilterError) as error:
            error_message = str(error)
        files.append(
            {
                "path": entry.path,
                "role": entry.role,
                "runtime": entry.runtime,
                "precision": entry.precision,
                "budget": entry.budget,
                "batch_range": entry.batch_range,
                "budget_range": entry.budget_range,
                "bytes": entry.bytes,
                "target": entry.target,
                "error": error_message,
            }
        )
    verification = manifest.verification
    checks = verification.get("checks", [])
    return {
        "kind": "export",
        "model": manifest.model.as_dict(),
        "source": manifest.source,
        "created": manifest.created,
        "opset": manifest.opset,
        "versions": manifest.versions,
        "files": files,
        "verification": {
            "skipped": verification.get("skipped"),
            "checks": len(checks),
            "passed": sum(bool(check["passed"]) for check in checks),
            "largest_relative_error": max((check["relative"] for check in checks), default=None),
        },
        "choice": manifest.choice,
    }
