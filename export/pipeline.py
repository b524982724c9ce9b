"""`tokfilter export`: write a directory of graphs, engines, golden tensors and a manifest from a bundle."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from tokfilter import __version__
from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.later import LaterChoices
from tokfilter.artifacts.manifest import GOLDEN_FILE, Entry, Manifest, ModelCard, entry_from_file
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.pixels import InputForm
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.export.auto_fp32 import checked_graphs
from tokfilter.export.card import card_from_bundle, metadata_from_card
from tokfilter.export.contrib.walk import Fused
from tokfilter.export.cpu_form import STEPS_OF, for_cpu
from tokfilter.export.directory import new_directory
from tokfilter.export.engine_gate import EngineCheck
from tokfilter.export.engines import PLUGIN_SUFFIX, TIMING_CACHE, engines_from_graphs
from tokfilter.export.forms import Form
from tokfilter.export.fp32_search import nodes_of
from tokfilter.export.graph import (
    fixed_graph_from_slots,
    full_graph_from_model,
    full_graph_from_slots,
    slots_graph_from_model,
    without_functions,
)
from tokfilter.export.means import means_as_sums
from tokfilter.export.onnx_file import load_graph, save_graph
from tokfilter.export.onnxruntime_cuda import cuda_graph_from_form, fusions_as_dict, slots_graph_for_cuda
from tokfilter.export.options import ExportOptions, Precision
from tokfilter.export.pixel_input import with_pixel_input
from tokfilter.export.plugin_graphs import named_in, plain_forms, plugin_forms
from tokfilter.export.precision import LOW_TYPES
from tokfilter.export.quantize.quantizer import Quantizer, check_options
from tokfilter.export.reducer_options import check_reducer_options, limits_of
from tokfilter.export.reference import (
    ImageSet,
    Reference,
    check_golden,
    golden_at,
    golden_image_set,
    golden_on_pixels,
    image_set_from_folder,
)
from tokfilter.export.tensorrt8_forms import forms_for_tensorrt8
from tokfilter.export.verify import Check, budgets_to_check, check_graph, report_from_checks, require_passed
from tokfilter.export.versions import package_versions
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.golden import later_from_model
from tokfilter.vit.model import FilteredViT

__all__ = ["export_bundle"]

Progress = Callable[[str], None]

_SUFFIXES: Final = {"onnx-cuda": ".cuda", "onnx-plugin": PLUGIN_SUFFIX}


def export_bundle(
    bundle_path: str | Path,
    directory: str | Path,
    options: ExportOptions | None = None,
    progress: Progress = lambda _: None,
    checked: Callable[[Check], None] = lambda _: None,
    check_engine: EngineCheck | None = None,
) -> Manifest:
    """Write ``directory`` from the bundle at ``bundle_path``.

    progress: called with the name of each step
    checked: called with each verification result
    check_engine: compares an engine with the golden tensors; without it the manifest says that this was not done
    Raises ExportError, BudgetError, VerificationError (nothing is written), MissingDependencyError (the graphs are
    written, the engine is not), EngineError.
    """
    options = options or ExportOptions()
    path = Path(bundle_path)
    bundle = load_bundle(path)
    model = model_from_bundle(bundle)
    check_options(options, model.output_name)
    check_reducer_options(model, options)
    check_golden(bundle, model)
    if options.input != "float":
        bundle = replace(bundle, golden=golden_on_pixels(bundle, model))
    source = {"name": path.name, "sha256": sha256(path)}
    with new_directory(Path(directory)) as folder, Quantizer(bundle, model, options, progress) as quantizer:
        progress("tracing the model")
        traced = slots_graph_from_model(model, options.opset)
        full = full_graph_from_model(model, traced, options.opset)
        card = card_from_bundle(bundle, model, traced, full, options)
        graphs_of = _GraphsOf(traced, full, model)
        write = partial(_write_graphs, folder, graphs_of, quantizer, card, source, options, progress)
        folders = [options.verify_images] if options.verify_images and options.verify else []
        others = [image_set_from_folder(path, bundle.preprocessing, options.input) for path in folders]
        check = _checker(folder, bundle, model, options, others, progress)
        entries: list[Entry] = []
        checks: list[Check] = []
        for precision in options.precisions:
            graphs, results = checked_graphs(precision, traced, write, check, options, progress, quantizer.fitted)
            entries += graphs
            for result in results:
                checked(result)
                checks.append(result)
        repairable = [e.path for e in entries if e.precision in LOW_TYPES and not options.auto_fp32]
        require_passed(checks, repairable, model.output_name)
        bundle = replace(bundle, golden=golden_at(bundle, model, options.budgets(model.num_patches)))
        later = later_from_model(model, bundle.golden.images, bundle.golden.indices)
        np.savez(folder / GOLDEN_FILE, **_arrays(bundle, options.input), **_later_arrays(later))
        report: dict[str, Any] = report_from_checks(checks) if options.verify else {"skipped": "--no-verify was given"}
        if damaged := [text for image_set in others for text in image_set.damaged]:
            report["damaged"] = damaged
        if quantizer.records:
            report["quantization"] = quantizer.records
        manifest = Manifest(
            model=card,
            files=[*entries, entry_from_file(folder, GOLDEN_FILE, "golden")],
            source=source,
            opset=options.opset,
            versions=package_versions(),
            verification=report,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        graphs = [entry for entry in entries if entry.runtime in ("onnx", "onnx-plugin")]
        engines, failure = _engines(folder, Path(directory), manifest, graphs, options, progress, check_engine)
        if options.strip_functions:
            entries = [_stripped(folder, entry) if entry.runtime == "onnx-plugin" else entry for entry in entries]
        manifest = replace(manifest, files=[*entries, *manifest.entries("golden"), *engines])
        (folder / MANIFEST).write_text(manifest.text(), encoding="utf-8")
    if failure is not None:
        raise type(failure)(f"{failure} The graphs are written to {directory}.") from failure
    return manifest


def _engines(
    folder: Path,
    target: Path,
    manifest: Manifest,
    graphs: list[Entry],
    options: ExportOptions,
    progress: Progress,
    check: EngineCheck | None,
) -> tuple[list[Entry], EngineError | MissingDependencyError | None]:
    """The engines, and the error that stopped the build: the graphs are written without them."""
    if options.trt and (target / TIMING_CACHE).is_file():
        shutil.copy2(target / TIMING_CACHE, folder / TIMING_CACHE)
    built: dict[str, Entry] = {}
    failure = None
    try:
        for entry in engines_from_graphs(folder, manifest, graphs, options, progress, check):
            built[entry.path] = entry
    except (EngineError, MissingDependencyError) as error:
        failure = error
    return [entry for entry in built.values() if (folder / entry.path).is_file()], failure


def _stripped(folder: Path, entry: Entry) -> Entry:
    path = folder / entry.path
    graph = without_functions(load_graph(path))
    save_graph(graph, path)
    return replace(entry, sha256=sha256(path), bytes=path.stat().st_size)


@dataclass(frozen=True)
class _GraphsOf:
    """The traced forms of a model, in fp32.

    full: with every token
    """

    slots: ir.Model
    full: ir.Model
    model: FilteredViT

    def forms(self, make: Callable[[ir.Model], ir.Model], options: ExportOptions) -> Iterator[Form]:
        """All forms in one precision and input form, into which ``make`` turns a traced one."""
        reducer, patches = self.model.drop, self.model.num_patches
        slots = make(self.slots)
        details: dict[str, Any] = {"role": "filtered", "runtime": "onnx"}
        limits = limits_of(self.model)
        yield "model", slots, details if limits is None else details | {"budget_range": limits}
        for k in options.budgets(patches):
            yield f"model.k{k}", fixed_graph_from_slots(slots, k), details | {"budget": k}
        # The full form of a filter shares its types and weights with the slots form.
        full = full_graph_from_slots(slots, patches) if reducer.name == "filter" else make(self.full)
        yield "full", full, {"role": "full", "runtime": "onnx"}


def _write_graphs(
    folder: Path,
    graphs_of: _GraphsOf,
    quantizer: Quantizer,
    card: ModelCard,
    source: dict[str, str],
    options: ExportOptions,
    progress: Progress,
    precision: Precision,
    kept_fp32: dict[str, Any],
) -> Iterator[Entry]:
    kept = nodes_of(kept_fp32)
    mean, std = card.preprocessing["mean"], card.preprocessing["std"]

    def on_input(graph: ir.Model) -> ir.Model:
        return with_pixel_input(graph, card.input, mean, std)

    with_node = list(graphs_of.forms(lambda traced: on_input(quantizer.graph(traced, precision, kept)), options))
    with_node = [(name, means_as_sums(graph), details) for name, graph, details in with_node]
    # One form for the plain graphs and those with the node: TensorRT builds full engines from the first and filtered
    # ones from the second, and compared engines must compute the same rows in the last block.
    stepped = list(_cpu_forms(with_node, STEPS_OF.get(precision, ())))
    forms: list[Iterable[Form]] = [plain_forms(stepped)]
    if options.with_plugin_graphs:
        forms.append(plugin_forms(stepped))
    if precision == "fp32":
        forms.append(forms_for_tensorrt8(with_node, options.tensorrt8))
    if options.cuda:
        slots, fused = slots_graph_for_cuda(graphs_of.slots, precision, kept)
        forms.append(_cuda_forms(graphs_of.forms(lambda _: on_input(slots), options), fused))
    for name, graph, details in chain(*forms):
        name += "" if precision == "fp32" else f".{precision}"
        name += f"{_SUFFIXES.get(details['runtime'], '')}.onnx"
        progress(f"writing {name}")
        graph.producer_name, graph.producer_version = "tokfilter", __version__
        graph.metadata_props.update(metadata_from_card(card, source, precision, details.get("budget")))
        weights = {path.name: sha256(path) for path in save_graph(graph, folder / name)[1:]}
        details |= {"precision": precision, "external": weights, "kept_fp32": named_in(graph, kept_fp32)}
        yield entry_from_file(folder, name, **details)


def _cpu_forms(forms: Iterable[Form], steps: tuple[str, ...]) -> Iterator[Form]:
    """The forms for engines on a CPU; as they are where there are no steps."""
    return ((name, for_cpu(graph, steps) if steps else graph, details) for name, graph, details in forms)


def _cuda_forms(forms: Iterable[Form], before: list[Fused]) -> Iterator[Form]:
    """The forms fused for ONNX Runtime's CUDA provider; ``before`` was fused in all of them already."""
    for name, form, details in forms:
        graph, fused = cuda_graph_from_form(form)
        yield name, graph, details | {"runtime": "onnx-cuda", "target": fusions_as_dict([*before, *fused])}


def _checker(
    folder: Path,
    bundle: Bundle,
    model: FilteredViT,
    options: ExportOptions,
    others: list[ImageSet],
    progress: Progress,
) -> Callable[[list[Entry]], Iterator[Check]]:
    """What compares graphs with torch, whose outputs are computed once; no checks where none are asked for."""
    if not options.verify:
        return lambda entries: iter(())
    reference, golden = Reference(model), golden_image_set(bundle, options.input)
    reference.trust(bundle, golden)
    limits = model.drop.smallest, model.drop.largest
    budgets = budgets_to_check(bundle.golden.logits, model.keep_tokens, model.num_patches, limits)

    def check(entries: list[Entry]) -> Iterator[Check]:
        for entry in entries:
            progress(f"verifying {entry.path}")
            yield from check_graph(folder, entry, reference, golden, others, budgets)

    return check


def _later_arrays(later: Mapping[int, LaterChoices]) -> dict[str, Any]:
    return {name: array for k, choices in later.items() for name, array in choices.arrays(k).items()}


def _arrays(bundle: Bundle, form: InputForm) -> dict[str, Any]:
    golden = bundle.golden
    arrays = {"scores": golden.scores, "full": golden.full}
    for k, logits in golden.logits.items():
        arrays[f"logits_{k}"], arrays[f"indices_{k}"] = logits, golden.indices[k]
    images = golden_image_set(bundle, form).inputs
    return {"images": images, **{name: value.numpy() for name, value in arrays.items()}}
