"""tokfilter doctor."""

from typing import Any

import click

from tokfilter.commands.json_output import print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show which commands run on this machine, what is missing, and how to install it."""
    from tokfilter.commands.machine_check import machine_report

    report = machine_report()
    if as_json:
        print_json("doctor", report)
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tokfilter.commands.terminal import Terminal

    console = Terminal()
    system = report["system"]
    console.print(
        f"tokfilter {system['tokfilter']}, Python {system['python']}, {system['cores']} cores, {system['system']}",
        highlight=False,
        soft_wrap=True,
    )
    parts = Table("", "part", "found", "how to install it", box=None, padding=(0, 2, 0, 0))
    for group in report["findings"].values():
        for item in group:
            present = item["found"] is not None
            mark = "[green]✓[/]" if present else "[red]✗[/]"
            parts.add_row(
                mark, item["name"], escape(item["found"] or "missing"), "" if present else escape(item["remedy"])
            )
    console.print(parts)
    abilities = Table("", "command", "missing", box=None, padding=(0, 2, 0, 0))
    for ability in report["abilities"]:
        mark = "[red]✗[/]" if ability["missing"] else "[green]✓[/]"
        abilities.add_row(mark, ability["name"], ", ".join(ability["missing"]))
    console.print()
    console.print(abilities)
    cpu = report["cpu"]
    console.print(f"\nThis CPU: {', '.join(cpu['features']) or 'no instructions that decide'}.", highlight=False)
    console.print(escape(cpu["sentence"]), highlight=False)
