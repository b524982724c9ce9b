"""tokfilter pack."""

from dataclasses import asdict
from pathlib import Path

import click

from tokfilter.commands.json_output import json_option, print_json


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Tar file to write.")
@click.option("--plugin", type=click.Path(path_type=Path), help="Plugin library, built for the device.")
@click.option("--engines", is_flag=True, help="Include engines, for devices like the one that built them.")
@json_option
def pack(directory: Path, output: Path, plugin: Path | None, engines: bool, as_json: bool) -> None:
    """Pack an export DIRECTORY into an edge bundle, for a device without torch such as a Jetson.

    It holds graphs, golden tensors, this tokfilter, the sources of the plugin and the C++ library, and a README
    with the commands that verify, build and measure.
    """
    from tokfilter.export.serving.edge_bundle.pack import pack as write

    bundle = write(directory, output, plugin, engines)
    if as_json:
        print_json("pack", asdict(bundle))
        return
    click.echo(f"{bundle.bytes / 1e6:.1f} MB, {len(bundle.files)} files  {bundle.path}")
    click.echo(f"sha256 {bundle.sha256}")
    if bundle.left_out:
        click.echo(f"not included, built for this machine: {', '.join(bundle.left_out)} (--engines includes them)")
    click.echo(f"on the device: tar xf {bundle.path.name} && cd {bundle.path.stem} && sh run.sh")
