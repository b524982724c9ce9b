"""Write the page of an export: a folder that any web server serves as it is."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.checked import checked_bytes
from tokfilter.artifacts.json_file import json_from_file
from tokfilter.artifacts.manifest import Entry, Manifest, load_manifest
from tokfilter.benchmarks.page.onnxruntime_web import VERSION, copy_files, fetched_package
from tokfilter.benchmarks.page.samples import write_samples
from tokfilter.errors import DataError, ExportError
from tokfilter.export.directory import FolderKind, replaced_folder
from tokfilter.runtime.predict import grid_from_card
from tokfilter.runtime.preprocess import preprocess_from_card
from tokfilter.trt.graph_file import has_functions

__all__ = ["DESCRIPTION", "Page", "write_page"]

DESCRIPTION: Final = "page.json"
FORMAT: Final = "tokfilter-page"

_MODELS: Final = {"filtered": "model.onnx", "full": "full.onnx"}
"""Role -> the graph's name in a page."""

_STATIC: Final = Path(__file__).parent / "static"
_LARGEST: Final = 2**31
"""Bytes of a graph: a browser's WebAssembly has 4 GB for the file, the weights and the activations of two models."""


@dataclass(frozen=True)
class Page:
    """A page that was written.

    bytes: of all files; models: of the two graphs
    samples: number of pictures
    """

    path: Path
    bytes: int
    models: int
    samples: int


def write_page(
    directory: str | Path,
    target: str | Path,
    images: Path | None = None,
    precision: str = "fp32",
    onnxruntime_web: Path | None = None,
) -> Page:
    """Write the page of an export directory to ``target``; an older page there is replaced.

    images: a folder with pictures to start with; None for the golden images
    precision: of the graphs
    onnxruntime_web: the npm package of ``onnxruntime_web.VERSION``; None to take it from the cache or fetch it
    Raises DataError, EngineError (changed bytes), ExportError, MissingDependencyError; then nothing is written.
    """
    directory, target = Path(directory), Path(target)
    manifest = load_manifest(directory)
    manifest.model.require_classifier("the page")
    transform, grid = preprocess_from_card(manifest.model), grid_from_card(manifest.model)
    models = {role: _entry(directory, manifest, role, precision) for role in _MODELS}
    with replaced_folder(target, _PAGES) as folder:
        shutil.copytree(_STATIC, folder, dirs_exist_ok=True)
        for role, entry in models.items():
            _copy_model(directory, role, entry, folder)
        package = fetched_package() if onnxruntime_web is None else onnxruntime_web
        copy_files(package, folder / "onnxruntime-web")
        samples = write_samples(folder / "samples", directory, manifest, transform, images)
        card = manifest.model
        description = {
            "architecture": card.architecture,
            "patches": card.num_patches,
            "grid": grid,
            "classes": card.classes,
            "class_names": card.class_names,
            "keep": card.keep,
            "precision": precision,
            "preprocessing": asdict(transform),
            "models": {role: _file(role, entry) for role, entry in models.items()},
            "samples": samples,
            "onnxruntime_web": VERSION,
        }
        _write_description(folder, description)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Page(target, size, sum(entry.bytes for entry in models.values()), len(samples))


def _entry(directory: Path, manifest: Manifest, role: Any, precision: str) -> Entry:
    """The graph of a role for ONNX Runtime, with the budget as an input. Raises ExportError."""
    graphs = [entry for entry in manifest.entries(role, "onnx") if entry.budget is None]
    found = next((entry for entry in graphs if entry.precision == precision), None)
    if found is None:
        others = ", ".join(sorted({str(entry.precision) for entry in graphs})) or "none"
        raise ExportError(
            f"{directory} holds no {role} graph in {precision} that takes any budget (there: {others}). Export again, "
            "or name another --precision."
        )
    if found.external or found.bytes > _LARGEST:
        raise ExportError(
            f"{directory / found.path} has weights of more than 2 GB, which no browser can hold. Make the page of a "
            "smaller model."
        )
    return found


def _copy_model(directory: Path, role: str, entry: Entry, folder: Path) -> None:
    target = folder / _MODELS[role]
    target.write_bytes(checked_bytes(directory, entry, _LARGEST))
    if has_functions(target):
        path = directory / entry.path
        raise ExportError(
            f"{path} has model-local functions, and a page holds standard operators only, which every runtime reads: "
            f"export again, or write a plain file of this one: tokfilter inline {path} -o plain.onnx."
        )


def _file(role: str, entry: Entry) -> dict[str, Any]:
    return {"path": _MODELS[role], "bytes": entry.bytes, "sha256": entry.sha256}


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = {"format": FORMAT, "version": 1, **description, "files": [*files, DESCRIPTION]}
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _listed(folder: Path) -> set[str]:
    """The files of a page. Raises DataError where page.json is not one of ours."""
    path = folder / DESCRIPTION
    try:
        content = json_from_file(path)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return {str(name) for name in content["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is of no page that tokfilter wrote ({error}). Choose another -o.") from error


_PAGES: Final = FolderKind("page", DESCRIPTION, _listed)
