"""tokfilter inline."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokfilter.commands.fuse import numbers_from_sizes
from tokfilter.commands.json_output import print_json

if TYPE_CHECKING:
    from tokfilter.export.inline import InlineReport

__all__ = ["inline"]


@click.command(epilog="Example: tokfilter inline model.onnx -o plain.onnx")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The ONNX file to write.")
@click.option("--verify/--no-verify", default=True, help="Compare both graphs in ONNX Runtime, bit for bit.")
@click.option(
    "--size", "sizes", multiple=True, metavar="NAME=N", help="Size of a free input dimension in the comparison."
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def inline(source: Path, output: Path, verify: bool, sizes: tuple[str, ...], as_json: bool) -> None:
    """Write the ONNX file SOURCE in standard operators: no TokenSelect node and no model-local functions.

    For OpenVINO, tract, IREE, MNN, TVM and other runtimes that look up no functions. `tokfilter export` writes such
    files by itself.
    """
    from tokfilter.export.inline import inline_graph

    report = inline_graph(source, output, verify=verify, sizes=numbers_from_sizes(sizes))
    if as_json:
        print_json("inline", report.as_dict())
    else:
        click.echo(_text(report, output))


def _text(report: "InlineReport", output: Path) -> str:
    replaced = ", ".join(f"{count} {name}" for name, count in report.replaced.items())
    compared = " and ".join(str(list(shapes.values())) for shapes in report.compared_at)
    checked = f"the same bits as before at inputs {compared}" if compared else "not compared (--no-verify)"
    lines = [
        f"{output}: operators in the place of {replaced}; {report.nodes_before} nodes before, {report.nodes_after} "
        f"after; {checked}"
    ]
    if report.other_domains:
        others = ", ".join(f"{count} {name}" for name, count in report.other_domains.items())
        lines.append(f"not standard operators, and left as they are: {others}")
    return "\n".join(lines)
