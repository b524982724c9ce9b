"""Export of 30 timm models: trace, verify, build with TensorRT-RTX, each in its own process, with time and memory.

``python -m tokfilter.benchmarks export-zoo`` writes ``benchmarks/results/export_zoo.json``; ``--resume`` continues an
interrupted run, ``--table`` prints the results as a Markdown table. Weights are random and seeded: the result says
whether export works for the family, and its cost. No GPU is needed.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from tokfilter.benchmarks.options import command_line, json_option, output_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.runtime.measure.record import header, write_json

__all__ = ["RESULT", "ZOO", "measure", "table_from_document"]

RESULT: Final = RESULTS / "export_zoo.json"
_TIMEOUT_S: Final = 3600

ZOO: Final[tuple[tuple[str, str, int | None], ...]] = (
    ("ViT", "vit_tiny_patch16_224", None),
    ("ViT", "vit_small_patch16_224", None),
    ("ViT", "vit_small_patch16_224", 288),
    ("ViT", "vit_base_patch32_224", None),
    ("ViT, average pooling", "vit_medium_patch16_gap_240", None),
    ("ViT, registers", "vit_little_patch16_reg4_gap_256", None),
    ("ViT, parallel blocks", "vit_pwee_patch16_reg1_gap_256", None),
    ("ViT, hybrid stem", "vit_small_r26_s32_224", None),
    ("FlexiViT", "flexivit_small", None),
    ("MAE, AugReg, DINO (ViT-B)", "vit_base_patch16_224", None),
    ("DeiT", "deit_tiny_patch16_224", None),
    ("DeiT", "deit_small_patch16_224", None),
    ("DeiT", "deit_small_patch16_224", 160),
    ("DeiT", "deit_base_patch16_224", None),
    ("DeiT distilled", "deit_small_distilled_patch16_224", None),
    ("DeiT-3", "deit3_small_patch16_224", None),
    ("DeiT-3", "deit3_medium_patch16_224", None),
    ("DINOv2", "vit_small_patch14_dinov2", 224),
    ("DINOv2, registers", "vit_small_patch14_reg4_dinov2", 224),
    ("DINOv2, registers", "vit_small_patch14_reg4_dinov2", None),
    ("CLIP", "vit_base_patch32_clip_224", None),
    ("CLIP", "vit_xsmall_patch16_clip_224", None),
    ("SigLIP, attention pooling", "vit_base_patch16_siglip_224", None),
    ("SigLIP, average pooling", "vit_base_patch16_siglip_gap_224", None),
    ("BEiT-3", "beit3_base_patch16_224", None),
    ("EVA-02, rotary", "eva02_tiny_patch14_224", None),
    ("EVA-02, rotary", "eva02_tiny_patch14_336", None),
    ("DINOv3, rotary", "vit_small_patch16_dinov3", None),
    ("ViT, rotary", "vit_small_patch16_rope_224", None),
    ("ViT, rotary mixed", "vit_small_patch16_rope_mixed_224", None),
)
"""(family, timm's name, image size or None for the model's default)"""


def measure(name: str, size: int | None, folder: Path) -> dict[str, Any]:
    """Export one model with random weights and build its TensorRT-RTX engine, in this process."""
    import torch

    from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
    from tokfilter.export.pipeline import export_bundle
    from tokfilter.trt.build import BuildOptions, build_engine
    from tokfilter.vit.backbone import create_backbone
    from tokfilter.vit.bundle import save_bundle
    from tokfilter.vit.golden import golden_from_model
    from tokfilter.vit.model import FilteredViT, weights_from_model

    torch.manual_seed(0)
    architecture = Architecture(name, {} if size is None else {"img_size": size})
    model: Any = FilteredViT(create_backbone(architecture)).eval()
    model.scorer.trained = True  # random weights on purpose: only the export is measured
    input_size = (3, *model.backbone.patch_embed.img_size)
    golden = golden_from_model(model, torch.randn(2, *input_size), [0.25, 0.5, 0.75])
    backbone, scorer = weights_from_model(model)
    preprocessing = Preprocessing(input_size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    bundle = folder / "model.pt"
    save_bundle(
        Bundle(architecture, backbone, FilterConfig(), scorer, 0.5, preprocessing, [], golden, {"weights": "random"}),
        bundle,
    )
    del model, backbone, golden

    clock = _Clock()
    manifest = export_bundle(bundle, folder / "out", progress=clock.start)
    checks = manifest.verification["checks"]
    clock.start("building")
    num_patches = manifest.model.num_patches
    options = BuildOptions((1, 8, 32), (1, manifest.model.keep, num_patches))
    build_engine("tensorrt-rtx", folder / "out" / "model.onnx", folder / "model.plan", options)
    clock.start("")
    return {
        "input_size": list(input_size),
        "patches": num_patches,
        "prefix_tokens": manifest.model.prefix_tokens,
        "parameters": _parameters(bundle),
        "macs": manifest.model.macs,
        "relative_error": max(check["relative"] for check in checks),
        "checks": len(checks),
        "graph_bytes": (folder / "out" / "model.onnx").stat().st_size,
        "plan_bytes": (folder / "model.plan").stat().st_size,
        "seconds": clock.seconds(0),
        "cpu_seconds": clock.seconds(1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


class _Clock:
    """Wall and processor seconds of the steps of an export, from its progress messages."""

    _STEPS: Final = {"tracing": "trace", "writing": "write", "verifying": "verify", "building": "build"}

    def __init__(self) -> None:
        self.marks: list[tuple[str, float, float]] = []
        self.start("reading")

    def start(self, message: str) -> None:
        self.marks.append((self._STEPS.get(message.split(" ")[0], "read"), time.perf_counter(), time.process_time()))

    def seconds(self, clock: int) -> dict[str, float]:
        total: dict[str, float] = {}
        for mark, after in zip(self.marks, self.marks[1:], strict=False):
            total[mark[0]] = total.get(mark[0], 0.0) + after[1:][clock] - mark[1:][clock]
        return {step: round(seconds, 2) for step, seconds in total.items()}


def _parameters(bundle: Path) -> int:
    from tokfilter.vit.bundle import load_bundle

    return sum(weight.numel() for weight in load_bundle(bundle).backbone.values())


def _row(family: str, name: str, size: int | None) -> dict[str, Any]:
    """Measure in a child process. A failed model also has a row, with the reason."""
    row: dict[str, Any] = {"family": family, "model": name, "image_size": size}
    with tempfile.TemporaryDirectory(prefix="tokfilter-zoo-") as folder:
        command = [sys.executable, "-m", "tokfilter.benchmarks", "export-zoo", "--one", name, str(size or 0), folder]
        child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if child.returncode != 0:
        return {**row, "passed": False, "reason": (child.stderr.strip().splitlines() or ["no reason given"])[-1]}
    return {**row, "passed": True, **json.loads(child.stdout.splitlines()[-1])}


def table_from_document(document: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| family | timm model | pixels | tokens | relative error | trace s | verify s | RTX build s | peak GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["models"]:
        if not row["passed"]:
            lines.append(
                f"| {row['family']} | {row['model']} | {row['image_size'] or ''} | ✗ {row['reason']} | | | | | |"
            )
            continue
        cpu = row["cpu_seconds"]
        lines.append(
            f"| {row['family']} | {row['model']} | {row['input_size'][1]} | {row['prefix_tokens']}+{row['patches']} "
            f"| {row['relative_error']:.1e} | {cpu['trace']:.0f} | {cpu['verify']:.0f} | {cpu['build']:.0f} "
            f"| {row['peak_memory_bytes'] / 1e9:.1f} |"
        )
    passed = sum(row["passed"] for row in document["models"])
    return "\n".join([*lines, "", f"{passed} of {len(document['models'])} passed. Seconds are processor seconds."])


def run(models: Iterable[tuple[str, str, int | None]], output: Path, command: str, resume: bool) -> dict[str, Any]:
    """Measure all models in turn. The document is written after each; ``resume`` keeps the rows that passed before."""
    old = json.loads(output.read_text(encoding="utf-8"))["models"] if resume and output.is_file() else []
    known = {(row["model"], row["image_size"]): row for row in old if row["passed"]}
    document = header("export-zoo", command)
    document["models"] = []
    for family, name, size in models:
        row = known.get((name, size)) or _row(family, name, size)
        document["models"].append(row)
        write_json(output, document)
        sys.stderr.write(f"{'ok  ' if row['passed'] else 'FAIL'} {name} {size or ''} {row.get('reason', '')}\n")
    return document


@click.command()
@click.option("--resume", is_flag=True, help="Keep the models that passed in the output file, measure the others.")
@click.option("--table", is_flag=True, help="Measure nothing; print the output file as a Markdown table.")
@click.option("--one", type=(str, int, click.Path(path_type=Path)), hidden=True, help="For the child process.")
@output_option(RESULT)
@json_option
def main(resume: bool, table: bool, one: tuple[str, int, Path] | None, output: Path, as_json: bool) -> None:
    """Export 30 timm models with random weights and build TensorRT-RTX engines. Exit code 1 if a model failed."""
    if one is not None:
        name, size, folder = one
        click.echo(json.dumps(measure(name, size or None, folder)))
        return
    if table:
        click.echo(table_from_document(json.loads(output.read_text(encoding="utf-8"))))
        return
    document = run(ZOO, output, command_line(), resume)
    click.echo(json.dumps(document, indent=2) if as_json else table_from_document(document))
    sys.exit(0 if all(row["passed"] for row in document["models"]) else 1)
