"""`tokfilter inspect`: contents of a bundle, a graph or an export directory, as plain values.

Every file is checked before its values are used, and nothing in it is executed.
"""

from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import EngineError, TokfilterError

__all__ = ["inspect_path"]

_SCHEMA: Final = {"schema": "tokfilter/inspection", "version": 1}


def inspect_path(path: str | Path) -> dict[str, Any]:
    """Describe ``path``: a bundle, an ONNX graph, an export directory or its manifest.

    Raises DataError, BundleError, ExportError.
    """
    path = Path(path)
    if path.is_dir() or path.name == MANIFEST:
        described = _directory(path if path.is_dir() else path.parent)
    elif _starts_as_archive(path):
        described = _bundle(path)
    else:
        from tokfilter.export.inspect_graph import graph_description  # the only part that needs onnx

        described = graph_description(path)
    return {**_SCHEMA, "path": str(path), **described}


def _starts_as_archive(path: Path) -> bool:
    with existing_file(path, "a bundle, an ONNX graph or an export directory").open("rb") as file:
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
        "blocks": [block.attention for block in model.drop.blocks(kept, len(model.backbone.blocks))],
        "reducer": model.drop.config.as_dict(),
        "golden": {"images": len(bundle.golden.images), "budgets": sorted(bundle.golden.logits)},
        "training": sorted(bundle.training),
    }


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
