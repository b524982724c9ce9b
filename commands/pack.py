"""tokfilter pack."""

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Tar file to write.")
@click.option("--plugin", type=click.Path(path_type=Path), help="Plugin library, built for the machine of the kit.")
@click.option("--engines", is_flag=True, help="Take engines along, for machines like the one that built them.")
def pack(directory: Path, output: Path, plugin: Path | None, engines: bool) -> None:
    """Pack an export DIRECTORY for a machine without torch, a Jetson for one.

    The kit holds graphs, golden tensors, this tokfilter, the sources of the plugin and the C++ library, and a README
    with the commands that verify, build and measure.
    """
    from tokfilter.export.serving.edge_bundle.pack import pack as write

    kit = write(directory, output, plugin, engines)
    click.echo(f"{kit.bytes / 1e6:.1f} MB, {len(kit.files)} files  {kit.path}")
    click.echo(f"sha256 {kit.sha256}")
    if kit.left_out:
        click.echo(f"left behind, another machine's: {', '.join(kit.left_out)} (--engines takes them along)")
    click.echo(f"there: tar xf {kit.path.name} && cd {kit.path.stem} && sh run.sh")
