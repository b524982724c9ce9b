"""Table of the runtimes that read the exported files."""

from typing import Any, Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["portability_table", "reads_as_written"]

_FILES: Final = ("model.onnx", "model.k98.onnx", "full.onnx")


def portability_table(document: Document) -> str:
    """One line per runtime: each file, the largest difference, and the first sentence of a failure."""
    heads = ["runtime", "version", "`model.onnx`", "fixed budget", "all tokens", "largest difference", ""]
    lines = [line(*heads), rule(len(heads))]
    for row in document["runtimes"]:
        version = "; ".join(
            package.partition("[")[0] if "==" not in package else package for package in row["packages"][:1]
        )
        version = version.rpartition("==" if "==" in version else "@")[2]
        if "reason" in row:
            lines.append(line(row["name"], version, "", "", "", "", f"not installed: {_cell(row['reason'])}"))
            continue
        results = [result for file in _FILES for result in row["files"][file]]
        largest = max((result["difference"] for result in results if "difference" in result), default=None)
        failure = next((_failure(result) for result in results if not result.get("passed")), "")
        remark = "; ".join(part for part in (row["note"], failure) if part)
        counts = [_count(row["files"][file]) for file in _FILES]
        lines.append(line(row["name"], version, *counts, "" if largest is None else f"{largest:.0e}", _cell(remark)))
    read = sum(reads_as_written(row) for row in document["runtimes"])
    what = (
        f"{read} of {len(document['runtimes'])} read `model.onnx` as it is and give what torch gives at batches 1 and "
        "3 and at 49, 98 and 196 of 196 tokens. Difference: largest of a logit, over the image's largest logit; at "
        "most 1e-3, for graphs that a tool quantised or halved a cosine of at least 0.99. "
        f"`{document['model']}`, random weights."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, ('torch', 'timm'))}"])


def reads_as_written(row: dict[str, Any]) -> bool:
    """Whether every case of ``model.onnx`` passed."""
    return "files" in row and all(result.get("passed") for result in row["files"]["model.onnx"])


def _count(results: list[dict[str, Any]]) -> str:
    passed = sum(bool(result.get("passed")) for result in results)
    return "✓" if passed == len(results) else f"{passed} of {len(results)}" if passed else "✗"


def _failure(result: dict[str, Any]) -> str:
    where = f"batch {result['batch']}, {result['tokens']} tokens"
    return f"{where}: {result['error']}" if "error" in result else f"{where}: differs, cosine {result['cosine']:.4f}"


def _cell(text: str) -> str:
    text = text if len(text) <= 160 else text[:157] + "..."
    return text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
