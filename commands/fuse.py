"""tokfilter fuse."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from tokfilter.commands.json_output import print_json
from tokfilter.commands.progress import step_status
from tokfilter.commands.terminal import Terminal

if TYPE_CHECKING:
    from tokfilter.export.fuse import FusedSite, FuseReport

__all__ = ["fuse", "numbers_from_sizes"]


@click.command(epilog="Example: tokfilter fuse evit.onnx -o evit_fused.onnx")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The ONNX file to write.")
@click.option(
    "--to",
    type=click.Choice(["node", "plain"]),
    default="node",
    show_default=True,
    help="The node TokenSelect for TensorRT's plugin, with a function body for other runtimes; or standard operators "
    "only, for runtimes that read no functions.",
)
@click.option("--verify/--no-verify", default=True, help="Compare both graphs in ONNX Runtime, bit for bit.")
@click.option(
    "--strip-functions", is_flag=True, help="Leave out the function body: for the plugin on TensorRT before 10.7."
)
@click.option(
    "--size", "sizes", multiple=True, metavar="NAME=N", help="Size of a free input dimension in the comparison."
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def fuse(
    source: Path, output: Path, to: str, verify: bool, strip_functions: bool, sizes: tuple[str, ...], as_json: bool
) -> None:
    """Replace top-k and gather in the ONNX file SOURCE by TokenSelect.

    Prints the replaced nodes and, for every other top-k, the reason why it was not replaced.
    """
    if strip_functions and to == "plain":
        raise click.UsageError("--strip-functions leaves out the body of the node, and --to plain writes no node.")
    from tokfilter.export.fuse import fuse_graph
    from tokfilter.runtime.memory_bound import bounded_memory

    numbers = numbers_from_sizes(sizes)
    images = max([3, *numbers.values()])
    with step_status("looking for top-k and gather, and comparing the graphs"), bounded_memory(source, images):
        report = fuse_graph(source, output, verify=verify, functions=not strip_functions, sizes=numbers, to=to)
    if as_json:
        print_json("fuse", report.as_dict())
    else:
        _show(report, output)


def numbers_from_sizes(sizes: tuple[str, ...]) -> dict[str, int]:
    """Values of --size, name -> number. Raises click.BadParameter."""
    numbers = {}
    for size in sizes:
        name, _, number = size.rpartition("=")
        if not name or not (number.isdecimal() and len(number) < 10) or int(number) < 1:
            raise click.BadParameter(f"expected NAME=N with N >= 1, got {size!r:.100}.", param_hint="--size")
        numbers[name] = int(number)
    return numbers


def _show(report: "FuseReport", output: Path) -> None:
    table = Table("node", "tokens", "k", "prefix", "order", "replaces", caption=escape(f"{output}: {_summary(report)}"))
    for site in report.sites:
        cells = (site.node, site.tokens, str(site.k), str(site.prefix_tokens), site.order, _operators(site))
        table.add_row(*map(escape, cells))
    for miss in report.near_misses:
        table.add_row(escape(miss.node), "not replaced", "", "", "", escape(miss.reason))
    Terminal().print(table)


def _summary(report: "FuseReport") -> str:
    compared = " and ".join(str(list(shapes.values())) for shapes in report.compared_at)
    checked = f"the same bits as before at inputs {compared}" if compared else "not compared (--no-verify)"
    return (
        f"{report.matched} matched, {report.replaced} replaced, {len(report.near_misses)} not replaced; "
        f"{report.nodes_before} nodes before, {report.nodes_after} after; opset {report.opset}; {checked}"
    )


def _operators(site: "FusedSite") -> str:
    counts = Counter(name for name in site.replaced if name != "Constant")
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in sorted(counts.items()))
