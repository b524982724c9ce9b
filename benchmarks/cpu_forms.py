"""Forms of a graph and options of ONNX Runtime on a CPU, in pairs: ``python -m tokfilter.benchmarks cpu-forms``.

The model has random weights. Each step of ``export/cpu_form.py`` is compared with the traced graph, and each session
option with none, in the same rounds; results are compared first. With one thread the clock is the processor time of
the calling thread, which other load on the machine hardly changes. A profile says where the rest of the speed-up is.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from tokfilter.artifacts.bundle import Architecture
from tokfilter.artifacts.compare import TOLERANCES, compare_logits
from tokfilter.benchmarks.cpu_profile import profiled_ms
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.errors import VerificationError
from tokfilter.export.cpu_form import STEPS, for_cpu
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, slots_graph_from_model
from tokfilter.export.graph_stats import lengths_of, macs
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.shapes import infer_shapes
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import speedup_from_pairs
from tokfilter.runtime.onnxruntime_session import imported_onnxruntime
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT

__all__ = ["OPTIONS", "measure", "measure_products", "ratios"]

OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "graph_optimization_level = EXTENDED": {"graph_optimization_level": "ORT_ENABLE_EXTENDED"},
    "graph_optimization_level = BASIC": {"graph_optimization_level": "ORT_ENABLE_BASIC"},
    "execution_mode = PARALLEL": {"execution_mode": "ORT_PARALLEL"},
    "enable_cpu_mem_arena = False": {"enable_cpu_mem_arena": False},
    "enable_mem_pattern = False": {"enable_mem_pattern": False},
    "session.disable_prepacking = 1": {"session.disable_prepacking": "1"},
    "session.set_denormal_as_zero = 1": {"session.set_denormal_as_zero": "1"},
    "session.dynamic_block_base = 4": {"session.dynamic_block_base": "4"},
}
"""Name -> attributes of SessionOptions, and with a dot its config entries."""

_PRODUCTS: Final = 12
"""Weights of a product that is measured: as many as a ViT has blocks, so that none stays in the cache."""


def _session(graph: Path | bytes, threads: int, options: Mapping[str, Any] | None = None) -> Any:
    onnxruntime = imported_onnxruntime()
    found = onnxruntime.SessionOptions()
    found.log_severity_level, found.intra_op_num_threads, found.inter_op_num_threads = 3, threads, 1
    found.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in (options or {}).items():
        kind = {"execution_mode": "ExecutionMode", "graph_optimization_level": "GraphOptimizationLevel"}.get(name)
        if "." in name:
            found.add_session_config_entry(name, value)
        else:
            setattr(found, name, value if kind is None else getattr(getattr(onnxruntime, kind), value))
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, found, providers=["CPUExecutionProvider"])


def ratios(
    sessions: Mapping[str, Any], feeds: Mapping[str, Any], rounds: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """The first session over each other, in rounds of one call each, forwards and backwards in turn.

    Raises VerificationError where the logits differ by more than the tolerance of fp32.
    """
    names, times = list(sessions), {name: np.empty(rounds) for name in sessions}
    expected = sessions[names[0]].run(None, feeds)[0]
    for name in names:
        problems = compare_logits(sessions[name].run(None, feeds)[0], expected, TOLERANCES["fp32"]).errors
        if problems:
            raise VerificationError(f"{name}: compared with {names[0]}, {'; '.join(problems)}.")
    for index in range(rounds):
        for name in names if index % 2 else names[::-1]:
            start = clock()
            sessions[name].run(None, feeds)
            times[name][index] = clock() - start
    return [
        {
            "name": name,
            "median_ms": float(np.median(times[name])) * 1000,
            "speedup": asdict(speedup_from_pairs(times[names[0]].tolist(), times[name].tolist())),
        }
        for name in names
    ]


def measure_products(rows: Sequence[int], width: int, threads: int, rounds: int) -> list[dict[str, float]]:
    """Milliseconds of x [rows, width] times w [width, 4 * width], each weight read once a call."""
    numbers = np.random.default_rng(0)
    weights = [numbers.standard_normal((width, 4 * width), np.float32) for _ in range(_PRODUCTS)]
    shape = [[None, width], [None, 4 * width]]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(_PRODUCTS)],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape[0])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, shape[1]) for i in range(_PRODUCTS)],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session, clock = _session(model.SerializeToString(), threads), _clock(threads)
    times = np.empty((rounds, len(rows)))
    inputs = [np.ones((count, width), np.float32) for count in rows]
    for index in range(-1, rounds):  # the first round is a warm-up
        for column, x in enumerate(inputs):
            start = clock()
            session.run(None, {"x": x})
            times[index, column] = clock() - start
    usual = np.quantile(times, 0.1, axis=0) * 1000 / _PRODUCTS
    return [{"rows": count, "ms": float(ms)} for count, ms in zip(rows, usual, strict=True)]


def _clock(threads: int) -> Callable[[], float]:
    return time.thread_time if threads == 1 else time.perf_counter


def measure(
    model: FilteredViT,
    threads: int,
    rounds: int,
    batches: Sequence[int],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """What the document says of ``model`` at its budget. Raises ExportError, VerificationError."""
    progress("tracing")
    traced = slots_graph_from_model(model)
    half = model.keep_tokens
    forms = {"full": full_graph_from_slots(traced, model.num_patches), "half": fixed_graph_from_slots(traced, half)}
    shaped = {role: infer_shapes(form.clone()) for role, form in forms.items()}
    counts = {role: macs(form, lengths_of(form)) for role, form in shaped.items()}
    size = (3, *model.backbone.patch_embed.img_size)
    taken: dict[str, Any] = {"forms": [], "options": [], "profiles": []}
    before = conditions()
    with tempfile.TemporaryDirectory(prefix="tokfilter-cpu-forms-") as folder:
        files = {
            (role, "traced" if not count else STEPS[count - 1]): Path(folder) / f"{role}{count}.onnx"
            for role in forms
            for count in range(len(STEPS) + 1)
        }
        for position, ((role, _), path) in enumerate(files.items()):
            count = position % (len(STEPS) + 1)
            save_graph(for_cpu(forms[role], STEPS[:count]) if count else forms[role], path)
        for batch in batches:
            feeds = {"images": np.random.default_rng(0).standard_normal((batch, *size), np.float32)}
            fewer = max(3, rounds // batch)
            for role in forms:
                progress(f"forms, {role}, batch {batch}")
                sessions = {step: _session(path, threads) for (which, step), path in files.items() if which == role}
                rows = ratios(sessions, feeds, fewer, _clock(threads))
                taken["forms"] += [{"tokens": role, "batch": batch, **row} for row in rows]
                kinds = profiled_ms(files[role, STEPS[-1]], feeds, threads, fewer)
                taken["profiles"].append({"tokens": role, "batch": batch, "ms": kinds})
            progress(f"session options, batch {batch}")
            best = files["half", STEPS[-1]]
            sessions = {"defaults": _session(best, threads)}
            sessions |= {name: _session(best, threads, chosen) for name, chosen in OPTIONS.items()}
            taken["options"] += [{"batch": batch, **row} for row in ratios(sessions, feeds, fewer, _clock(threads))]
    progress("products")
    lengths = [1, half + model.prefix_tokens, model.num_patches + model.prefix_tokens]
    taken["products"] = measure_products(lengths, model.channels, threads, rounds)
    return {
        "threads": threads,
        "tokens": {"full": model.num_patches, "half": half},
        "clock": "processor time of the calling thread" if threads == 1 else "wall time",
        "macs": counts,
        **taken,
        "conditions": {"before": before, "after": conditions()},
    }


@click.command("cpu-forms")
@click.option("--architecture", default="deit_small_patch16_224", show_default=True, help="Name in timm.")
@threads_option(1, "Threads of ONNX Runtime.")
@click.option("--rounds", type=click.IntRange(min=3), default=40, show_default=True, help="Rounds at batch 1.")
@json_option
@output_option(RESULTS / "cpu_forms.json")
def main(architecture: str, threads: int, rounds: int, as_json: bool, output: Path) -> None:
    """Forms and session options in ONNX Runtime on a CPU, against none, in the same rounds."""
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(Architecture(architecture)), keep=0.5).eval()
    taken = measure(model, threads, rounds, (1, 8), lambda text: click.echo(text, err=True))
    document = {**header("cpu-forms", command_line()), "architecture": architecture, **taken}
    lines = [
        f"{row['speedup']['value']:.3f} [{row['speedup']['low']:.3f}, {row['speedup']['high']:.3f}]  "
        f"batch {row['batch']}  {row.get('tokens', 'half')}  {row['name']}"
        for row in [*document["forms"], *document["options"]]
    ]
    publish(document, output, as_json, lines)
