"""Command-line options of engine builds, shared by `export` and `engine`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from tokfilter.artifacts.manifest import Entry
    from tokfilter.export.options import ExportOptions

__all__ = ["build_options", "check_engine_options", "engine_lines", "export_options_from_params"]

_ENGINE_OPTIONS: Final = ("batch", "budget", "workspace", "compute_capability")


def build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; ``export_options_from_params`` reads them."""
    for option in (
        click.option(
            "--hardware-compatibility",
            "hardware",
            type=click.Choice(["none", "ampere+", "same-cc"]),
            default="none",
            show_default=True,
            help="Other GPUs that a TensorRT plan runs on.",
        ),
        click.option(
            "--version-compatible",
            is_flag=True,
            help="TensorRT plans that later versions run too, with the plugin inside.",
        ),
        click.option("--workspace", type=click.IntRange(min=1), help="Scratch memory that TensorRT may use, in MiB."),
        click.option(
            "--compute-capability", multiple=True, help="Target of TensorRT-RTX, such as SM89.  [default: all]"
        ),
        click.option(
            "--no-plugin", is_flag=True, help="Build TensorRT engines from native ops, without the fused kernel."
        ),
        click.option("--rtx", is_flag=True, help="Build TensorRT-RTX engines; no GPU is needed."),
        click.option("--trt", is_flag=True, help="Build TensorRT engines."),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "fp16", "bf16", "int8", "fp8"]),
            multiple=True,
            default=["fp32"],
            show_default=True,
            help="Type of weights and matrix products; repeat it for more than one set. int8, and fp8 for TensorRT: of "
            "Linear layers, the rest in fp32.",
        ),
        click.option(
            "--no-verify",
            is_flag=True,
            help="Compare neither graphs with torch nor engines with the golden tensors; recorded in the manifest.",
        ),
        click.option(
            "--auto-fp32-builds",
            type=click.IntRange(min=1),
            default=13,
            show_default=True,
            help="Most graphs or engines to build for --auto-fp32.",
        ),
        click.option(
            "--auto-fp32",
            is_flag=True,
            help="Where fp16 or bf16 differs by more than the tolerance, find the layers that need fp32 and keep them.",
        ),
        click.option("--budget", help="Budgets of engines in tokens, min:opt:max.  [default: 1:the model's own:all]"),
        click.option("--batch", default="1:8:32", show_default=True, help="Batch sizes of engines, min:opt:max."),
    ):
        command = option(command)
    return command


def check_engine_options() -> None:
    """Refuse options of engines where none is built: graphs take any batch and budget. Raises click.UsageError."""
    context = click.get_current_context()
    if context.params["trt"] or context.params["rtx"]:
        return
    for name in _ENGINE_OPTIONS:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is for engines, and none is built: add --trt or --rtx, or leave it out. "
                "Graphs take any batch and any budget; --keep writes one of a fixed budget."
            )


def export_options_from_params(
    batch: str,
    budget: str | None,
    precision: tuple[str, ...],
    no_plugin: bool,
    no_verify: bool,
    compute_capability: tuple[str, ...],
    **rest: Any,
) -> "ExportOptions":
    """ExportOptions from the parameters of a command. Raises BudgetError, ExportError."""
    from tokfilter.export.options import ExportOptions, range_from_text

    return ExportOptions(
        batch_range=range_from_text(batch),
        budget_range=None if budget is None else range_from_text(budget),
        precisions=tuple(dict.fromkeys(precision)),  # type: ignore[arg-type]  # click has checked the choices
        plugin=not no_plugin,
        verify=not no_verify,
        compute_capabilities=compute_capability,
        **rest,
    )


def engine_lines(entry: "Entry") -> list[str]:
    """What a user has to know of a graph or engine: that it was not compared, and its layers in fp32."""
    lines = []
    if entry.verified is False:
        lines.append(f"{entry.path} was not compared with the golden tensors: {entry.unverified}")
    if entry.kept_fp32:
        kept = entry.kept_fp32
        rest = "" if kept["minimal"] else "; fewer may do, with more --auto-fp32-builds"
        lines.append(f"{entry.path} keeps in fp32: {', '.join(kept['groups'])} ({kept['probes']} builds{rest})")
    return lines
