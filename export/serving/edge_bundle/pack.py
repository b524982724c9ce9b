"""`tokfilter pack`: write an edge bundle, a tar file with which a device without torch runs and measures an export."""

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.files import existing_file, sha256
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import Entry, Manifest, entry_from_file, load_manifest
from tokfilter.errors import DataError, ExportError
from tokfilter.export.add_plugin_graphs import add_plugin_graphs
from tokfilter.export.serving.edge_bundle.archive import Content, Listed, write_tar
from tokfilter.export.serving.edge_bundle.pages import readme, run_script
from tokfilter.export.serving.edge_bundle.source import native_sources, own_package
from tokfilter.export.serving.edge_bundle.wheel import wheel_bytes, wheel_name

__all__ = ["EdgeBundle", "pack"]

_SUMS: Final = "SHA256SUMS"
_REQUIREMENTS: Final = Path(__file__).parent / "requirements"
"""Packages of the steps with their hashes, by `make lock`."""

_ELF: Final = b"\x7fELF"


@dataclass(frozen=True)
class EdgeBundle:
    """A bundle that was written.

    left_out: files of the export that are not in it, because they run on the machine that built them only
    """

    path: Path
    files: list[str]
    bytes: int
    sha256: str
    left_out: list[str]


def pack(directory: str | Path, output: str | Path, plugin: Path | None = None, engines: bool = False) -> EdgeBundle:
    """Write the edge bundle of an export directory to ``output``; equal exports give equal bytes.

    plugin: a plugin library built for the device
    engines: include engines and timing caches, for devices like the one that built them
    Where the export has no graphs with the node TokenSelect for TensorRT's plugin, the bundle gets them.
    Raises DataError, EngineError for a file that is not the manifest's, ExportError when ``output`` exists,
    MissingDependencyError.
    """
    directory, output = Path(directory), Path(output)
    if output.suffix != ".tar":
        raise DataError(f"an edge bundle is a .tar file, got -o {output}.")
    if output.exists():
        raise ExportError(f"{output} exists already and is not overwritten: choose another name, or remove it.")
    manifest = load_manifest(directory)
    _check_files(directory, manifest)
    kept = [entry for entry in manifest.files if engines or _is_portable(entry)]
    left_out = [entry.path for entry in manifest.files if entry not in kept]
    if plugin is not None:
        kept = [entry for entry in kept if entry.role != "plugin"]
    contents = _contents(directory, kept)
    if plugin is not None:
        kept.append(_plugin(plugin))
        contents[f"out/{kept[-1].path}"] = Listed(plugin.parent, plugin.name, kept[-1].sha256)
    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        added = add_plugin_graphs(directory, Path(scratch), kept)
        contents |= _contents(Path(scratch), added)
        # The choice of `tokfilter tune` is valid on the machine that it measured only.
        contents |= _own_files(replace(manifest, files=[*kept, *added], choice={}))
        sums = {name: _digest(content) for name, content in contents.items()}
        contents[_SUMS] = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()
        write_tar(output, output.stem, contents, programs={"run.sh"})
    return EdgeBundle(output, sorted(contents), output.stat().st_size, sha256(output), left_out)


def _check_files(directory: Path, manifest: Manifest) -> None:
    for entry in manifest.files:
        check_file(directory, entry)
    if not manifest.entries("golden"):
        raise DataError(f"{directory} holds no golden tensors to verify engines with. Export again.")


def _is_portable(entry: Entry) -> bool:
    """Whether the file may run elsewhere: graphs, golden tensors, the plugin. An engine runs on its own GPU only."""
    return entry.role in ("golden", "plugin") or entry.runtime in ("onnx", "onnx-plugin", "onnx-tensorrt8")


def _contents(directory: Path, entries: Iterable[Entry]) -> dict[str, Content]:
    """Files of the export with external weights; what is written of them has the manifest's sums."""
    return {
        f"out/{name}": Listed(directory, name, digest)
        for entry in entries
        for name, digest in {entry.path: entry.sha256, **entry.external}.items()
    }


def _plugin(path: Path) -> Entry:
    with existing_file(path, "--plugin").open("rb") as file:
        if file.read(4) != _ELF:
            raise DataError(f"--plugin must be a shared library (.so), and {path} is none.")
    return entry_from_file(path.parent, path.name, "plugin", runtime="tensorrt")


def _own_files(manifest: Manifest) -> dict[str, Content]:
    """Everything but the export: the package, native sources, README and script."""
    package = own_package()
    wheel = wheel_name(package)
    own: dict[str, Content] = {f"src/{name}": path for name, path in native_sources().items()}
    own |= {f"requirements/{path.name}": path for path in sorted(_REQUIREMENTS.glob("*.txt"))}
    return own | {
        f"out/{MANIFEST}": manifest.text().encode(),
        wheel: wheel_bytes(package),
        "LICENSE": package.licence.encode(),
        "README.md": readme(manifest, wheel, package.version).encode(),
        "run.sh": run_script(manifest, wheel).encode(),
    }


def _digest(content: Content) -> str:
    if isinstance(content, Listed):
        return content.sha256
    return sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
