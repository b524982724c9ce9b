"""`tokfilter deepstream`: a classifier for DeepStream's Gst-nvinfer from an export directory.

nvinfer builds the engine from the ONNX file, on the machine that runs it. It takes one image input and reads every
output as probabilities (``ClassifyPostprocessor::parseAttributesFromSoftmaxLayers``), so it would misread our plans,
which output logits and indices. The graph gets a fixed budget, a softmax, one output, and the part of the normalisation
that nvinfer has no setting for.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.checked import checked_copy
from tokfilter.artifacts.files import new_folder
from tokfilter.artifacts.manifest import Entry, Manifest, ModelCard, Role, load_manifest
from tokfilter.artifacts.pixels import in_form, normalise
from tokfilter.errors import ExportError
from tokfilter.export.functions import with_function, without_functions
from tokfilter.export.graph import fixed_graph_from_slots
from tokfilter.export.onnx_file import load_graph, save_graph
from tokfilter.export.pixel_input import without_pixel_input
from tokfilter.export.selection import node_graph, plain_graph, selections
from tokfilter.export.serving.nvinfer_config import (
    Normalisation,
    differences,
    normalisation_from_card,
    resize_keys,
    text_from_keys,
)
from tokfilter.export.serving.serving_graph import classifier_graph, outputs_of, require_same

__all__ = ["CONFIG", "DeepStreamClassifier", "DeepStreamOptions", "deepstream_classifier"]

CONFIG: Final = "config_infer.txt"
_GRAPH: Final = "model.onnx"
_LABELS: Final = "labels.txt"
_MODES: Final = {"fp32": "0", "fp16": "2"}
_FRAMES: Final = 2


@dataclass(frozen=True)
class DeepStreamOptions:
    """Options of the classifier.

    keep: budget; None is the model's default, 1.0 the full model
    precision: fp32 or fp16, as exported
    batch: frames per batch
    threshold: classes below this probability are not reported
    plugin: the self-registering plugin library; None for native operators
    strip_functions: leave the function body out of the graph, for the plugin on TensorRT before 10.7
    """

    keep: Keep | None = None
    precision: str = "fp32"
    batch: int = 1
    threshold: float = 0.0
    plugin: Path | None = None
    strip_functions: bool = False

    def __post_init__(self) -> None:
        if self.precision not in _MODES:
            raise ExportError(
                f"nvinfer runs {' and '.join(_MODES)}, got {self.precision!r}. Choose another --precision."
            )
        if self.batch < 1 or not 0 <= self.threshold < 1:
            raise ExportError(
                f"expected a batch of 1 or more and a threshold in [0, 1), got {self.batch}, {self.threshold}."
            )
        if self.strip_functions and self.plugin is None:
            raise ExportError("a graph without the function body needs the plugin: give --plugin, or keep the body.")
        if self.plugin is not None and not self.plugin.is_file():
            raise ExportError(
                f"--plugin must be the self-registering plugin library, but there is no file at {self.plugin}."
            )


@dataclass(frozen=True)
class DeepStreamClassifier:
    """A classifier that was written.

    tokens: patch tokens kept
    keys: the configuration
    differences: messages on how nvinfer's preprocessing differs from the model's
    """

    tokens: int
    keys: dict[str, str]
    differences: list[str]


def deepstream_classifier(
    source: str | Path, target: str | Path, options: DeepStreamOptions | None = None
) -> DeepStreamClassifier:
    """Write the folder ``target``, which must not exist.

    The rewritten graph with nvinfer's preprocessing is compared with the exported one with the model's.
    Raises DataError, EngineError (changed bytes), ExportError, BudgetError, VerificationError; then nothing is written.
    """
    source, options = Path(source), options or DeepStreamOptions()
    manifest = load_manifest(source)
    manifest.model.require_classifier("DeepStream's classifier")
    card = manifest.model
    tokens = card.keep if options.keep is None else tokens_from_keep(options.keep, card.num_patches)
    entry = _entry(manifest, tokens, options.precision)
    normalisation = normalisation_from_card(card.preprocessing)
    differing = differences(card.preprocessing)
    with new_folder(Path(target)) as folder, tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        original = checked_copy(source, entry, Path(scratch))
        graph = _with_budget(load_graph(original), entry, tokens, node=options.plugin is not None)
        graph = without_pixel_input(graph)  # nvinfer normalises the frames
        graph = classifier_graph(graph, normalisation.rest)
        save_graph(graph, folder / _GRAPH)
        _check(original, folder / _GRAPH, entry, tokens, card, normalisation)
        if options.strip_functions:
            save_graph(without_functions(graph), folder / _GRAPH)
        keys = _keys(card, normalisation, options, folder)
        about = f"{card.architecture}, {tokens} of {card.num_patches} tokens, from {entry.path}"
        (folder / CONFIG).write_text(text_from_keys(keys, [about, *differing]), encoding="utf-8")
    return DeepStreamClassifier(tokens, keys, differing)


def _with_budget(graph: ir.Model, entry: Entry, tokens: int, node: bool) -> ir.Model:
    """A graph with a fixed budget, and the node TokenSelect for the plugin or operators in its place."""
    if entry.role == "full":
        return graph
    plain = bool(selections(graph))
    graph = node_graph(graph)
    if entry.budget is None:
        graph = fixed_graph_from_slots(graph, tokens)
    elif plain:
        graph = with_function(graph)
    return graph if node else plain_graph(graph)


def _entry(manifest: Manifest, tokens: int, precision: str) -> Entry:
    """The graph to rewrite: the one for this budget, else the one for any."""
    role: Role = "full" if tokens == manifest.model.num_patches else "filtered"
    graphs = [entry for entry in manifest.entries(role, "onnx") if entry.precision == precision]
    fitting = [e for e in graphs if e.budget == tokens] + [e for e in graphs if e.budget is None]
    if not fitting:
        raise ExportError(
            f"the export directory holds no {role} ONNX graph in {precision} for {tokens} tokens. Export again."
        )
    return fitting[0]


def _keys(card: ModelCard, normalisation: Normalisation, options: DeepStreamOptions, folder: Path) -> dict[str, str]:
    """The group [property], with paths relative to the file; writes labels and plugin into ``folder``."""
    _, height, width = card.input_size
    names = card.class_names or [f"class {index}" for index in range(card.classes)]
    # One line for the one output, its labels separated by semicolons.
    (folder / _LABELS).write_text(
        ";".join(" ".join(n.replace(";", ",").split()) for n in names) + "\n", encoding="utf-8"
    )
    keys = {
        "gpu-id": "0",
        "gie-unique-id": "1",
        "process-mode": "1",
        "network-type": "1",
        "onnx-file": _GRAPH,
        "model-engine-file": f"{_GRAPH}_b{options.batch}_gpu0_{options.precision}.engine",
        "labelfile-path": _LABELS,
        "batch-size": str(options.batch),
        "network-mode": _MODES[options.precision],
        "infer-dims": f"3;{height};{width}",
        "output-blob-names": "probabilities",
        "classifier-threshold": f"{options.threshold:g}",
        "model-color-format": "0",
        "net-scale-factor": repr(normalisation.factor),
        "offsets": ";".join(repr(value) for value in normalisation.offsets),
        **resize_keys(card.preprocessing),
    }
    if options.plugin is not None:
        shutil.copyfile(options.plugin, folder / options.plugin.name)
        keys["custom-lib-path"] = options.plugin.name
    return keys


def _check(
    original: Path, written: Path, entry: Entry, tokens: int, card: ModelCard, normalisation: Normalisation
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (_FRAMES, *card.input_size), dtype=np.uint8)
    mean, std = card.preprocessing["mean"], card.preprocessing["std"]
    feeds: dict[str, npt.NDArray[Any]] = {"images": in_form(normalise(pixels, mean, std), card.input, mean, std)}
    if entry.role == "filtered" and entry.budget is None:
        feeds["slots"] = np.zeros(tokens, np.int32)
    expected = outputs_of(original, entry.precision, feeds)["logits"].astype(np.float64)
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    offsets = np.array(normalisation.offsets, np.float32)[:, None, None]
    frames = np.float32(normalisation.factor) * (pixels - offsets)
    found = outputs_of(written, entry.precision, {"images": frames})["probabilities"]
    require_same(written, found, powers / powers.sum(axis=1, keepdims=True), entry.precision)
