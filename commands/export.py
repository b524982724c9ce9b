"""tokfilter export."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.artifacts.pixels import INPUT_FORMS
from tokfilter.commands.build_options import (
    build_options,
    check_engine_options,
    engine_lines,
    export_options_from_params,
)
from tokfilter.commands.json_output import print_json
from tokfilter.commands.progress import step_status

if TYPE_CHECKING:
    from tokfilter.artifacts.manifest import Manifest
    from tokfilter.commands.terminal import Terminal
    from tokfilter.export.verify import Check


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to write.")
@click.option("--keep", multiple=True, help=f"Also write a graph with this fixed budget: {KEEP_HELP}.")
@click.option(
    "--input",
    type=click.Choice(INPUT_FORMS),
    default="float",
    show_default=True,
    help="How the model takes images: float, normalised; uint8, pixels [B, 3, H, W] that the graph normalises; "
    "uint8-nhwc, pixels [B, H, W, 3].",
)
@click.option("--opset", type=int, default=18, show_default=True, help="ONNX operator set.")
@click.option("--cuda", is_flag=True, help="Also write each graph fused for ONNX Runtime's CUDA provider.")
@click.option(
    "--tensorrt8",
    type=click.Choice(["8.5", "8.6"]),
    multiple=True,
    help="Also write graphs for trtexec of this TensorRT (JetPack 5: 8.5, JetPack 6.0: 8.6).",
)
@build_options
@click.option(
    "--plugin-graphs",
    is_flag=True,
    help="Also write each graph with the node TokenSelect, for TensorRT's plugin; --trt does so too.",
)
@click.option(
    "--strip-functions",
    is_flag=True,
    help="Write these graphs without the node's function body: for the plugin on TensorRT before 10.7.",
)
@click.option(
    "--calibrate", type=click.Path(path_type=Path), help="Images for int8 and fp8, best in a folder per class."
)
@click.option(
    "--check-images",
    type=click.Path(path_type=Path),
    help="Images on which int8 and fp8 are compared with fp32.  [default: others of --calibrate]",
)
@click.option(
    "--max-drop", type=float, default=0.5, show_default=True, help="Points of top-1 that int8 and fp8 may lose."
)
@click.option("--verify-images", type=click.Path(path_type=Path), help="Also compare on every image of this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def export(bundle: Path, output: Path, as_json: bool, keep: tuple[str, ...], **params: Any) -> None:
    """Write BUNDLE (model.pt) as ONNX graphs, TensorRT engines and a manifest.

    model.onnx takes any batch and any budget, full.onnx keeps every token; both hold standard operators only. Each
    graph is compared with torch, and each engine on this GPU with torch's outputs, before anything is written. Where
    int8 or fp8 loses more top-1 than --max-drop, the layers that cost most stay fp32; exit code 3 where that does not
    help.
    """
    from tokfilter.artifacts.budget import keeps_from_text
    from tokfilter.export.pipeline import export_bundle
    from tokfilter.runtime.verification import check_engine

    options = export_options_from_params(keeps=tuple(keeps_from_text(keep)), **params)
    check_engine_options()
    checks: list[Check] = []
    try:
        with step_status("reading the bundle") as step:
            manifest = export_bundle(bundle, output, options, step, checks.append, check_engine)
    finally:
        if checks and not as_json:
            _print_checks(checks)
    for entry in manifest.files:
        for line in engine_lines(entry):
            click.echo(line, err=True)
    if as_json:
        print_json("manifest", json.loads(manifest.text()))
    else:
        _print_files(manifest, output)


def _print_checks(checks: "list[Check]") -> None:
    from rich.markup import escape
    from rich.table import Table

    from tokfilter.commands.terminal import Terminal

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("graph", no_wrap=True)
    for name in ("batch", "kept", "max error", "relative", "cosine", "top-1", "overlap"):
        table.add_column(name, justify="right", no_wrap=True)
    for check in checks:
        table.add_row(
            "[green]✓[/]" if check.passed else "[red]✗[/]",
            _name(check),
            str(check.batch),
            "all" if check.budget is None else str(check.budget),
            f"{check.max_abs:.1e}",
            f"{check.relative:.1e}",
            f"{check.cosine:.6f}",
            f"{100 * check.top1:.0f} %",
            "" if check.overlap is None else f"{100 * check.overlap:.1f} %",
        )
    console = Terminal()
    console.print(table)
    for check in checks:
        for error in check.errors:
            token = "" if check.worst_token is None else f", patch token {check.worst_token}"
            console.print(
                f"[red]✗[/] {check.path}, {escape(check.worst_image)}{token}: {escape(error)}", soft_wrap=True
            )


def _name(check: "Check") -> str:
    if check.emulated and ".fp16." in check.path:
        return "  rounded to fp16"
    return check.path if check.image_set == "golden" else f"  on {check.images} images"


def _print_files(manifest: "Manifest", output: Path) -> None:
    from tokfilter.commands.terminal import Terminal

    console = Terminal()
    if "skipped" in manifest.verification:
        console.print(f"not compared with torch: {manifest.verification['skipped']}", style="yellow")
    if damaged := manifest.verification.get("damaged", []):
        text = f"{len(damaged)} of --verify-images were left out, first: {damaged[0]}"
        console.print(text, style="yellow", markup=False, soft_wrap=True)
    for precision, record in manifest.verification.get("quantization", {}).items():
        _print_quantization(console, precision, record)
    for entry in manifest.files:
        console.print(f"{entry.bytes / 1e6:9.1f} MB  {output / entry.path}", markup=False, soft_wrap=True)
        if entry.runtime == "onnx-cuda":
            _print_fusions(console, entry.target)


def _print_quantization(console: "Terminal", precision: str, record: "dict[str, Any]") -> None:
    """The drop of top-1 per budget, and what these images can tell."""
    images, labelled = record["check_images"], record["labelled"]
    for row in record["budgets"]:
        what = (
            f"top-1 {100 * row['top1']:.2f} %, fp32 {100 * row['fp32_top1']:.2f} %, {row['drop']:+.2f} points lost"
            if labelled
            else f"top-1 class changed on {row['drop']:.2f} % of the images"
        )
        interval = f"({row['drop_low']:+.2f} to {row['drop_high']:+.2f})"
        kept = f"kept tokens {100 * row['same_tokens']:.1f} % equal"
        console.print(
            f"{precision:>9}  {row['tokens']} tokens: {what} {interval}, {kept}", markup=False, soft_wrap=True
        )
    if not labelled:
        console.print("the images have no labels: only a change of the top-1 class was counted", style="yellow")
    resolution = record["resolution"]
    if resolution is not None and resolution > record["max_drop"]:
        console.print(
            f"{images} images tell drops of {resolution:.2f} points and more from none; --max-drop is "
            f"{record['max_drop']:g}. More images, in --check-images, tell smaller ones.",
            style="yellow",
            soft_wrap=True,
        )
    if record["damaged"]:
        console.print(
            f"{len(record['damaged'])} damaged images were left out, first {record['damaged'][0]}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _print_fusions(console: "Terminal", fusions: "dict[str, Any]") -> None:
    """How many of how many were fused for CUDA, and why the others were not."""
    for kind, found in fusions.items():
        console.print(f"{'':14}{found['fused']} of {found['found']} {kind} fused", markup=False, style="dim")
        for reason, names in found["not_fused"].items():
            console.print(f"{'':16}{len(names)} not: {reason} ({names[0]})", markup=False, soft_wrap=True)
