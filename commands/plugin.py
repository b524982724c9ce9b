"""tokfilter plugin."""

from dataclasses import asdict
from pathlib import Path

import click

from tokfilter.commands.json_output import json_option, print_json
from tokfilter.commands.progress import step_status


@click.group()
def plugin() -> None:
    """Build the TensorRT plugin of TokenSelect from the installed sources, or print its path or that of the headers."""


@plugin.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Build folder. Default: in the user's cache.")
@click.option(
    "--tensorrt",
    type=click.Path(path_type=Path),
    help="Folder of a TensorRT SDK or of its headers (8.5, 8.6, 10.3 or later).",
)
@click.option("--architectures", help='CUDA architectures as CMake takes them, e.g. "87" for Orin, or "native".')
@click.option("--fetch-headers", is_flag=True, help="Download TensorRT's headers (a wheel) when none are installed.")
@json_option
def build(
    output: Path | None, tensorrt: Path | None, architectures: str | None, fetch_headers: bool, as_json: bool
) -> None:
    """Compile the plugin libraries for this machine's TensorRT."""
    from tokfilter.kernels.build import build_plugin

    click.echo("compiling, one to two minutes ...", err=True)
    with step_status("compiling"):
        built = build_plugin(output, tensorrt, architectures, fetch=fetch_headers)
    if as_json:
        print_json("plugin", asdict(built))
        return
    click.echo(f"TensorRT {built.version}: plugin class {built.interface}", err=True)
    if built.dynamic:
        click.echo(f"{built.dynamic}  for TensorRT's plugin registry")
    if built.self_registering:
        click.echo(f"{built.self_registering}  for hosts that load it with dlopen (Triton, DeepStream, ONNX Runtime)")
    else:
        click.echo("The self-registering library was not built: it links libnvinfer, which was not found.", err=True)


@plugin.command()
@click.option("--for", "version", help="TensorRT version that will load it, e.g. 8.6. Default: the installed one.")
@json_option
def path(version: str | None, as_json: bool) -> None:
    """Print the path of the plugin library."""
    from tokfilter.kernels.build import plugin_path

    found = plugin_path(version=version)
    if as_json:
        print_json("plugin-path", {"path": found})
    else:
        click.echo(found)


@plugin.command()
@click.option("--fetch", is_flag=True, help="Download them (a wheel) when none are installed.")
@json_option
def headers(fetch: bool, as_json: bool) -> None:
    """Print the folder of TensorRT's headers, e.g. for the C++ library's -DTENSORRT_INCLUDE_DIR."""
    from tokfilter.kernels.tensorrt_headers import find_headers

    found = find_headers(fetch=fetch)
    if as_json:
        print_json("plugin-headers", {"folder": found})
    else:
        click.echo(found)
