"""Table of the graphs fused for ONNX Runtime's CUDA provider."""

from typing import Any, Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["PRECISIONS", "cuda_zoo_table"]

PRECISIONS: Final = ("fp32", "fp16", "bf16")


def cuda_zoo_table(document: Document) -> str:
    """One line per model: what was fused, nodes before and after, largest error by precision."""
    heads = [
        "family",
        "timm model",
        "attentions",
        "norms",
        "activations",
        "nodes",
        *(f"error {p}" for p in PRECISIONS),
    ]
    lines = [line(*heads), rule(len(heads))]
    for row in document["models"]:
        if "reason" in row:
            lines.append(line(row["family"], row["model"], f"✗ {row['reason']}", *[""] * (len(heads) - 3)))
            continue
        fused = row["fp32"]["fusions"]
        counts = [_count(fused.get(kind)) for kind in ("attentions", "layer norms of a residual sum", "activations")]
        nodes = f"{row['plain_nodes']['filtered']} → {row['fp32']['nodes']['filtered']}"
        errors = [f"{row[p]['relative_error']:.0e}{'' if not row[p]['failed'] else ' ✗'}" for p in PRECISIONS]
        lines.append(line(row["family"], f"`{row['model']}`", *counts, nodes, *errors))
    passed = sum("reason" not in row and not any(row[p]["failed"] for p in PRECISIONS) for row in document["models"])
    what = (
        f"{passed} of {len(document['models'])} within the tolerances. Random weights; filtered graph, half of the "
        "tokens; error: largest difference of a logit from torch in fp32, over the image's largest logit."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, ('torch', 'timm', 'onnxruntime'))}"])


def _count(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{found['fused']} of {found['found']}"
