"""tokfilter plugin."""

from pathlib import Path

import click


@click.group()
def plugin() -> None:
    """Build the TensorRT plugin of TokenSelect from the installed sources, or say where it is."""


@plugin.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Build folder (default: in the user's cache).")
@click.option("--tensorrt", type=click.Path(path_type=Path), help="Folder of a TensorRT SDK, or of its headers.")
@click.option("--architectures", help='CUDA architectures as CMake takes them, e.g. "87" for Orin, or "native".')
@click.option("--fetch-headers", is_flag=True, help="Take TensorRT's headers from a wheel where there are none.")
def build(output: Path | None, tensorrt: Path | None, architectures: str | None, fetch_headers: bool) -> None:
    """Compile the plugin libraries for this machine's TensorRT."""
    from tokfilter.kernels.build import build_plugin

    click.echo("compiling, a minute or two ...", err=True)
    built = build_plugin(output, tensorrt, architectures, fetch=fetch_headers)
    click.echo(f"{built.dynamic}  for TensorRT's plugin registry")
    if built.self_registering:
        click.echo(f"{built.self_registering}  for hosts that load it with dlopen (Triton, DeepStream, ONNX Runtime)")
    else:
        click.echo("The self-registering library was left out: it links libnvinfer, which is not here.", err=True)


@plugin.command()
def path() -> None:
    """Print where the plugin library is."""
    from tokfilter.kernels.build import plugin_path

    click.echo(plugin_path())
