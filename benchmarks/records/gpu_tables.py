"""Markdown tables of docs/gpu.md."""

from typing import Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["comparison_table", "kernel_table", "label_speed_table"]

_PACKAGES: Final = ("torch", "onnxruntime-gpu", "timm", "nvidia-driver")


def kernel_table(document: Document) -> str:
    """Microseconds of each method, float16, cold L2 cache; bandwidth of the kernel as a fraction of a plain copy."""
    rows = [row for row in document["rows"] if row["case"].endswith("float16")]
    ran = {e["method"] for row in document["rows"] for e in row["methods"] if "skipped" not in e}
    names = [entry["method"] for entry in rows[0]["methods"] if entry["method"] in ran]
    lines = [line("float16", *names, "torch / kernel", "fraction of a copy"), rule(len(names) + 3)]
    for row in rows:
        cold = {e["method"]: e["cold"] for e in row["methods"] if e["method"] in ran}
        micros = [cold[name]["microseconds"]["median"] for name in names]
        ours = cold[names[0]]
        times = micros[-1] / micros[0]
        cells = [f"{value:.1f}" for value in micros]
        case = row["case"].removesuffix(", float16")
        lines.append(line(case, *cells, f"{times:.1f}", f"{ours['share_of_copy_bandwidth']:.0%}"))
    settings = document["settings"]
    what = (
        f"Median microseconds of {settings['samples']} single launches from a CUDA graph, L2 cache cold, less the "
        f"{settings['floor_us']:.1f} us that timing nothing costs; outputs compared bit for bit first. A plain copy "
        f"reaches {settings['copy_gb_s'] / 1e3:.1f} TB/s here."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def comparison_table(document: Document) -> str:
    """Full against filtered: latency, speed-up with its interval, MAC ratio, energy."""
    names = ("batch", "tokens", "median ms", "images/s", "speed-up", "MAC ratio", "J per image")
    lines = [line(*names), rule(len(names))]
    for row in document["rows"]:
        filtered = row["speedup"] is not None
        joules = sum(row["power"]["joules_per_image"].values()) if row["power"] else None
        lines.append(
            line(
                str(row["batch"]),
                str(row["tokens"]),
                f"{row['latency_ms']['median']:.2f}",
                f"{row['images_per_s']:.0f}",
                "{value:.2f} ({low:.2f} to {high:.2f})".format(**row["speedup"]) if filtered else "",
                f"{row['mac_ratio']:.2f}" if filtered else "",
                "" if joules is None else f"{joules:.3f}",
            )
        )
    settings, name = document["settings"], document["model"]["architecture"]
    what = f"`{name}`, random weights, {settings['engine']} {settings['provider']} {settings['precision']}; transfers "
    return "\n".join([*lines, "", f"{what}{settings['transfers']}; 95 % intervals. {provenance(document, _PACKAGES)}"])


def label_speed_table(document: Document) -> str:
    """Masked variants per second, and images per second of the plain backbone."""
    names = ("model", "precision", "plain images/s", "variants/s", "ratio")
    lines = [line(*names), rule(len(names))]
    for row in document["rows"]:
        ratio = "{value:.2f} ({low:.2f} to {high:.2f})".format(**row["ratio"])
        rates = (f"{row[name]:.0f}" for name in ("images_per_s", "variants_per_s"))
        lines.append(line(f"`{row['model']}`", row.get("precision", "fp32"), *rates, ratio))
    row = document["rows"][0]
    what = f"Batches of {row['batch']}, {row['rounds']} rounds, 95 % intervals."
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])
