"""`tokfilter triton-repo`: a Triton model repository from an export directory.

    DIR/models/NAME/config.pbtxt, labels.txt, 1/model.onnx or 1/model.plan
    DIR/plugins/libtokfilter_plugin_static.so    where a plan needs it
    DIR/start.sh                                 starts Triton
    DIR/README.md                                models, inputs, how to measure

Models have a folder of their own because Triton reads every folder of a repository as a model.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokfilter.artifacts.checked import checked_copy
from tokfilter.artifacts.files import inside, new_folder
from tokfilter.artifacts.manifest import Entry, Manifest, load_manifest
from tokfilter.artifacts.pixels import in_form
from tokfilter.errors import ExportError
from tokfilter.export.onnx_file import load_graph, save_graph
from tokfilter.export.serving.serving_graph import batched_slots_graph, outputs_of, require_same
from tokfilter.export.serving.triton_config import LABELS, TritonOptions, config_from_entry, text_from_config
from tokfilter.export.serving.triton_readme import readme, start_line
from tokfilter.kernels.build import self_registering_path

__all__ = ["Repository", "triton_repository"]

_BATCH: Final = 2


@dataclass(frozen=True)
class Repository:
    """A repository that was written.

    models: name -> ModelConfig
    left_out: reason -> files of the export that are not in it
    start: the command that starts Triton; $here is the repository's folder
    """

    models: dict[str, Any]
    left_out: dict[str, list[str]]
    start: str


def triton_repository(
    source: str | Path,
    target: str | Path,
    options: TritonOptions | None = None,
    full: bool = False,
    plugin: Path | None = None,
) -> Repository:
    """Write a model repository; ``target`` must not exist.

    full: also the models that keep every token
    plugin: the self-registering plugin library; None for the one built here, where a plan needs one
    Raises DataError, EngineError (changed bytes), ExportError, MissingDependencyError, VerificationError; then nothing
    is written.
    """
    source, target = Path(source), Path(target)
    manifest, options = load_manifest(source), options or TritonOptions()
    manifest.model.require_one_row("a Triton repository")
    chosen, left_out = _selected_entries(manifest, full)
    if not chosen:
        raise ExportError(
            f"{source} holds no model that Triton runs: {_reasons(left_out) or 'its manifest lists no models'}."
        )
    with new_folder(target) as folder:
        models = {}
        for entry in chosen:
            name = _name(entry)
            models[name] = config_from_entry(name, entry, manifest.model, options)
            _write_model(source, inside(folder / "models", name), entry, manifest, models[name])
        library = _add_plugin(folder, chosen, plugin)
        start = start_line(chosen, library)
        _write_start(folder / "start.sh", start)
        page = readme(manifest.model, dict(zip(models, chosen, strict=True)), models, left_out, start)
        (folder / "README.md").write_text(page, encoding="utf-8")
    return Repository(models, left_out, start)


def _selected_entries(manifest: Manifest, full: bool) -> tuple[list[Entry], dict[str, list[str]]]:
    chosen: list[Entry] = []
    left_out: dict[str, list[str]] = {}
    for entry in manifest.files:
        if entry.role == "filtered" or (entry.role == "full" and full):
            reason = _reason_to_leave_out(entry)
            if reason:
                left_out.setdefault(reason, []).append(entry.path)
            else:
                chosen.append(entry)
    return chosen, left_out


def _reason_to_leave_out(entry: Entry) -> str | None:
    if entry.runtime == "tensorrt-rtx":
        return "Triton has no backend for TensorRT-RTX"
    if entry.runtime == "onnx-cuda":
        return "Triton gets the plain graph"
    if entry.runtime == "onnx-plugin":
        return "TensorRT builds a plan from it (`tokfilter engine --trt`), and Triton runs that plan"
    if entry.runtime == "onnx" and entry.precision == "bf16":
        return "ONNX Runtime has no bf16 kernels for every operator"
    return None


def _reasons(left_out: dict[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(paths)}: {reason}" for reason, paths in left_out.items())


def _name(entry: Entry) -> str:
    parts = [entry.role, "" if entry.budget is None else f"k{entry.budget}", entry.precision or "", entry.runtime or ""]
    return "_".join(part for part in parts if part)


def _write_model(source: Path, folder: Path, entry: Entry, manifest: Manifest, config: Any) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    model = version / config.default_model_filename
    if entry.runtime == "onnx" and entry.role == "filtered" and entry.budget is None:
        with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
            original = checked_copy(source, entry, Path(scratch))
            save_graph(batched_slots_graph(load_graph(original)), model)
            _check_batched(original, model, manifest, entry)
    else:
        checked_copy(source, entry, version).rename(model)
    (folder / "config.pbtxt").write_text(text_from_config(config), encoding="utf-8")
    if manifest.model.class_names:
        names = "".join(f"{' '.join(name.split())}\n" for name in manifest.model.class_names)
        (folder / LABELS).write_text(names, encoding="utf-8")


def _check_batched(original: Path, model: Path, manifest: Manifest, entry: Entry) -> None:
    """Compare the rewritten graph with the exported one, at the model's budget and at the largest of the graph."""
    card = manifest.model
    noise = np.random.default_rng(0).standard_normal((_BATCH, *card.input_size), np.float32)
    images = in_form(noise, card.input, card.preprocessing["mean"], card.preprocessing["std"])
    for k in {card.keep, card.num_patches if entry.budget_range is None else entry.budget_range[2]}:
        expected = outputs_of(original, entry.precision, {"images": images, "slots": np.zeros(k, np.int32)})
        found = outputs_of(model, entry.precision, {"images": images, "slots": np.zeros((_BATCH, k), np.int32)})
        require_same(model, found[card.output_name], expected[card.output_name], entry.precision)


def _add_plugin(folder: Path, chosen: Sequence[Entry], plugin: Path | None) -> Path | None:
    with_plugin = [entry for entry in chosen if entry.target.get("plugin") not in (None, "serialized")]
    if not with_plugin:
        return None
    library = plugin or self_registering_path()
    if not library.is_file():
        raise ExportError(f"--plugin must be the self-registering plugin library, but there is no file at {library}.")
    (folder / "plugins").mkdir()
    shutil.copyfile(library, folder / "plugins" / library.name)
    return Path("plugins") / library.name


def _write_start(path: Path, start: str) -> None:
    path.write_text(f'#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\nexec {start} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
