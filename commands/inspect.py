"""tokfilter inspect."""

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.commands.json_output import print_json

if TYPE_CHECKING:
    from tokfilter.commands.terminal import Terminal


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(path: Path, as_json: bool) -> None:
    """Show the contents of PATH: a bundle, any ONNX graph, or an export directory."""
    from tokfilter.commands.terminal import Terminal

    found = _found(path)
    if as_json:
        print_json("inspection", found)
        return
    console = Terminal()
    {"bundle": _print_bundle, "graph": _print_graph, "export": _print_export}[found["kind"]](found, console)


def _found(path: Path) -> dict[str, Any]:
    """Raises MissingDependencyError with one package of graphs: the extra `export` brings torch, too."""
    from tokfilter.errors import MissingDependencyError
    from tokfilter.export.inspect import inspect_path

    try:
        return inspect_path(path)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "onnx_ir"):
            raise
        raise MissingDependencyError(
            f"{path} is no bundle, and ONNX graphs are read with the package onnx-ir: pip install onnx-ir"
        ) from error


def _facts(console: "Terminal", rows: list[tuple[str, object]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(escape(name), escape(str(value)))
    console.print(table)


def _print_bundle(found: dict[str, Any], console: "Terminal") -> None:
    parameters, macs = found["parameters"], found["macs"]
    _facts(
        console,
        [
            ("bundle", found["path"]),
            ("architecture", f"{found['architecture']} {found['arguments'] or ''}".strip()),
            ("input", "×".join(map(str, found["input_size"]))),
            ("tokens", _tokens(found["prefix_tokens"], found["patches"])),
            ("kept by default", f"{found['keep']} patch tokens: {_blocks(found)}"),
            ("classes", f"{found['classes']}, {found['class_names'] or 'none'} of them named"),
            ("parameters", f"{parameters['backbone']:,} + filter {parameters['filter']:,}"),
            ("MACs per image", f"{_giga(macs['kept'])} kept, {_giga(macs['full'])} full"),
            ("reducer", _reducer(found["reducer"])),
            ("golden", f"{found['golden']['images']} images at {found['golden']['budgets']} tokens"),
            ("training record", ", ".join(found["training"]) or "empty"),
            ("size", f"{found['bytes'] / 1e6:.1f} MB"),
        ],
    )


def _print_graph(found: dict[str, Any], console: "Terminal") -> None:
    _facts(
        console,
        [
            ("graph", found["path"]),
            ("written by", f"{found['producer'] or 'unknown'}{', for tokfilter' if found['ours'] else ''}"),
            ("opsets", ", ".join(f"{domain} {number}" for domain, number in found["opsets"].items())),
            ("inputs", ", ".join(map(_value, found["inputs"]))),
            ("outputs", ", ".join(map(_value, found["outputs"]))),
            ("parameters", f"{found['parameters']:,}"),
            ("MACs per image", ", ".join(f"{_giga(n)} {name}" for name, n in found["macs"].items())),
            ("size", f"{found['bytes'] / 1e6:.1f} MB"),
        ],
    )
    for site in found["sites"]:
        body = "with its function body" if site["has_function"] else "without its function body: needs the plugin"
        body = "as standard operators" if site["plain"] else body
        console.print(
            f"\nTokenSelect at {site['node']}: {_open(site['tokens_in'])} → {_open(site['tokens_out'])} tokens, {body}",
            markup=False,
        )
    if not found["sites"]:
        console.print("\nno TokenSelect: `tokfilter fuse` inserts it where a graph gathers after a top-k", style="dim")
    _print_attentions(found["attentions"], console)
    _print_operators(found["operators"], bool(found["sites"]), console)


def _print_attentions(attentions: list[dict[str, Any]], console: "Terminal") -> None:
    if not attentions:
        return
    console.print("\ntokens in each attention")
    runs: list[tuple[str, str, str]] = []
    for attention in attentions:
        size = f"{_open(attention['queries'])} × {_open(attention['keys'])}"
        if runs and runs[-1][2] == size:
            runs[-1] = (runs[-1][0], attention["node"], size)
        else:
            runs.append((attention["node"], "", size))
    _facts(console, [(f"  {size}", f"{first} … {last}" if last else first) for first, last, size in runs])


def _print_operators(operators: dict[str, dict[str, int]], chosen: bool, console: "Terminal") -> None:
    from rich.markup import escape
    from rich.table import Table

    before, after = operators["before"], operators["after"]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("operator")
    for name in ("before TokenSelect", "after", "all") if chosen else ("all",):
        table.add_column(name, justify="right")
    names = sorted({*before, *after}, key=lambda name: (-before.get(name, 0) - after.get(name, 0), name))
    for name in names:
        counts = [before.get(name, 0), after.get(name, 0)]
        table.add_row(escape(name), *(str(n or "") for n in counts if chosen), str(sum(counts)))
    console.print()
    console.print(table)


def _print_export(found: dict[str, Any], console: "Terminal") -> None:
    from rich.markup import escape
    from rich.table import Table

    model, verification = found["model"], found["verification"]
    macs = ", ".join(
        f"{_giga(n)} at {k} tokens" if k != "full" else f"{_giga(n)} full" for k, n in model["macs"].items()
    )
    checked = f"{verification['passed']} of {verification['checks']} checks passed"
    if verification["largest_relative_error"] is not None:
        checked += f", largest relative error {verification['largest_relative_error']:.1e}"
    _facts(
        console,
        [
            ("export", found["path"]),
            ("architecture", model["architecture"]),
            ("tokens", _tokens(model["prefix_tokens"], model["patches"])),
            ("kept by default", f"{model['keep']} patch tokens"),
            ("MACs per image", macs),
            (
                "source",
                f"{found['source'].get('name')} ({found['source'].get('sha256', '')[:12]}…), {found['created']}",
            ),
            ("verification", verification["skipped"] or checked),
        ],
    )
    console.print()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("", "file", "role", "for", "type", "kept", "MB"):
        table.add_column(name, no_wrap=name != "file", overflow="fold", justify="right" if name == "MB" else "left")
    for file in found["files"]:
        mark = "[green]✓[/]" if file["error"] is None else "[red]✗[/]"
        kept = file["budget"] or (":".join(map(str, file["budget_range"])) if file["budget_range"] else "")
        row = (file["role"], file["runtime"] or "", file["precision"] or "", str(kept), f"{file['bytes'] / 1e6:.1f}")
        table.add_row(mark, escape(file["path"]), *row)
    console.print(table)
    for file in found["files"]:
        if file["error"] is not None:
            console.print(f"[red]✗[/] {escape(file['error'])}", soft_wrap=True)


def _tokens(prefix: int, patches: int) -> str:
    return f"{patches} patches + {prefix} prefix" if prefix else f"{patches} patches"


def _reducer(found: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {json.dumps(value)}" for name, value in found["settings"].items())
    return f"{found['name']}{f' ({settings})' if settings else ''}"


def _blocks(found: dict[str, Any]) -> str:
    """Runs of blocks with the same number of tokens in their attention."""
    runs = [(tokens, len(list(run))) for tokens, run in groupby(found["blocks"])]
    return ", then ".join(f"{count} block{'s' * (count != 1)} of {tokens} tokens" for tokens, count in runs)


def _value(value: dict[str, Any]) -> str:
    return f"{value['name']} {value['type']} [{', '.join(map(str, value['shape']))}]"


def _giga(macs: int | None) -> str:
    if macs is None:
        return "unknown (open shapes)"
    return f"{macs / 1e9:.2f} G" if macs >= 1e8 else f"{macs / 1e6:.1f} M"


def _open(length: int | None) -> str:
    return "?" if length is None else str(length)
