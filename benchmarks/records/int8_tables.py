"""Markdown table of docs/int8.md."""

from typing import Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["int8_table"]

_PACKAGES: Final = ("torch", "onnxruntime")


def int8_table(document: Document) -> str:
    """Top-1 of fp32, int8 and fp8 in percent by model and budget, and the points that are lost."""
    lines = [line("model", "tokens", "fp32", "int8", "points lost", "fp8", "points lost"), rule(7)]
    rows = {(row["model"], row["tokens"], row["precision"]): row for row in document["rows"]}
    for model, tokens, precision in rows:
        if precision == "int8":
            int8, fp8 = rows[model, tokens, "int8"], rows[model, tokens, "fp8"]
            cells = [model, f"{tokens} of {int8['patches']}", f"{100 * int8['fp32_top1']:.2f}"]
            for row in (int8, fp8):
                cells += [f"{100 * row['top1']:.2f}", _lost(row)]
            lines.append(line(*cells))
    images = sorted({row["check_images"] for row in rows.values()})
    calibration = sorted({row["calibration_images"] for row in rows.values()})
    exempt = {row["precision"]: ", ".join(row["in_fp32"]) for row in rows.values() if row["in_fp32"]}
    in_fp32 = "; ".join(f"{precision} {names}" for precision, names in exempt.items())
    same = min(row["same_tokens"] for row in rows.values())
    what = (
        f"Top-1 in %, {_listed(images)} test images, calibrated on {_listed(calibration)} training images; 95 % "
        f"intervals of the paired difference. Layers in fp32: {in_fp32 or 'none'}. Kept tokens equal to "
        f"fp32's: {same:.1%}."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def _lost(row: Document) -> str:
    return f"{row['drop']:.2f} ({row['drop_low']:.2f} to {row['drop_high']:.2f})"


def _listed(numbers: list[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)
